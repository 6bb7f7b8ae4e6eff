"""The log of `python -m aios`: what lines say about the code that writes them."""

from __future__ import annotations

import json
import logging
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
from aios._service.logging import read_level

PROGRAM = """
import logging
import threading
from typing import Any

import aios

log = logging.getLogger("shop")

@aios.tool(description="Looks up.")
async def look_up() -> str:
    log.info("looking up")
    return "found"


@aios.tool(description="Counts.")
def count_up() -> int:
    log.info("counting up")
    return 1


@aios.tool(description="Hangs.", timeout=0.2, retry=aios.RetryPolicy(max_attempts=1))
def hang() -> None:
    threading.Event().wait(1)


@aios.input_guardrail
async def check_input(messages: Any) -> None:
    log.info("checking the input")


@aios.output_guardrail
def check_output(output: str) -> None:
    log.info("checking the output")


class Model:
    name = "shop:model"

    async def __call__(self, request: dict[str, Any]) -> Any:
        log.info("thinking")
        if len(request["messages"]) > 1:
            return "done"
        calls = [aios.ToolCall(name, {}, id=name) for name in ("look_up", "count_up", "hang")]
        return aios.ModelResponse(tool_calls=calls)


assistant = aios.LlmAgent(
    "assistant",
    Model(),
    tools=[look_up, count_up, hang],
    guardrails=[check_input, check_output],
)


@aios.agent("greeter")
async def greet(context: aios.TaskContext, name: str) -> str:
    secrets = {"API_Key": "hunter2", "reset_token": "hunter2", "Card": "hunter2"}
    log.info("greeting", extra={**secrets, "place": "shop", "level": "high", "huge": 10**400})
    return f"Hello, {name}!"


@aios.agent("plain")
def count(context: aios.TaskContext) -> int:
    log.info("counting")
    try:
        raise aios.TaskError.terminal("no", code="NO_MONEY")
    except aios.TaskError:
        log.exception("refused")
    return 1


def note() -> None:
    log.info("noting")


async def look() -> None:
    log.info("looking")


@aios.workflow("order")
async def order(context: aios.WorkflowContext, name: str) -> None:
    log.info("begun")
    try:
        await context.task("greeter", name)
        await context.task("plain")
        await context.step("note", note)
        await context.step("look", look)
        log.info("waiting")
        await context.signal("go")
        log.info("continuing")
    finally:
        log.info("ended")


def app(settings: aios.Settings) -> aios.Runtime:
    options = settings.runtime_options()
    return aios.Runtime(**options, agents=[greet, count, assistant], workflows=[order])
"""
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Service:
    """Processes that follow each other, with the lines of all of them."""

    def __init__(self, folder: Path, **variables: str) -> None:
        (folder / "app.py").write_text(PROGRAM)
        self._folder = folder
        self._variables = {
            "AIOS_DATABASE_URL": f"sqlite://{folder}/aios.db",
            "AIOS_HTTP_LISTEN": "127.0.0.1:0",
            "AIOS_LOG_REDACT": "card",
            **variables,
        }
        self.lines: list[str] = []
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aios", "serve", "app:app"],
            cwd=self._folder,
            env={**os.environ, **self._variables},
            stderr=subprocess.PIPE,
            text=True,
        )
        found = re.search(r"listening on (http://[^\s\"]+)", self.read_until("listening on"))
        assert found is not None
        self.url = found[1]

    def read_until(self, text: str) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError("".join(self.lines))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        _, rest = self.process.communicate(timeout=60)
        self.lines += rest.splitlines(keepends=True)
        assert self.process.returncode == 0, "".join(self.lines)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Any]:
    started: list[Service] = []

    def start(**variables: str) -> Service:
        started.append(Service(tmp_path, **variables))
        return started[-1]

    yield start
    for service in started:
        if service.process.poll() is None:
            service.process.kill()
            service.process.communicate()


async def run_order(service: Service) -> None:
    """Runs an order to its end, in two processes."""
    async with aios.RemoteClient(service.url) as client:
        await client.start("order", "Ada", id="order-7", traceparent=TRACE, correlation_id="corr-1")
        service.read_until("waiting")
    service.stop()
    service.start()
    async with aios.RemoteClient(service.url) as client:
        handle = await client.handle("order-7")
        await handle.signal("go", None)
        await handle.result()
    service.stop()


