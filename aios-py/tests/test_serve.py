"""Processes that run a runtime until they receive a stop signal."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import aios
import aios.sync
import pytest
from conftest import LIMIT, finish
from rabbitmq import RabbitMq

#: Code that never returns control: of the loop's thread, and in the second case of the interpreter.
ENDLESS = {
    "loop": "while True: pass",
    "interpreter": "sum(itertools.repeat(0))",
}

PROGRAM = """
import itertools, os, signal, sys
import aios

def endless():
    {endless}

@aios.agent("poison")
async def poison(context: aios.TaskContext) -> None:
    open("blocked", "w").close()
    endless()

@aios.agent("ordinary")
async def ordinary(context: aios.TaskContext, number: int) -> int:
    return number

async def blocked() -> None:
    open("blocked", "w").close()
    endless()

@aios.workflow("stuck")
async def stuck(context: aios.WorkflowContext) -> None:
    await context.step("blocked", blocked)

class Runtime(aios.Runtime):
    async def open(self) -> None:
        await super().open()
        if "stuck" in sys.argv:
            await self.start(stuck)
        open(f"ready-{{os.getpid()}}", "w").close()

store = "memory:" if "stuck" in sys.argv else None
aios.serve(
    Runtime(
        store,
        sys.argv[1],
        agents=[poison, ordinary],
        workflows=[stuck] if store else [],
        blocked_after=None,
        shutdown_timeout=float(sys.argv[2]),
    )
)
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert signal.set_wakeup_fd(-1) == -1
print("stopped")
"""


@pytest.fixture
def broker() -> Iterator[str]:
    server = RabbitMq()
    yield server.url
    server.stop()


def wait(what: Callable[[], bool]) -> None:
    until = time.monotonic() + LIMIT
    while not what():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_should_stop_on_a_signal(
    number: signal.Signals, script: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = script(PROGRAM.format(endless=ENDLESS["loop"]), "memory://", "10")
    wait(lambda: bool(list(tmp_path.glob("ready-*"))))
    process.send_signal(number)
    status, output, errors = finish(process)
    assert (status, output) == (0, "stopped\n"), errors


@pytest.mark.parametrize("endless", ENDLESS.values(), ids=ENDLESS)
def test_should_exit_in_time_whatever_an_agent_does(
    endless: str,
    broker: str,
    script: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    process = script(PROGRAM.format(endless=endless), broker, "0.5")
    with aios.sync.Runtime(broker=broker) as runtime:
        wait(lambda: bool(list(tmp_path.glob("ready-*"))))
        run = runtime.task("poison", id="never-ends")
        wait((tmp_path / "blocked").exists)
        process.send_signal(signal.SIGTERM)
        status, output, errors = finish(process)
        assert (status, output) == (75, ""), errors
        (line,) = [line for line in errors.splitlines() if line.startswith("aios: ")]
        assert "status 75" in line and f"{run.id}/" in line
        # Tasks that the process held go to the next one.
        (tmp_path / "blocked").unlink()
        program = PROGRAM.format(endless="pass")
        following = script(program, broker, "10")
        run.result(LIMIT)
        following.send_signal(signal.SIGTERM)
        assert finish(following)[0] == 0


@pytest.mark.parametrize("endless", ENDLESS.values(), ids=ENDLESS)
def test_should_exit_in_time_whatever_a_step_does(
    endless: str, script: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = script(PROGRAM.format(endless=endless), "memory://", "0.5", "stuck")
    wait((tmp_path / "blocked").exists)
    process.send_signal(signal.SIGTERM)
    status, _, errors = finish(process)
    assert status == 75, errors
    assert "status 75" in errors


def test_should_release_tasks_that_have_not_started_immediately(
    broker: str, script: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    blocked = script(PROGRAM.format(endless=ENDLESS["loop"]), broker, "600")
    with aios.sync.Runtime(broker=broker) as runtime:
        wait(lambda: len(list(tmp_path.glob("ready-*"))) == 1)
        runtime.task("poison")
        wait((tmp_path / "blocked").exists)
        # All tasks wait for the loop of the only process.
        runs = [runtime.task("ordinary", number) for number in range(20)]
        blocked.send_signal(signal.SIGTERM)
        other = script(PROGRAM.format(endless="pass"), broker, "10")
        assert [run.result(LIMIT) for run in runs] == list(range(20))
        assert blocked.poll() is None, "its tasks may run for 600 s"
        for process in (blocked, other):
            process.kill()
            process.communicate()


async def test_should_not_handle_signals_without_serve() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    async with aios.Runtime():
        during = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert during == before


async def test_should_serve_on_the_main_thread_only() -> None:
    with pytest.raises(aios.ConfigurationError):
        await asyncio.to_thread(aios.serve, aios.Runtime())
