"""Exceptions that are no ``Exception``, raised in steps and tasks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from conftest import finish

Start = Callable[..., subprocess.Popen[str]]

PROGRAM = """
import asyncio, sys
import aios

how, where = sys.argv[1:3]

def note(text: str) -> None:
    with open("notes", "a") as file:
        file.write(text + "\\n")

def fail_once() -> str:
    note(how)
    if how == "exit":
        sys.exit(7)
    if how == "cancel":
        raise asyncio.CancelledError
    if how == "interrupt":
        raise KeyboardInterrupt
    return "done"

async def fail_once_async() -> str:
    if how == "cancel itself":
        note("cancel")
        asyncio.current_task().cancel()
        await asyncio.sleep(0)
    if how == "close itself":
        note("close")
        raise GeneratorExit
    return fail_once()

async def wait() -> str:
    "Still runs when the loop ends."
    await asyncio.sleep(60 if how == "interrupt" else 0)
    return "done"

@aios.agent("plain")
def plain(context: aios.TaskContext) -> str:
    return fail_once()

@aios.agent("waits")
async def waits(context: aios.TaskContext) -> str:
    return await wait()

@aios.agent("on_loop")
async def on_loop(context: aios.TaskContext) -> str:
    return await fail_once_async()

@aios.tool(retry=aios.RetryPolicy.fixed(2, 0.01))
async def use() -> str:
    "Used."
    return await fail_once_async()

def model(request: dict) -> object:
    if len(request["messages"]) > 1:
        return str(request["messages"][-1])
    return aios.ModelResponse(tool_calls=[aios.ToolCall("use", {}, id="a")])

assistant = aios.LlmAgent("assistant", model, tools=[use])

@aios.workflow("runs")
async def runs(context: aios.WorkflowContext) -> str:
    twice = context.with_retry(aios.RetryPolicy.fixed(2, 0.01))
    if where == "plain step":
        return await twice.step("step", fail_once)
    if where == "step":
        return await twice.step("step", fail_once_async)
    if where == "tool":
        return await context.child(assistant, "go")
    if where.startswith("beside"):
        waiting = twice.step("wait", wait) if where == "beside a step" else twice.task("waits")
        async def interrupted() -> str:
            await context.sleep(0.2)
            return await context.with_retry(aios.RetryPolicy.fixed(9, 0)).step("step", fail_once_async)
        return (await context.gather(waiting, interrupted()))[0]
    return await twice.task("plain" if where == "plain task" else "on_loop")

async def main() -> None:
    parts = {"agents": [plain, on_loop, waits, assistant], "workflows": [runs]}
    async with aios.Runtime("sqlite://runs.db", **parts) as runtime:
        run = await runtime.start(runs, id="run")
        try:
            print(await run.result())
        except aios.RunFailedError as error:
            print(error.code, error)
            print((error.details or {}).get("traceback"))

asyncio.run(main())
"""
PLACES = ["plain step", "step", "plain task", "task", "tool"]


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize(
    ("how", "code", "name"),
    [("exit", "TASK_FAILED", "SystemExit: 7"), ("cancel", "INTERRUPTED", "CancelledError")],
)
def test_should_fail_each_attempt_and_not_the_process(
    how: str, code: str, name: str, where: str, script: Start, tmp_path: object
) -> None:
    status, output, errors = finish(script(PROGRAM, how, where))
    assert (status, "Traceback" in errors) == (0, False), errors
    assert name in output
    if where != "tool":
        # The model gets the failure of a tool.
        assert output.startswith(code), output
        assert "in fail_once" in output
    with open(f"{tmp_path}/notes") as notes:
        assert notes.read().split() == [how, how]


@pytest.mark.parametrize("where", ["step", "task", "tool"])
def test_should_fail_each_attempt_that_cancels_itself(
    where: str, script: Start, tmp_path: object
) -> None:
    status, output, errors = finish(script(PROGRAM, "cancel itself", where))
    assert (status, "Traceback" in errors) == (0, False), errors
    assert "CancelledError" in output
    with open(f"{tmp_path}/notes") as notes:
        assert notes.read().split() == ["cancel", "cancel"]


@pytest.mark.parametrize("where", ["step", "task"])
def test_should_fail_each_attempt_that_closes_itself(
    where: str, script: Start, tmp_path: object
) -> None:
    status, output, errors = finish(script(PROGRAM, "close itself", where))
    assert (status, "Traceback" in errors) == (0, False), errors
    assert output.startswith("INTERRUPTED"), output
    with open(f"{tmp_path}/notes") as notes:
        assert notes.read().split() == ["close", "close"]


@pytest.mark.parametrize("where", ["step", "task", "tool", "beside a step", "beside a task"])
def test_should_not_count_an_interrupted_attempt(where: str, script: Start) -> None:
    for _ in range(3):
        status, output, errors = finish(script(PROGRAM, "interrupt", where))
        assert status != 0
        assert "KeyboardInterrupt" in errors
    status, output, errors = finish(script(PROGRAM, "nothing", where))
    assert status == 0, errors
    assert output == "done\n" or (where == "tool" and "done" in output), output
