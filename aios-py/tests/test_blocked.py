"""Agents that block their event loop, in separate processes."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aios
import pytest
from conftest import LIMIT, finish
from rabbitmq import RabbitMq

#: Only agents. Code that blocks its loop first writes a file.
PROGRAM = """
import asyncio, os, sys
import aios

def endless():
    while True:
        pass

@aios.agent("poison")
async def poison(context: aios.TaskContext) -> None:
    open(f"blocked-{os.getpid()}", "w").close()
    endless()

@aios.agent("ordinary")
async def ordinary(context: aios.TaskContext, number: int) -> list[int]:
    return [number, os.getpid()]

@aios.agent("plain")
def plain(context: aios.TaskContext, number: int) -> list[int]:
    return [number, os.getpid()]

async def main():
    agents = [poison, ordinary, plain]
    async with aios.Runtime(None, sys.argv[1], agents=agents, blocked_after=0.4):
        open(f"ready-{os.getpid()}", "w").close()
        await asyncio.Event().wait()

asyncio.run(main())
"""

#: No timeout: a lost task fails the test instead of being retried.
PATIENT: dict[str, Any] = {"retry": aios.RetryPolicy.never()}


@pytest.fixture
def broker() -> Iterator[str]:
    """One server per test, so that tests do not receive each other's tasks."""
    server = RabbitMq()
    yield server.url
    server.stop()


def pids(folder: Path, word: str) -> set[int]:
    return {int(path.name.split("-")[1]) for path in folder.glob(f"{word}-*")}


async def reached(what: Callable[[], bool]) -> None:
    """Waits for another process."""
    async with asyncio.timeout(LIMIT):
        while not what():
            await asyncio.sleep(0.02)


async def test_should_move_tasks_from_a_blocked_loop_to_other_processes(
    broker: str, script: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    processes = [script(PROGRAM, broker) for _ in range(2)]
    try:
        await reached(lambda: len(pids(tmp_path, "ready")) == 2)
        async with aios.Runtime(broker=broker) as runtime:
            await runtime.task("poison", **PATIENT)
            await reached(lambda: bool(pids(tmp_path, "blocked")))
            (blocked,) = pids(tmp_path, "blocked")
            # The process with the blocked loop has already taken half of them.
            runs = [await runtime.task("ordinary", number, **PATIENT) for number in range(40)]
            answers = [await run.result() for run in runs]
            assert [number for number, _ in answers] == list(range(40))
            assert blocked not in {process for _, process in answers}
            # Plain functions have their own threads, which continue.
            runs = [await runtime.task("plain", number, **PATIENT) for number in range(20)]
            assert [(await run.result())[0] for run in runs] == list(range(20))
            assert pids(tmp_path, "blocked") == {blocked}
    finally:
        for process in processes:
            process.kill()
    errors = "".join(finish(process)[2] for process in processes)
    (line,) = [line for line in errors.splitlines() if "has been blocked" in line]
    assert "poison" in line and "endless (" in line and "program.py:" in line


#: A run that blocks the loop, and then writes a file.
WORKFLOW = """
import asyncio, time
import aios

@aios.workflow("stuck")
async def stuck(context: aios.WorkflowContext) -> int:
    await context.step("first", lambda: 1)
    time.sleep(2)
    return 1

async def main():
    async with aios.Runtime(workflows=[stuck], blocked_after=0.4) as runtime:
        run = await runtime.start(stuck, id="r")
        assert await run.result() == 1

asyncio.run(main())
"""


def test_should_name_a_run_that_blocks_the_loop(
    script: Callable[..., subprocess.Popen[str]],
) -> None:
    status, _, errors = finish(script(WORKFLOW))
    assert status == 0, errors
    (line,) = [line for line in errors.splitlines() if "the code of a run has not returned" in line]
    assert "workflow=stuck" in line and "run=r " in line


#: A workflow that computes without end, and one that must continue all the same.
BUSY = """
import asyncio, sys, time
import aios

@aios.workflow("busy")
async def busy(context: aios.WorkflowContext, how: str) -> int:
    await context.step("first", lambda: 1)
    if how == "closing":
        try:
            await context.signal("never")
        except:
            while True:
                pass
    while how == "compute":
        pass
    while how == "catch":
        try:
            while True:
                pass
        except:
            continue
    while how == "asyncio":
        try:
            await asyncio.sleep(1)
        except:
            continue
    failed = context.step("fails", fail)
    while how == "await":
        try:
            await failed
        except:
            continue
    return 1

def fail():
    raise aios.TaskError.terminal("no")

@aios.workflow("sleepy")
async def sleepy(context: aios.WorkflowContext) -> int:
    # The other run blocks the loop; this one continues once it is interrupted.
    await context.sleep(0.01)
    return 7

async def main():
    async with aios.Runtime(workflows=[busy, sleepy], blocked_after=0.2) as runtime:
        run = await runtime.start(busy, sys.argv[1], id="b")
        other = await runtime.start(sleepy)
        if sys.argv[1] == "closing":
            while not (await run.journal())[-1].event.type.endswith("step_completed"):
                await asyncio.sleep(0.01)
            await run.cancel("enough")
        try:
            print(await run.result())
        except aios.RunBlockedError as error:
            print(error.__cause__.code, error)
        except aios.RunCancelledError as error:
            print(error.code)
        assert await other.result() == 7
        assert asyncio.get_running_loop().is_running()
    print("closed")

asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["compute", "catch", "await", "asyncio", "closing"])
def test_should_interrupt_a_run_that_computes_without_end(
    script: Callable[..., subprocess.Popen[str]], how: str
) -> None:
    status, output, errors = finish(script(BUSY, how))
    assert status == 0, errors
    expected = {"closing": "RUN_CANCELLED", "asyncio": "WORKFLOW_PANICKED run b is blocked"}
    assert output.startswith(
        expected.get(how, "WORKFLOW_BUSY run b is blocked")
    ) and output.endswith("closed\n"), output
    lines = errors.splitlines()
    assert [line for line in lines if "interrupted the code of a run" in line and "run=b" in line]
