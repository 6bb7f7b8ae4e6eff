"""`python -m aios` does what the settings say, or says that it does not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aios
import pytest
from conftest import finish

PROGRAM = """
import asyncio

import aios


@aios.agent("endless")
async def wait(context: aios.TaskContext) -> None:
    await asyncio.Event().wait()


@aios.agent("quick")
async def answer(context: aios.TaskContext) -> str:
    return "answered"


@aios.workflow("asks")
async def ask(context: aios.WorkflowContext) -> str:
    return await context.task("quick")


assistant = aios.LlmAgent("assistant", lambda request: "hello")


@aios.workflow("once")
async def once(context: aios.WorkflowContext) -> None:
    await context.task("endless", retry=aios.RetryPolicy(max_attempts=1))


def app(settings: aios.Settings) -> aios.Runtime:
    return aios.Runtime(**settings.runtime_options(), agents=[wait, answer, assistant], workflows=[once, ask])


plain = aios.Runtime(agents=[wait])
api = aios.asgi(aios.Runtime(agents=[wait]))
"""


class Process:
    """A process of `python -m aios`."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        (folder / "app.py").write_text(PROGRAM)
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aios", *arguments],
            cwd=folder,
            env={**os.environ, "AIOS_HTTP_LISTEN": "127.0.0.1:0", **variables},
            stderr=subprocess.PIPE,
            text=True,
        )

    def read_until(self, text: str) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError("".join(self.lines))

    def url(self) -> str:
        """The URL of the server, without a path."""
        found = re.search(r"listening on (http://[^/\s]+)", self.read_until("listening on"))
        assert found is not None
        return found[1]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def get(url: str, *arguments: str) -> tuple[int, str]:
    """Status and body of an answer."""
    command = ["curl", "-sS", "--max-time", "60", "-w", "\n%{http_code}", *arguments, url]
    body, _, status = subprocess.check_output(command, text=True).rpartition("\n")
    return int(status), body


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    processes: list[Process] = []

    def start(*arguments: str, **variables: str) -> Process:
        processes.append(Process(tmp_path, *arguments, **variables))
        return processes[-1]

    yield start
    for process in processes:
        if process.process.poll() is None:
            process.kill()


@pytest.mark.parametrize("app", ["app:app", "app:plain"])
def test_should_limit_requests(start: Any, app: str) -> None:
    variables = {
        "AIOS_DATABASE_URL": "memory:",
        "AIOS_HTTP_RATE_LIMIT__REQUESTS": "2",
        "AIOS_HTTP_RATE_LIMIT__PER": "1h",
        "AIOS_HTTP_MAX_BODY_BYTES": "100",
    }
    url = start("serve", app, **variables).url() + "/api/v1"
    task = json.dumps({"agent_type": "endless", "parameters": "x" * 100})
    assert get(f"{url}/tasks", "-X", "POST", "--json", task)[0] == 413
    assert get(f"{url}/runs")[0] == 200
    assert get(f"{url}/runs")[0] == 429


async def test_should_limit_attempts_of_tasks(start: Any) -> None:
    variables = {"AIOS_DATABASE_URL": "memory:", "AIOS_AGENT_TIMEOUT": "100ms"}
    url = start("serve", "app:app", **variables).url()
    async with aios.RemoteClient(f"{url}/api/v1") as client:
        with pytest.raises(aios.AiosError) as raised:
            await (await client.start("once")).result()
        assert raised.value.code == "TASK_TIMEOUT"


async def test_should_limit_attempts_of_a_runtime() -> None:
    import asyncio

    @aios.agent("endless")
    async def wait(context: aios.TaskContext) -> None:
        await asyncio.Event().wait()

    async with aios.Runtime(agents=[wait], agent_timeout=0.05) as runtime:
        once = aios.RetryPolicy(max_attempts=1)
        with pytest.raises(aios.RunFailedError) as raised:
            await (await runtime.task("endless", retry=once)).result()
        assert raised.value.code == "TASK_TIMEOUT"
    with pytest.raises(aios.ConfigurationError, match="agent_timeout"):
        aios.Runtime(agent_timeout=-1)


@pytest.mark.parametrize(
    ("roles", "store"), [("agents", None), ("engine, agents", "memory:"), ("engine", "memory:")]
)
def test_should_serve_health_alone_without_an_api(start: Any, roles: str, store: Any) -> None:
    variables = {"AIOS_PROCESS_ROLES": roles}
    if store is not None:
        variables["AIOS_DATABASE_URL"] = store
    url = start("serve", "app:app", **variables).url()
    for probe in ("live", "ready", "startup"):
        assert get(f"{url}/health/{probe}")[0] == 200
    assert get(f"{url}/api/v1/runs")[0] == 404