async def test_should_name_the_run_or_task_in_each_line_and_write_it_once(services: Any) -> None:
    service = services(AIOS_LOG_FORMAT="json")
    await run_order(service)
    lines = [json.loads(line) for line in service.lines]
    shop = [line for line in lines if line["target"] == "shop"]
    # The first process leaves the workflow in memory at its end, and the second one replays it.
    expected = [
        *("begun", "greeting", "counting", "refused", "noting", "looking", "waiting"),
        *("continuing", "ended"),
    ]
    assert [line["message"] for line in shop] == expected
    for line in shop:
        ids = [line[name] for name in ("run_id", "correlation_id", "trace_id")]
        assert ids == ["order-7", "corr-1", TRACE.split("-")[1]], line
        assert len(line["span_id"]) == 16
    by_message = {line["message"]: line for line in shop}
    assert by_message["begun"]["workflow"] == "order"
    assert "operation" not in by_message["begun"]
    for message, operation in (("greeting", 1), ("counting", 2), ("noting", 3), ("looking", 4)):
        line = by_message[message]
        assert (line["operation"], line["attempt"]) == (operation, 1), line
    greeting = by_message["greeting"]
    assert (greeting["task_id"], greeting["agent_type"]) == ("order-7/1", "greeter")
    assert greeting["agent_id"]
    assert (greeting["place"], greeting["level"], greeting["_level"]) == ("shop", "INFO", "high")
    assert int(greeting["huge"]) == 10**400
    assert by_message["refused"]["code"] == "NO_MONEY"
    # By their names, whatever their case, and by the settings.
    assert {greeting[name] for name in ("API_Key", "reset_token", "Card")} == {"***"}
    assert "hunter2" not in str(lines)


async def test_should_write_the_fields_in_text_too(services: Any) -> None:
    service = services(AIOS_LOG_FORMAT="text")
    await run_order(service)
    shop = [line for line in service.lines if " shop " in line]
    assert len(shop) == 9, shop
    assert all("run_id=order-7" in line and "correlation_id=corr-1" in line for line in shop)
    greeting = next(line for line in shop if "greeting" in line)
    assert "agent_type=greeter" in greeting
    assert "API_Key=***" in greeting
    assert "hunter2" not in "".join(service.lines)


async def run_agent(service: Service) -> list[dict[str, Any]]:
    """Runs an agent over a language model; returns the lines of the process."""
    async with aios.RemoteClient(service.url) as client:
        run = await client.start(
            "assistant", "go", id="chat-7", traceparent=TRACE, correlation_id="corr-1"
        )
        assert await run.result() == "done"
    service.stop()
    return [json.loads(line) for line in service.lines]


def check_ids(line: dict[str, Any], agent_type: str) -> None:
    """Checks the fields of a line that a task of the agent writes."""
    ids = [line[name] for name in ("run_id", "correlation_id", "trace_id")]
    assert ids == ["chat-7", "corr-1", TRACE.split("-")[1]], line
    assert len(line["span_id"]) == 16
    assert line["task_id"] == f"chat-7/{line['operation']}"
    assert (line["agent_type"], line["attempt"]) == (agent_type, 1)
    assert line["agent_id"]


async def test_should_name_the_run_and_the_task_in_native_lines(services: Any) -> None:
    lines = await run_agent(services(AIOS_LOG_FORMAT="json"))
    (line,) = [it for it in lines if it["message"].startswith("a plain function is still running")]
    check_ids(line, "assistant_tools")
    assert line["function"] == 'tool "hang"'


async def test_should_name_the_run_and_the_task_in_lines_of_an_agent(services: Any) -> None:
    lines = await run_agent(services(AIOS_LOG_FORMAT="json"))
    shop = [line for line in lines if line["target"] == "shop"]
    assert sorted(line["message"] for line in shop) == [
        *("checking the input", "checking the output", "counting up", "looking up"),
        *("thinking", "thinking"),
    ]
    for line in shop:
        is_model = line["message"] == "thinking"
        check_ids(line, "assistant_model" if is_model else "assistant_tools")
    assert len({line["operation"] for line in shop}) == 6


