"""A fleet over RabbitMQ and PostgreSQL: an API, an engine and agents in Rust, and agents in Python. Its trace
is whole, its agents end in order, and it tells no secret."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import LIMIT
from postgres import Postgres
from rabbitmq import RabbitMq

pytest.importorskip("opentelemetry.proto")

from collector import Collector
from opentelemetry.proto.trace.v1.trace_pb2 import Span

RUNS = 20
#: Secrets that are planted, and must be in no log, trace, metric or error.
SECRETS = {
    name: f"planted-{name}-5e0d1f6a"
    for name in ("store", "broker", "key", "model", "collector", "prompt")
}
#: Spans of a run without a lost attempt: the request, the run, the task, its attempt and a timer.
SPANS = 5
#: The span of the caller, in whose trace all runs are started.
CALLER = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")

PROGRAM = """
import asyncio, logging
import aios

logging.basicConfig(level=logging.DEBUG)

@aios.agent("greeter")
async def greet(context: aios.TaskContext, name: str) -> str:
    logging.getLogger("shop").info("greeting in %s", context.task_id)
    await asyncio.sleep(0.05)
    with open("done", "a") as file:
        file.write(f"{context.task_id} {context.traceparent}\\n")
    return f"Hello, {name}!"

class Runtime(aios.Runtime):
    async def open(self) -> None:
        await super().open()
        print("ready", flush=True)