async def test_should_measure_the_tasks_of_agents(start: Any) -> None:
    url = start("serve", "app:app", AIOS_DATABASE_URL="memory:").url()
    async with aios.RemoteClient(f"{url}/api/v1") as client:
        assert await (await client.start("asks")).result() == "answered"
        assert await (await client.start("assistant", "go")).result() == "hello"
    _, text = get(f"{url}/metrics")
    for agent_type in ("quick", "assistant_model"):
        labels = f'agent_type="{agent_type}",outcome="completed"'
        assert f"aios_agent_tasks_total{{{labels}}} 1" in text, text
        assert f"aios_agent_task_seconds_count{{{labels}}} 1" in text, text
        assert f'aios_agent_tasks_running{{agent_type="{agent_type}"}} 0' in text, text


OWN_PROGRAM = """
import logging
import sys

import aios

logging.basicConfig(level=logging.INFO)
store = sys.argv[1] or None
aios.serve(aios.Runtime(store), listen="127.0.0.1:0", metrics=True)
"""


@pytest.mark.parametrize("store", ["memory:", ""])
def test_should_answer_metrics_of_a_program_of_its_own(script: Any, store: str) -> None:
    process = script(OWN_PROGRAM, store)
    lines = iter(process.stderr.readline, "")
    found = next(filter(None, (re.search(r"listening on (http://[^/\s]+)", it) for it in lines)))
    assert "\naios_runtime_running 1" in get(f"{found[1]}/metrics")[1]
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 0


def test_should_refuse_metrics_without_an_address() -> None:
    with pytest.raises(aios.ConfigurationError, match="pass `listen=`"):
        aios.serve(aios.Runtime(), metrics=True)


@pytest.mark.parametrize("roles", ["engine, api, agents", "engine"])
def test_should_answer_metrics_unless_they_are_disabled(start: Any, roles: str) -> None:
    variables = {"AIOS_DATABASE_URL": "memory:", "AIOS_PROCESS_ROLES": roles}
    url = start("serve", "app:app", **variables).url()
    assert get(f"{url}/health/live")[0] == 200
    status, text = get(f"{url}/metrics")
    assert status == 200
    assert "\naios_runtime_running 1" in text
    labels = 'method="GET",route="/health/live",status="200"'
    assert f"aios_http_request_seconds_count{{{labels}}} 1" in text
    url = start("serve", "app:app", AIOS_METRICS_ENABLED="false", **variables).url()
    assert get(f"{url}/metrics")[0] == 404


def test_should_refuse_a_collector_of_metrics_that_are_disabled(start: Any) -> None:
    variables = {
        "AIOS_DATABASE_URL": "memory:",
        "AIOS_METRICS_ENABLED": "false",
        "AIOS_TELEMETRY_METRICS__ENDPOINT": "http://127.0.0.1:1",
    }
    process = start("serve", "app:app", **variables)
    _, errors = process.process.communicate(timeout=60)
    assert "telemetry.metrics.endpoint: set, and metrics.enabled is false" in errors
    assert process.process.returncode == 2


async def test_should_not_host_agents_without_the_role(start: Any, tmp_path: Path) -> None:
    variables = {"AIOS_DATABASE_URL": f"sqlite://{tmp_path}/aios.db"}
    process = start("serve", "app:app", AIOS_PROCESS_ROLES="engine, api", **variables)
    async with aios.RemoteClient(f"{process.url()}/api/v1") as client:
        await client.start("asks", id="asks")
        await client.start("assistant", "go", id="talk")
        # Types are recorded before the process listens.
        assert await client.agent_types() == []
        # The process executes runs of the agent although it does not make its model calls.
        for run_id in ("asks", "talk"):
            assert (await (await client.handle(run_id)).status()).status == "running"
    process.process.send_signal(signal.SIGTERM)
    process.process.communicate(timeout=60)
    process = start("serve", "app:app", **variables)
    async with aios.RemoteClient(f"{process.url()}/api/v1") as client:
        types = {it.name for it in await client.agent_types()}
        assert types == {"endless", "quick", "assistant", "assistant_model"}
        assert await (await client.handle("asks")).result() == "answered"
        assert await (await client.handle("talk")).result() == "hello"


def test_should_serve_requests_after_a_signal_for_the_delay(start: Any) -> None:
    variables = {"AIOS_DATABASE_URL": "memory:", "AIOS_SHUTDOWN_ACCEPT_DELAY": "1h"}
    process = start("serve", "app:app", **variables)
    url = process.url()
    assert get(f"{url}/health/ready")[0] == 200
    process.process.send_signal(signal.SIGTERM)
    while get(f"{url}/health/ready")[0] != 503:
        pass
    assert get(f"{url}/api/v1/runs")[0] == 200
    assert process.process.poll() is None


