"""A database that Python's own `sqlite3` has open in another process: its readers and writers take turns
with the runtime, and nothing is lost."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import aios
import pytest
from conftest import finish

Start = Callable[..., subprocess.Popen[str]]

#: Another program with the database. It holds it for a time, `read` or `write`.
HOLDER = """
import sqlite3, sys, time

path, kind, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
database = sqlite3.connect(path, isolation_level=None, timeout=60)
database.execute("CREATE TABLE IF NOT EXISTS notes (text TEXT)")
if kind == "read":
    database.execute("BEGIN")
    seen = database.execute("SELECT count(*) FROM events").fetchone()[0]
else:
    database.execute("BEGIN IMMEDIATE")
    database.execute("INSERT INTO notes VALUES ('here')")
print("holds", flush=True)
time.sleep(seconds)
if kind == "read":
    # A reader sees one state, whatever the runtime writes in the meantime.
    assert database.execute("SELECT count(*) FROM events").fetchone()[0] == seen
database.execute("COMMIT")
database.close()
"""

#: How long a lock lasts that is longer than two writes of the runtime wait for one, in seconds.
TOO_LONG = 14.0


@aios.agent("double")
async def double(context: aios.TaskContext, number: int) -> int:
    return number * 2


@aios.workflow("counts")
async def counts(context: aios.WorkflowContext, rounds: int) -> int:
    total = 0
    for number in range(rounds):
        total += await context.task("double", number, result=int)
        total += await context.step("one", int, 1)
        if number % 5 == 0:
            await context.sleep(0.01)
    return total


def expected(rounds: int) -> int:
    return rounds * (rounds - 1) + rounds


def held(holder: subprocess.Popen[str]) -> None:
    """Waits until the other program holds the database."""
    assert holder.stdout is not None
    line = holder.stdout.readline()
    assert line == "holds\n", (line, finish(holder))


def check(path: Path, runs: int, rounds: int) -> None:
    """Checks that every operation is recorded once, and that the file is intact."""
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = database.execute("SELECT type, count(*) FROM event_log GROUP BY type")
        found: Counter[str] = Counter(dict(rows))
    database.close()
    assert found["workflows.counts.completed"] == runs
    assert found["workflows.counts.step_completed"] == runs * rounds
    assert found["agents.double.task_completed"] == runs * rounds


async def test_should_take_turns_with_readers_and_writers(script: Start, tmp_path: Path) -> None:
    path, runs, rounds = tmp_path / "shared.db", 4, 40
    async with aios.Runtime(f"sqlite://{path}", agents=[double], workflows=[counts]) as runtime:
        started = [await runtime.start(counts, rounds) for _ in range(runs)]
        writers = 0
        for kind, seconds in [("read", 1.0), ("write", 2.0), ("read", 0.1), ("write", 0.5)]:
            holders = [script(HOLDER, str(path), kind, str(seconds))]
            holders.append(script(HOLDER, str(path), "read", "0.5"))
            writers += kind == "write"
            for holder in holders:
                code, _, errors = await asyncio.to_thread(finish, holder)
                assert code == 0, errors
        assert [await run.result() for run in started] == [expected(rounds)] * runs
        for run in started:
            assert (await run.status()).status == "completed"
    check(path, runs, rounds)
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM notes").fetchone() == (writers,)
    database.close()


async def test_should_name_a_lock_that_lasts_too_long_and_continue_after_it(
    script: Start, tmp_path: Path
) -> None:
    path, rounds = tmp_path / "shared.db", 30
    async with aios.Runtime(
        f"sqlite://{path}", agents=[double], workflows=[counts], lease_time=60.0
    ) as runtime:
        run = await runtime.start(counts, rounds)
        holder = script(HOLDER, str(path), "write", str(TOO_LONG))
        await asyncio.to_thread(held, holder)
        begun = time.monotonic()
        with pytest.raises(aios.StoreError, match="database is locked") as raised:
            # One of these meets the lock while it is held.
            while time.monotonic() < begun + TOO_LONG:
                await runtime.start(counts, rounds, id="late")
        assert (raised.value.code, raised.value.retryable) == ("STORE_BACKEND", True)
        code, _, errors = await asyncio.to_thread(finish, holder)
        assert code == 0, errors
        # The same call succeeds after the lock, and starts one run.
        late = await runtime.start(counts, rounds, id="late")
        assert await late.result() == await run.result() == expected(rounds)
    check(path, 2, rounds)


async def test_should_open_after_a_lock_of_another_program(script: Start, tmp_path: Path) -> None:
    path, rounds = tmp_path / "shared.db", 3
    url = f"sqlite://{path}"
    async with aios.Runtime(url, agents=[double], workflows=[counts]) as runtime:
        assert await (await runtime.start(counts, rounds)).result() == expected(rounds)
    holder = script(HOLDER, str(path), "write", "2")
    await asyncio.to_thread(held, holder)
    async with aios.Runtime(url, agents=[double], workflows=[counts]) as runtime:
        assert await (await runtime.start(counts, rounds)).result() == expected(rounds)
    assert (await asyncio.to_thread(finish, holder))[0] == 0
    check(path, 2, rounds)
