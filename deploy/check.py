"""Checks the alerts: each fires and is quiet as it should, and the guide has it. Runs in ``.ci/deploy``."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

DEPLOY = Path(__file__).resolve().parent
GUIDE = DEPLOY.parent / "docs/guide/pages"

faults: list[str] = []


def expect(condition: bool, fault: str) -> None:
    if not condition:
        faults.append(fault)


def group_of_tests(rule: dict, series: dict, labels: dict | None) -> dict:
    """A test of promtool: the alert fires with these labels, or does not fire without any."""
    fired = []
    if labels is not None:
        fired = [{"exp_labels": labels | rule["labels"], "exp_annotations": rule["annotations"]}]
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": "30m", "alertname": rule["alert"], "exp_alerts": fired}],
    }


def check_alerts() -> None:
    path = DEPLOY / "monitoring/alerts.yaml"
    rules = yaml.safe_load(path.read_text())["groups"][0]["rules"]
    cases = yaml.safe_load((DEPLOY / "monitoring/alerts.cases.yaml").read_text())
    page, operating = ((GUIDE / name).read_text() for name in ("alerts.md", "operating.md"))
    tests = []
    for rule in rules:
        name, case = rule["alert"], cases[rule["alert"]]
        expect(f"\n## {name}\n" in page, f"{name} is not in alerts.md")
        expect(rule["annotations"]["runbook_url"].endswith(f"#{name.lower()}"), f"{name}: runbook_url")
        for metric in re.findall(r"aios_\w+", rule["expr"]):
            base = re.sub(r"_(bucket|count|sum)$", "", metric)
            expect(f"`{base}`" in operating, f"{name}: no metric has the name {base}")
        tests.append(group_of_tests(rule, case["fires"], case["labels"]))
        tests.append(group_of_tests(rule, case["quiet"], None))
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"rule_files": [str(path)], "tests": tests}, file)
        file.flush()
        ended = subprocess.run(
            ["promtool", "test", "rules", file.name], capture_output=True, text=True, timeout=60
        )
    expect(ended.returncode == 0, f"promtool: {ended.stdout}{ended.stderr}")
    print(f"alerts: {len(rules)}, {len(tests)} tests")


def main() -> int:
    check_alerts()
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
