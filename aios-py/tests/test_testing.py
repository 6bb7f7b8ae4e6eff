from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import aios
import pytest
from aios.testing import WorkflowTest, replay

DAY = 86_400.0


def count(number: int) -> int:
    return number + 1


@aios.workflow("remind")
async def remind(context: aios.WorkflowContext, days: int) -> str:
    number = await context.step("count", count, days)
    await context.sleep(days * DAY)
    index, _ = await context.race(context.signal("stop"), context.sleep(DAY))
    if index == 0:
        return "stopped"
    return await context.task("mailer", number, result=str)


def test_should_advance_virtual_time_immediately() -> None:
    run = WorkflowTest(remind).agent("mailer", lambda n: f"sent {n}").run_sync(30)
    assert run.result() == "sent 31"
    assert run.elapsed == 31 * DAY


async def test_should_script_signals_failures_and_cancellation() -> None:
    stopped = await WorkflowTest(remind).signal(1.0, "stop").run(1)
    assert stopped.result() == "stopped"

    def refuse(parameters: object) -> str:
        raise aios.TaskError.terminal("full", code="MAILBOX_FULL")

    failed = await WorkflowTest(remind).agent("mailer", refuse).run(1)
    with pytest.raises(aios.RunFailedError) as raised:
        failed.result()
    assert raised.value.code == "MAILBOX_FULL"
    cancelled = await WorkflowTest(remind).cancel(2.0, "enough").run(1)
    with pytest.raises(aios.RunCancelledError):
        cancelled.result()
    paused = await WorkflowTest(remind).pause(1.0).resume(5 * DAY).signal(2.0, "stop").run(1)
    assert paused.result() == "stopped"


async def test_should_script_children_and_report_a_stuck_run() -> None:
    @aios.workflow("parent")
    async def parent(context: aios.WorkflowContext) -> int:
        number = await context.child("child", 20)
        await context.signal("never")
        return int(number)

    run = await WorkflowTest(parent).child("child", lambda n: n + 1).run()
    assert run.failure is not None
    assert run.failure.code == "RUN_STALLED"


async def test_should_replay_saved_journals_with_the_current_code() -> None:
    run = await WorkflowTest(remind).agent("mailer", lambda n: "x").run(2)
    saved = [aios.Event.from_envelope(event.to_envelope()) for event in run.journal]
    await replay(remind, saved)

    @aios.workflow("remind")
    async def changed(context: aios.WorkflowContext, days: int) -> str:
        await context.sleep(days * DAY)
        return "other"

    with pytest.raises(aios.JournalMismatchError) as raised:
        await replay(changed, saved)
    assert raised.value.details["recorded"] == "step count"
    with pytest.raises(aios.InvalidDataError):
        await replay(remind, saved[1:])


async def test_should_report_a_run_that_continues_as_new() -> None:
    @aios.workflow("counting")
    async def counting(context: aios.WorkflowContext, left: int) -> str:
        if left:
            raise context.continue_as_new(left - 1)
        return "done"

    run = await WorkflowTest(counting).run(3)
    assert run.failure is not None and run.failure.code == "CONTINUED_AS_NEW"
    with pytest.raises(aios.RunError, match="^the run continues as a new one$"):
        run.result()
    assert run.journal[-1].type == "workflows.counting.continued"
    assert run.journal[-1].data["input"] == 2
    assert (await WorkflowTest(counting).run(0)).result() == "done"


async def test_should_refuse_what_it_cannot_test() -> None:
    async def answer(parameters: Any) -> str:
        return "later"

    for wrong in (answer, "an answer"):
        with pytest.raises(
            aios.ConfigurationError, match="answer of agent 'mailer' is a plain func"
        ):
            WorkflowTest(remind).agent("mailer", cast("Any", wrong))
        with pytest.raises(aios.ConfigurationError, match="answer of child 'part' is a plain func"):
            WorkflowTest(remind).child("part", cast("Any", wrong))
    agent = aios.LlmAgent("agent", lambda request: "done")
    with pytest.raises(aios.ConfigurationError, match="run it in a Runtime, with a model of"):
        WorkflowTest(agent)
    with pytest.raises(aios.ConfigurationError, match="run it in a Runtime, with a model of"):
        await replay(agent, [])


FIXTURES = """
import threading
import aios
import pytest

opened, began, ends = [], threading.Event(), threading.Event()

@aios.agent("busy")
def busy(context: aios.TaskContext) -> None:
    began.set()
    ends.wait(60)

@pytest.fixture
def after():
    yield
    ends.set()
    for runtime in opened:
        with pytest.raises(aios.RuntimeClosedError):
            runtime.runs()
    print("all closed")

def test_leave_open(after, aios_runtime):
    opened.append(aios_runtime())
    opened.append(aios_runtime(agents=[busy], shutdown_timeout=0.1))
    opened[1].task("busy")
    assert began.wait(60)
"""


def test_should_close_all_runtimes_of_the_fixture(tmp_path: Path) -> None:
    path = tmp_path / "test_fixture.py"
    path.write_text(FIXTURES)
    command = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", str(path)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "all closed" in ended.stdout, ended.stdout


@pytest.mark.parametrize("stamp", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
def test_should_read_the_first_and_the_last_timestamp(stamp: str) -> None:
    envelope = {
        "id": "e",
        "type": "shop.order.placed",
        "timestamp": stamp,
        "source": "shop",
        "data": 1,
        "metadata": {},
    }
    assert aios.Event.from_envelope(envelope).to_envelope() == envelope