aios.serve(Runtime(**aios.Settings.load().runtime_options(), agents=[greet]))
print("stopped")
"""


class Answer(NamedTuple):
    status: int
    body: str


class Part:
    """A process, whose output goes to a file."""

    def __init__(self, folder: Path, command: list[str], environment: dict[str, str]) -> None:
        self._path = folder / f"log-{len(list(folder.glob('log-*')))}"
        with self._path.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    @property
    def output(self) -> str:
        return self._path.read_text()

    def wait_for(self, text: str) -> str:
        """The rest of the first line that begins with a text."""

        def lines() -> list[str]:
            assert self.process.poll() is None, self.output
            return [line for line in self.output.splitlines() if line.startswith(text)]

        wait(f"a line with {text}", lines)
        return lines()[0].removeprefix(text)

    def stop(self) -> None:
        """Sends SIGTERM. The process ends with success."""
        self.process.terminate()
        assert self.process.wait(LIMIT) == 0, self.output
        assert self.output.endswith("stopped\n"), self.output

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Fleet:
    """The servers, the collector, and processes that log everything."""

    def __init__(self, folder: Path, service: str) -> None:
        self.folder, self.service = folder, service
        self.postgres, self.rabbitmq = Postgres(), RabbitMq(SECRETS["broker"])
        self.collector = Collector()
        self.parts: list[Part] = []
        self.program = folder / "program.py"
        self.program.write_text(PROGRAM)
        self.api = ""

    def start(self, roles: str, *command: str) -> Part:
        store = self.postgres.url.replace("aios@", f"aios:{SECRETS['store']}@")
        environment = {
            **os.environ,
            "AIOS_PROCESS_ROLES": roles,
            "AIOS_DATABASE_URL": store,
            "AIOS_BROKER_URL": self.rabbitmq.url,
            "AIOS_HTTP_LISTEN": "127.0.0.1:0",
            "AIOS_LOG_LEVEL": "debug",
            "AIOS_ANTHROPIC_API_KEY": SECRETS["model"],
            "AIOS_TELEMETRY_TRACES__ENDPOINT": self.collector.url,
            "AIOS_TELEMETRY_TRACES__HEADERS__X_API_KEY": SECRETS["collector"],
        }
        if not command:
            key = hashlib.sha256(SECRETS["key"].encode()).hexdigest()
            environment["AIOS_ACCESS_KEY_HASH"] = key
        self.parts.append(Part(self.folder, list(command) or [self.service], environment))
        return self.parts[-1]

    def rust(self, roles: str) -> Part:
        part = self.start(roles)
        address = part.wait_for("http://")
        if roles == "api":
            self.api = f"http://{address}"
        return part

    def python_agents(self) -> Part:
        part = self.start("agents", sys.executable, str(self.program))
        part.wait_for("ready")
        return part

    def ask(self, path: str, body: Any = None, key: str = SECRETS["key"]) -> Answer:
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", "x-api-key": key}
        headers["traceparent"] = f"00-{CALLER[0]}-{CALLER[1]}-01"
        request = urllib.request.Request(self.api + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return Answer(response.status, response.read().decode())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read().decode())

    def run(self, number: int) -> None:
        body = {"input": f"Ada {SECRETS['prompt']}", "run_id": f"run-{number}"}
        answer = self.ask("/api/v1/workflows/welcome/actions/execute", body)
        assert answer.status == 202, answer

    def close(self) -> None:
        for part in self.parts:
            part.kill()
        self.rabbitmq.stop()
        self.postgres.stop()
        self.collector.shutdown()


def wait(what: str, holds: Callable[[], object]) -> None:
    until = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < until, what
        time.sleep(0.02)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    default = Path(__file__).parents[2] / "target" / "debug" / "service"
    service = Path(os.environ.get("AIOS_SERVICE", default)).resolve()
    if not service.exists():
        if os.environ.get("AIOS_REQUIRE_SERVICES") == "1":
            pytest.fail(f"{service} does not exist")
        pytest.skip(f"{service} does not exist; build it with `cargo build --bin service`")
    fleet = Fleet(tmp_path, str(service))
    yield fleet
    fleet.close()


def test_should_be_one_whole_trace_and_tell_no_secret(fleet: Fleet) -> None:
    engine = fleet.rust("engine")
    fleet.rust("api")
    fleet.rust("agents")
    agents = fleet.python_agents()
    done = fleet.folder / "done"
    for number in range(RUNS // 2):
        fleet.run(number)
    wait("a task in Python", done.exists)
    engine.kill()
    for number in range(RUNS // 2, RUNS):
        fleet.run(number)
    fleet.rust("engine")
    # Agents that are replaced under load end their tasks and begin no others.
    successor = fleet.python_agents()
    agents.stop()
    greeting = f"Hello, Ada {SECRETS['prompt']}!"
    for number in range(RUNS):
        assert greeting in fleet.ask(f"/api/v1/runs/run-{number}/result?wait=30s").body
    wait("the spans of every run", lambda: ended(fleet.collector.spans) == RUNS)
    tasks = [line.split() for line in done.read_text().splitlines()]
    repeated = [task for task, count in Counter(task for task, _ in tasks).items() if count > 1]
    assert repeated == [] and len(tasks) < RUNS, "agents in Rust have done the others"
    check_trace(fleet.collector.spans, [traceparent for _, traceparent in tasks])
    successor.stop()
    check_secrets(fleet)


def ended(spans: list[Span]) -> int:
    """How many runs have their span, and the span of their request."""
    names = Counter({span.span_id: span.name for span in spans}.values())
    requests = sum(count for name, count in names.items() if name.startswith("POST"))
    return min(names["workflow welcome"], requests)


def check_trace(spans: list[Span], in_agents: list[str]) -> None:
    """Every span is there once, with its parent. The engine that was killed may have sent spans that the
    next one sent again; they are the same."""
    known = {span.span_id: span for span in spans}
    assert all(known[span.span_id] == span for span in spans), "the same id, and other content"
    own = [span for span in known.values() if not span.name.startswith("GET")]
    assert {span.trace_id.hex() for span in own} == {CALLER[0]}
    parents = {span.parent_span_id for span in own}
    assert parents - set(known) == {bytes.fromhex(CALLER[1])}, "all other parents are present"
    names = Counter(span.name for span in own)
    for name in ("workflow welcome", "task greeter", "timer"):
        assert names[name] == RUNS, names
    attempts = names["task greeter attempt"]
    assert attempts >= RUNS and len(own) == RUNS * (SPANS - 1) + attempts, names
    # The contexts that agents in Python got are spans of the trace.
    contexts = [text.split("-")[1:3] for text in in_agents]
    assert all(
        trace == CALLER[0] and known[bytes.fromhex(span)].name == "task greeter attempt"
        for trace, span in contexts
    )
    print(
        f"one trace of {len(known)} spans, {len(spans) - len(known)} sent twice; "
        f"{len(contexts)} of {RUNS} tasks in Python"
    )


def check_secrets(fleet: Fleet) -> None:
    fleet.ask("/api/v1/runs", key=SECRETS["key"] + "x")
    refused = fleet.ask("/api/v1/runs?token=" + SECRETS["key"], key="wrong")
    missing = fleet.ask("/api/v1/workflows/missing/actions/execute", {"input": SECRETS["prompt"]})
    assert (refused.status, missing.status) == (401, 404), (refused, missing)
    # A process whose store does not answer.
    url = f"postgres://aios:{SECRETS['store']}@127.0.0.1:1/aios?connect_timeout=1"
    failing = subprocess.run(
        [fleet.service],
        env={**os.environ, "AIOS_DATABASE_URL": url, "AIOS_BROKER_URL": fleet.rabbitmq.url},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert failing.returncode != 0
    told = {
        "errors": refused.body + missing.body + failing.stdout + failing.stderr,
        "metrics": fleet.ask("/metrics").body,
        "traces": "".join(body.decode(errors="replace") for body in fleet.collector.bodies),
        **{f"log {number}": part.output for number, part in enumerate(fleet.parts)},
    }
    # Agents that were given no task have little to log, but each process logs that it is ready.
    assert all(told.values()), {it: len(text) for it, text in told.items()}
    assert all(len(told[it]) > 100 for it in ("errors", "metrics", "traces", "log 0"))
    found = [
        (place, name) for place, text in told.items() for name, it in SECRETS.items() if it in text
    ]
    assert found == []
    print(f"{len(SECRETS)} secrets in none of {sum(map(len, told.values()))} characters")