def test_should_take_new_values_at_a_hangup(start: Any, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    file = tmp_path / "config" / "base.yaml"
    file.write_text("log: {level: info}\n")
    process = start("serve", "app:app", AIOS_DATABASE_URL="memory:")
    url = process.url() + "/api/v1"

    file.write_text("log: {level: loud}\n")
    process.process.send_signal(signal.SIGHUP)
    process.read_until("cannot be reloaded")
    assert get(f"{url}/runs")[0] == 200

    limits = "http: {max_body_bytes: 100, rate_limit: {requests: 1, per: 1h}}"
    file.write_text(f"log: {{level: debug}}\n{limits}\nshutdown: {{deadline: 5s}}\n")
    process.process.send_signal(signal.SIGHUP)
    process.read_until("the configuration was reloaded")
    text = "".join(process.lines)
    assert "a setting has changed key=log.level before=info after=debug" in text
    assert "restart to use it key=shutdown.deadline" in text
    assert get(f"{url}/runs")[0] == 200
    assert get(f"{url}/runs")[0] == 429


def test_should_report_a_secret_that_has_changed(start: Any, tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("planted-1")
    variables = {"AIOS_DATABASE_URL": "memory:", "AIOS_OPENAI_API_KEY_FILE": str(secret)}
    process = start("serve", "app:app", **variables)
    process.url()
    secret.write_text("planted-2")
    process.process.send_signal(signal.SIGHUP)
    process.read_until("the configuration was reloaded")
    text = "".join(process.lines)
    assert "restart to use it key=openai.api_key" in text
    assert "planted" not in text


@pytest.mark.parametrize(
    ("app", "is_taken"),
    [(("serve", "app:app"), True), (("serve", "app:api"), False), (("worker", "app:app"), False)],
)
def test_should_say_at_a_hangup_whether_new_limits_are_taken(
    start: Any, tmp_path: Path, app: tuple[str, str], is_taken: bool
) -> None:
    (tmp_path / "config").mkdir()
    file = tmp_path / "config" / "base.yaml"
    file.write_text("log: {level: info}\n")
    process = start(*app, AIOS_DATABASE_URL=f"sqlite://{tmp_path}/aios.db")
    process.read_until("listening on" if "serve" in app else "the engine joined")
    targets = "log: {level: info, targets: {other: debug}}"
    for text in (f"{targets}\nhttp: {{max_body_bytes: 100}}\n", "log: {level: info}\n"):
        file.write_text(text)
        process.lines.clear()
        process.process.send_signal(signal.SIGHUP)
        for _ in range(2 if "worker" in app else 1):
            process.read_until("the configuration was reloaded")
        changes = [line for line in process.lines if "a setting has changed" in line]
        limits = [line for line in changes if "key=http." in line]
        assert limits
        assert all(("restart to use it" in line) != is_taken for line in limits), limits
        levels = [line for line in changes if "key=log.targets" in line]
        assert levels
        assert not any("restart to use it" in line for line in levels), levels


@pytest.mark.parametrize(
    ("after", "changed"),
    [
        ("started process", "http: {max_body_bytes: 100}"),
        ("the engine joined", "log: {level: warn}"),
    ],
)
def test_should_pass_a_hangup_on_to_workers(
    start: Any, tmp_path: Path, after: str, changed: str
) -> None:
    (tmp_path / "config").mkdir()
    file = tmp_path / "config" / "base.yaml"
    file.write_text("log: {level: info}\n")
    database = f"sqlite://{tmp_path}/aios.db"
    process = start("worker", "app:app", AIOS_DATABASE_URL=database)
    process.read_until(after)
    file.write_text(f"{changed}\n")
    process.process.send_signal(signal.SIGHUP)
    process.read_until("the configuration was reloaded")
    process.read_until("the configuration was reloaded")
    reloaded = [line for line in process.lines if "was reloaded" in line]
    assert len({re.search(r"\[\d+\]", line)[0] for line in reloaded}) == 2  # type: ignore[index]
    assert not any("exited" in line for line in process.lines)


def test_should_survive_a_hangup_while_the_program_of_workers_is_imported(
    start: Any, tmp_path: Path
) -> None:
    slow = "import os, time\nos.write(2, b'importing\\n')\ntime.sleep(1)\n"
    (tmp_path / "slow.py").write_text(slow + PROGRAM)
    process = start("worker", "slow:app", AIOS_DATABASE_URL=f"sqlite://{tmp_path}/aios.db")
    process.read_until("importing")
    process.process.send_signal(signal.SIGHUP)
    process.read_until("started process")


@pytest.mark.parametrize(
    ("app", "warned", "is_warned"),
    [
        ("app:plain", "agent.timeout is set (AIOS_AGENT_TIMEOUT)", True),
        ("app:plain", "http.max_body_bytes is set", False),
        ("app:api", "http.max_body_bytes is set (AIOS_HTTP_MAX_BODY_BYTES)", True),
        ("app:app", "agent.timeout is set", False),
    ],
)
def test_should_warn_about_what_an_object_does_not_take(
    start: Any, app: str, warned: str, is_warned: bool
) -> None:
    variables = {
        "AIOS_DATABASE_URL": "memory:",
        "AIOS_AGENT_TIMEOUT": "5m",
        "AIOS_HTTP_MAX_BODY_BYTES": "100",
    }
    process = start("serve", app, **variables)
    process.url()
    assert any(warned in line for line in process.lines) == is_warned, process.lines
