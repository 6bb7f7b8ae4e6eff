"""A review in two languages over RabbitMQ and PostgreSQL: a Rust workflow assigns tasks to agents in
Python, and a Python workflow to agents in Rust."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aios
import aios.sync
import pytest
from conftest import finish
from postgres import Postgres
from rabbitmq import RabbitMq

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    server = RabbitMq()
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    server = Postgres()
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def program() -> str:
    """The Rust example `code-review`, which has to be built before."""
    default = Path(__file__).parents[2] / "target" / "debug" / "code-review"
    path = Path(os.environ.get("AIOS_CODE_REVIEW", default)).resolve()
    if not path.exists():
        if os.environ.get("AIOS_REQUIRE_SERVICES") == "1":
            pytest.fail(f"{path} does not exist")
        pytest.skip(f"{path} does not exist; build it with `cargo build --bin code-review`")
    return str(path)


@contextmanager
def running(*command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Runs a program, stops it with SIGTERM in the end, and checks its exit status."""
    process = subprocess.Popen(
        command,
        cwd=EXAMPLES,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        status, output, errors = finish(process, 60)
    assert status == 0, output + errors


@contextmanager
def part(program: str, name: str, *arguments: str) -> Iterator[None]:
    """Starts a part of the Rust program, and waits until it is ready."""
    with running(program, name, *arguments) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{name} is ready\n"
        yield


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "package").mkdir(parents=True)
    (tree / "main.rs").write_text("// TODO: rust\nfn main() {}\n")
    (tree / "good.py").write_text("# TODO: python\ntext = '# TODO no'\n")
    (tree / "package" / "copy.py").write_text("# TODO: python\ntext = '# TODO no'\n")
    (tree / "long.py").write_text("async def long():\n" + "    x()\n" * 60)
    (tree / "broken.py").write_text("def (:\n")
    return tree


def test_should_assign_tasks_of_a_rust_workflow_to_python_agents(
    program: str, broker: str, store: str, tree: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    worker = (sys.executable, "-m", "aios", "worker", "python_analyzer:app", "--processes", "2")
    with ExitStack() as parts:
        parts.enter_context(part(program, "engine", "--store", store, "--broker", broker))
        parts.enter_context(part(program, "agent", "--broker", broker))
        parts.enter_context(running(*worker, BROKER=broker))
        command = [program, "start", str(tree), "--store", store, "--out", str(out)]
        ended = subprocess.run(
            [*command, "--python-agent"], capture_output=True, text=True, timeout=110, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["total"]["files"] == 4
    assert [language["language"] for language in report["languages"]] == ["Python", "Rust"]
    findings = {file["path"]: file["findings"] for file in report["findings"]}
    assert set(findings) == {"main.rs", "good.py", "package/copy.py", "long.py"}
    assert findings["good.py"] == {"markers": [{"line": 1, "mark": "TODO", "note": "python"}]}
    assert findings["long.py"]["long_functions"] == [{"line": 1, "name": "long", "lines": 61}]
    assert [one["paths"] for one in report["duplicates"]] == [["good.py", "package/copy.py"]]
    # Only Python's own parser finds this.
    assert [(one["path"], one["reason"]) for one in report["skipped"]] == [
        ("broken.py", "analysis_failed")
    ]
    assert (out / "report.md").read_text().startswith("# Code review\n")
    given = tasks_of(store, "code_review")
    assert given == {"scanner": 1, "analyzer": 1, "python_analyzer": 4, "reporter": 1}


def tasks_of(store: str, workflow: str) -> dict[str, int]:
    """Number of completed tasks per agent type of the only run of a workflow."""
    with aios.sync.Client(store) as client:
        (run,) = client.runs(workflow, statuses=["completed"]).rows
        tasks = client.tasks(run_id=run.id).rows
    assert all(task.status == "completed" for task in tasks)
    types = [task.agent_type for task in tasks]
    return {kind: types.count(kind) for kind in types}


def count(analyses: list[dict[str, Any]]) -> int:
    return sum(analysis["reviewed"]["lines"]["code"] for analysis in analyses)


@aios.workflow("line_count")
async def line_count(context: aios.WorkflowContext, root: str) -> dict[str, int]:
    context = context.with_retry(aios.RetryPolicy(max_attempts=20))
    tree = {"root": root, "own_files": {"out": root, "state": None}}
    scan = await context.task("scanner", tree, timeout=60)
    paths = [file["path"] for file in scan["files"]]
    analyses = await context.gather(
        *(context.task("analyzer", {"root": root, "path": path}, timeout=60) for path in paths)
    )
    return {"files": len(paths), "code": await context.step("count", count, analyses)}


async def test_should_assign_tasks_of_a_python_workflow_to_rust_agents(
    program: str, broker: str, store: str, tree: Path
) -> None:
    with part(program, "agent", "--broker", broker):
        async with aios.Runtime(store, broker, workflows=[line_count]) as runtime:
            run = await runtime.start(line_count, str(tree))
            assert await run.result() == {"files": 5, "code": 1 + 1 + 1 + 61 + 1}
            with pytest.raises(aios.InvalidParametersError) as raised:
                await runtime.call("analyzer", {"root": str(tree)})
        assert "path" in json.dumps(raised.value.details)
    assert tasks_of(store, "line_count") == {"scanner": 1, "analyzer": 5}