def test_should_write_fields_of_native_lines_as_fields(services: Any) -> None:
    service = services(AIOS_LOG_FORMAT="json")
    service.stop()
    lines = [json.loads(line) for line in service.lines]
    joined = next(line for line in lines if line["message"].startswith("the engine joined"))
    assert (joined["message"], joined["slot"]) == ("the engine joined", 0)
    assert joined["target"].startswith("aios.agents.")


@pytest.mark.parametrize("target", ["aios_agents", "aios.agents", "aios_agents::workflow"])
def test_should_write_native_lines_at_the_level_of_their_target(
    services: Any, tmp_path: Path, target: str
) -> None:
    (tmp_path / "config").mkdir()
    # The other target names the port.
    levels = f"'{target}': debug, aios.serve: info"
    (tmp_path / "config" / "base.yaml").write_text(f"log: {{level: warn, targets: {{{levels}}}}}")
    service = services(AIOS_LOG_FORMAT="json")
    service.stop()
    lines = [json.loads(line) for line in service.lines]
    found = {line["target"] for line in lines if line["level"] in ("INFO", "DEBUG")}
    name = target.replace("::", ".").replace("_", ".")
    assert any(it.startswith(name) for it in found), found
    assert all(it.startswith((name, "aios.serve")) for it in found), found


def test_should_forward_native_lines_at_the_lowest_level_of_a_logger() -> None:
    levels: list[int] = []
    logger = logging.getLogger("aios.agents.only_here")
    before = logging.getLogger("aios").level
    try:
        logging.getLogger("aios").setLevel(logging.WARNING)
        logger.setLevel(logging.DEBUG)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("aios._service.logging._aios.set_log_level", levels.append)
            read_level()
            logger.setLevel(logging.NOTSET)
            read_level()
    finally:
        logging.getLogger("aios").setLevel(before)
        logger.setLevel(logging.NOTSET)
    assert levels == [logging.DEBUG, logging.WARNING]


def test_should_write_json_unless_the_output_is_a_terminal(services: Any) -> None:
    service = services(AIOS_LOG_FORMAT="auto")
    service.stop()
    assert all(json.loads(line)["target"] for line in service.lines)


OWN_PROGRAM = """
import asyncio
import logging

import aios

log = logging.getLogger("shop")


@aios.workflow("order")
async def order(context: aios.WorkflowContext) -> None:
    log.info("begun", extra={"card": "hunter2"})
    await context.step("note", str)
    await context.signal("go")
    log.info("ended")


async def main() -> None:
    for is_last in (False, True):
        async with aios.Runtime(store="sqlite://aios.db", workflows=[order]) as runtime:
            run = await runtime.start(order, id="order-7")
            if is_last:
                await run.signal("go", None)
                await run.result()
            while len(await run.journal()) < 2:
                await asyncio.sleep(0.01)


settings = aios.Settings.load()
logging.basicConfig(format="before: %(message)s")
aios.configure_logging(settings.log)
asyncio.run(main())
"""


def test_should_write_the_log_of_a_program_of_its_own(script: Any) -> None:
    variables = {"AIOS_LOG_FORMAT": "json", "AIOS_LOG_REDACT": "card"}
    _, errors = script(OWN_PROGRAM, **variables).communicate(timeout=60)
    lines = [json.loads(line) for line in errors.splitlines()]
    shop = [line for line in lines if line["target"] == "shop"]
    assert [line["message"] for line in shop] == ["begun", "ended"], errors
    assert {line["run_id"] for line in shop} == {"order-7"}
    assert shop[0]["card"] == "***"


async def test_should_leave_the_log_of_a_program_as_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without the setup of the package, records have no further attributes."""

    @aios.agent("logging")
    async def write(context: aios.TaskContext) -> None:
        logging.getLogger("shop").warning("a line", extra={"token": "mine"})

    async with aios.Runtime(agents=[write]) as runtime:
        await (await runtime.task("logging")).result()
    record: Any = next(it for it in caplog.records if it.name == "shop")
    assert record.getMessage() == "a line"
    assert record.token == "mine"
    known = {*logging.makeLogRecord({}).__dict__, "token", "message", "asctime", "taskName"}
    assert not set(record.__dict__) - known
