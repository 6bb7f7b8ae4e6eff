"""Workflows that may see an outcome before it is durable."""

from __future__ import annotations

import asyncio
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import aios
import pytest
from aios.testing import WorkflowTest, replay
from conftest import finish

Start = Callable[..., subprocess.Popen[str]]


@aios.agent("double")
async def double(context: aios.TaskContext, number: int) -> int:
    return number * 2


@aios.agent("broken")
async def broken(context: aios.TaskContext) -> int:
    raise aios.TaskError.terminal("not today", code="BROKEN")


async def sequence(context: aios.WorkflowContext, number: int) -> int:
    for _ in range(5):
        number = await context.task("double", number, result=int)
        await context.sleep(0.001)
    context.set_status("added")
    first, second = await context.gather(
        context.task("double", number, result=int), context.task("double", 1, result=int)
    )
    _, winner = await context.race(context.sleep(60), context.task("double", first, result=int))
    return (winner or 0) + second


ahead = aios.workflow("ahead", lookahead=True)(sequence)
behind = aios.workflow("behind")(sequence)


async def test_should_record_the_same_journal_ahead_and_behind() -> None:
    async with aios.Runtime(agents=[double], workflows=[ahead, behind]) as runtime:
        actions = []
        for workflow in (ahead, behind):
            run = await runtime.start(workflow, 1)
            assert await run.result() == 130
            journal = await run.journal()
            actions.append([recorded.event.type.split(".")[2] for recorded in journal])
            await replay(workflow, journal)
        assert actions[0] == actions[1]


@pytest.mark.parametrize("is_caught", [True, False])
async def test_should_see_failures_ahead(is_caught: bool) -> None:
    @aios.workflow("falls_back", lookahead=True)
    async def falls_back(context: aios.WorkflowContext) -> int:
        context.compensate("undo", undo)
        try:
            await context.task("broken")
        except aios.TaskError as error:
            if not is_caught:
                raise
            assert error.code == "BROKEN"
        return await context.task("double", 4, result=int)

    async def undo(context: aios.WorkflowContext) -> None:
        await context.task("double", 1)

    async with aios.Runtime(agents=[double, broken], workflows=[falls_back]) as runtime:
        run = await runtime.start(falls_back)
        if is_caught:
            assert await run.result() == 8
        else:
            with pytest.raises(aios.RunFailedError) as raised:
                await run.result()
            assert raised.value.code == "BROKEN"
        journal = await run.journal()
        answers = [it for it in journal if it.event.type == "agents.double.task_completed"]
        assert len(answers) == 1
        await replay(falls_back, journal)


async def test_should_block_a_run_whose_code_errs_ahead(tmp_path: Path) -> None:
    def make(is_correct: bool) -> aios.Workflow[None, int]:
        @aios.workflow("errs", lookahead=True)
        async def errs(context: aios.WorkflowContext) -> int:
            number = await context.task("double", 1, result=int)
            if not is_correct:
                await asyncio.sleep(0)
            return await context.task("double", number, result=int)

        return errs

    store = f"sqlite://{tmp_path}/errs.db"
    async with aios.Runtime(store, agents=[double], workflows=[make(False)]) as runtime:
        run = await runtime.start("errs", id="r")
        with pytest.raises(aios.RunBlockedError, match=r"instead of asyncio\.sleep"):
            await run.result()
        actions = [recorded.event.type.split(".")[2] for recorded in await run.journal()]
        assert actions == ["started", "task_assigned", "task_completed", "blocked"]
    async with aios.Runtime(store, agents=[double], workflows=[make(True)]) as runtime:
        run = await runtime.handle("r")
        await run.resume()
        assert await run.result() == 4


async def test_should_see_after_a_restart_what_it_saw_ahead(tmp_path: Path) -> None:
    seen: list[tuple[object, ...]] = []

    @aios.workflow("looks", lookahead=True)
    async def looks(context: aios.WorkflowContext) -> str:
        await context.task("double", 1)
        version = context.version("looks", 1, 2)
        seen.append((context.now(), context.uuid(), context.random(), version))
        context.emit("shop.order.placed", version)
        return await context.signal("go", result=str)

    store = f"sqlite://{tmp_path}/looks.db"
    async with aios.Runtime(store, agents=[double], workflows=[looks]) as runtime:
        run = await runtime.start(looks, id="r")
        while len(await run.journal()) < 6:
            await asyncio.sleep(0.01)
    async with aios.Runtime(store, agents=[double], workflows=[looks]) as runtime:
        run = await runtime.handle("r")
        await run.signal("go", "on")
        assert await run.result() == "on"
    assert len(seen) > 1
    assert len(set(seen)) == 1


async def test_should_follow_the_journal_while_signals_arrive() -> None:
    @aios.workflow("busy", lookahead=True)
    async def busy(context: aios.WorkflowContext, rounds: int) -> list[int]:
        taken = []
        signal = context.signal("n", result=int)
        for number in range(rounds):
            index, value = await context.race(signal, context.task("double", number, result=int))
            taken.append(value)
            if index == 0:
                signal = context.signal("n", result=int)
        return taken

    async with aios.Runtime(agents=[double], workflows=[busy]) as runtime:
        run = await runtime.start(busy, 60)
        waiting = asyncio.ensure_future(run.result())
        sent = 0
        while not waiting.done():
            try:
                await run.signal("n", -1 - sent)
            except aios.RunEndedError:
                break
            sent += 1
            await asyncio.sleep(0)
        taken = await waiting
        assert len(taken) == 60
        # Each signal is taken once, in order, and none is skipped.
        signals = [value for value in taken if value < 0]
        assert signals == [-number for number in range(1, len(signals) + 1)]
        await replay(busy, await run.journal())


async def test_should_look_ahead_in_a_test() -> None:
    tested = WorkflowTest(ahead).agent("double", lambda number: number * 2)
    assert (await tested.run(1)).result() == 130


PROGRAM = """
import asyncio, os, random, sys
import aios

chance = random.Random(sys.argv[1])

@aios.agent("note")
async def note(context: aios.TaskContext, number: int) -> int:
    with open("ran", "a") as ran:
        ran.write(f"{number}\\n")
    return number + 1

@aios.workflow("counts", lookahead=True)
async def counts(context: aios.WorkflowContext, rounds: int) -> int:
    number = 0
    while number < rounds:
        number = await context.task("note", number, result=int)
        if number % 7 == 0:
            await context.sleep(0.001)
    return number

async def main():
    async with aios.Runtime(
        "sqlite://runs.db", agents=[note], workflows=[counts], lease_time=1.0
    ) as runtime:
        run = await runtime.start(counts, 200, id="r")
        if sys.argv[1] != "last":
            asyncio.get_running_loop().call_later(chance.uniform(0.02, 0.15), os._exit, 9)
        print(await run.result(), flush=True)

asyncio.run(main())
"""


def test_should_survive_crashes_ahead(script: Start, tmp_path: Path) -> None:
    kills = 6
    for number in range(kills):
        code, _, errors = finish(script(PROGRAM, str(number)))
        assert code in (0, 9), errors
    code, output, errors = finish(script(PROGRAM, "last"))
    assert (code, output.strip()) == (0, "200"), errors
    ran = Counter(int(line) for line in (tmp_path / "ran").read_text().split())
    # A crash repeats at most the task that was in progress.
    assert set(ran) == set(range(200))
    assert sum(ran.values()) <= 200 + kills, ran
