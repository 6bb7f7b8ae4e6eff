"""A workflow on SQLite whose process is killed repeatedly."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aios
import aios.sync

#: Number of kills.
KILLS = 50
#: Number of steps of the workflow; each records that it ran.
STEPS = 120

PROGRAM = f"""
import asyncio, os, sys
import aios

async def note(number: int) -> int:
    await asyncio.sleep(0.01)
    with open("ran", "a") as ran:
        ran.write(f"{{number}}\\n")
    return number * number

@aios.agent("double")
async def double(context: aios.TaskContext, number: int) -> int:
    return number * 2

@aios.workflow("long")
async def long(context: aios.WorkflowContext, steps: int) -> int:
    total = 0
    for number in range(steps):
        square = await context.step("note", note, number)
        total += await context.task("double", square, result=int)
        if number % 10 == 0:
            await context.sleep(0.001)
            total += sum(await context.gather(context.task("double", 1), context.task("double", 2)))
    return total

async def main():
    async with aios.Runtime(
        "sqlite://runs.db", agents=[double], workflows=[long], lease_time=1.0
    ) as runtime:
        run = await runtime.start(long, {STEPS}, id="long-1")
        with open("started", "a") as started:
            started.write("x")
        print(await run.result(), flush=True)

asyncio.run(main())
"""

EXPECTED = sum(2 * number * number for number in range(STEPS)) + 6 * (STEPS // 10)


def test_should_survive_being_killed(
    script: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    chance = random.Random(7)
    kills = 0
    recorded: list[Any] = []
    ran_before: Counter[int] = Counter()
    while True:
        process = script(PROGRAM)
        if kills < KILLS:
            _wait_for_start(tmp_path, kills + 1, process)
            time.sleep(chance.uniform(0.0, 0.12))
            process.kill()
            process.communicate()
            kills += 1
            # Recorded steps are not recorded again, and have not run again.
            before, recorded = recorded, _recorded(tmp_path)
            assert recorded[: len(before)] == before
            ran_before, ran = _ran(tmp_path), ran_before
            assert all(ran_before[number] == ran[number] for number in range(len(before)))
            continue
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        break
    assert int(output) == EXPECTED
    before, recorded = recorded, _recorded(tmp_path)
    assert recorded[: len(before)] == before
    assert len(recorded) == STEPS == len({operation for operation, _ in recorded})
    assert [result for _, result in recorded] == [number * number for number in range(STEPS)]
    ran = _ran(tmp_path)
    assert all(ran[number] == ran_before[number] for number in range(len(before)))
    # A step runs again only if its process died before its result was recorded.
    assert set(ran) == set(range(STEPS))
    assert sum(ran.values()) - STEPS <= kills
    print(f"{kills} kills, {sum(ran.values()) - STEPS} steps ran again before they were recorded")
    assert kills == KILLS


def _recorded(folder: Path) -> list[Any]:
    """Operation and result of every recorded step; the first step is number 0."""
    with aios.sync.Client(f"sqlite://{folder}/runs.db") as client:
        journal = client.handle("long-1").journal(limit=10_000)
    return [
        (event.event.data["operation"], event.event.data["result"])
        for event in journal
        if event.event.type == "workflows.long.step_completed"
    ]


def _ran(folder: Path) -> Counter[int]:
    """Number of executions of each step."""
    path = folder / "ran"
    return Counter(map(int, path.read_text().split()) if path.exists() else [])


def _wait_for_start(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    path = folder / "started"
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if path.exists() and len(path.read_text()) >= count:
            return
        if process.poll() is not None:
            output, errors = process.communicate()
            raise AssertionError(f"the process ended: {output}\n{errors}")
        time.sleep(0.002)
    raise AssertionError("the process does not start")
