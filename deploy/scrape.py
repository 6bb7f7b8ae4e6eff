"""Starts a service and a Prometheus that scrapes it, and executes every query of the board and every
alert: each query has data, and each expression is valid.

    deploy/scrape.py target/debug/service

The service has a SQLite store and a broker in memory. Prometheus is a package of the system.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml

MONITORING = Path(__file__).resolve().parent / "monitoring"
#: How long data may take to arrive, in seconds.
LIMIT = 90


def free_address() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


def ask(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def query(prometheus: str, expression: str) -> list[Any]:
    """The result of an expression. Fails with the error of Prometheus if it is not valid."""
    parameters = urllib.parse.urlencode({"query": expression})
    try:
        answer = ask(f"http://{prometheus}/api/v1/query?{parameters}")
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{expression}: {error.read().decode()}") from error
    return answer["data"]["result"]


def wait_until(ready: Any, fault: Any) -> None:
    until = time.monotonic() + LIMIT
    while not ready():
        if time.monotonic() > until:
            raise SystemExit(fault())
        time.sleep(0.5)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def has_data(result: list[Any]) -> bool:
    return any(series["value"][1] != "NaN" for series in result)


def check(service: str, prometheus: str) -> None:
    wait_until(
        lambda: answers(f"http://{service}/health/ready"), lambda: "the service is not ready"
    )
    wait_until(lambda: answers(f"http://{prometheus}/-/ready"), lambda: "Prometheus is not ready")
    panels = json.loads((MONITORING / "board.json").read_text())["panels"]
    left = {
        panel["title"]: panel["targets"][0]["expr"].replace("$installation", ".*")
        for panel in panels
    }

    def all_have_data() -> bool:
        ask(f"http://{service}/api/v1/workflows/welcome/actions/execute", {"input": "Ada"})
        for title in [title for title, it in left.items() if has_data(query(prometheus, it))]:
            del left[title]
        return not left

    wait_until(all_have_data, lambda: f"panels without data: {left}")
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
    loaded = ask(f"http://{prometheus}/api/v1/rules")["data"]["groups"][0]["rules"]
    faults = [rule for rule in loaded if rule.get("lastError")]
    if faults or len(loaded) != len(rules):
        raise SystemExit(f"of {len(rules)} rules, {len(loaded)} are loaded, with faults: {faults}")
    print(f"board: {len(panels)} panels have data; {len(rules)} rules are evaluated")


def main(program: str) -> None:
    service, prometheus = free_address(), free_address()
    with tempfile.TemporaryDirectory() as folder:
        scrape = {"job_name": "aios", "static_configs": [{"targets": [service]}]}
        settings = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(MONITORING / "alerts.yaml")],
            "scrape_configs": [scrape],
        }
        (Path(folder) / "prometheus.yaml").write_text(yaml.safe_dump(settings))
        environment = {
            "AIOS_DATABASE_URL": f"sqlite://{folder}/service.db",
            "AIOS_BROKER_URL": "memory://",
            "AIOS_HTTP_LISTEN": service,
        }
        commands = [
            ([os.path.abspath(program)], environment),
            (
                [
                    "prometheus",
                    f"--config.file={folder}/prometheus.yaml",
                    f"--storage.tsdb.path={folder}/data",
                    f"--web.listen-address={prometheus}",
                    "--log.level=error",
                ],
                dict(os.environ),
            ),
        ]
        processes = [
            subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL)
            for command, env in commands
        ]
        try:
            check(service, prometheus)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(timeout=60)


if __name__ == "__main__":
    main(sys.argv[1])
