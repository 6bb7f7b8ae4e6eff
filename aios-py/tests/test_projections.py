from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import aios
import aios.sync
import pytest

QUICK = aios.RetryPolicy.fixed(3, 0.01)


@aios.workflow("place")
async def place(context: aios.WorkflowContext, numbers: list[int]) -> None:
    for number in numbers:
        context.emit("orders.order.placed", {"number": number})
        context.emit("users.user.seen", number)


async def placed(runtime: aios.Runtime, *numbers: int) -> None:
    await (await runtime.start(place, list(numbers))).result()


async def eventually(what: str, holds: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(3_000):
        if await holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{what} did not come about")


def numbers_of(batch: aios.Batch) -> list[int]:
    return [recorded.event.data["number"] for recorded in batch.events]


@pytest.mark.parametrize("is_async", [True, False])
async def test_should_apply_matching_events_once_and_in_order_across_restarts(
    tmp_path: Path, is_async: bool
) -> None:
    seen: list[int] = []
    threads: set[str] = set()

    def apply_plain(batch: aios.Batch) -> None:
        threads.add(threading.current_thread().name)
        assert len(batch.events) <= 2
        seen.extend(numbers_of(batch))

    async def apply_async(batch: aios.Batch) -> None:
        await asyncio.sleep(0)
        apply_plain(batch)

    for round in range(2):
        async with aios.Runtime(f"sqlite://{tmp_path}/a.db", workflows=[place]) as runtime:
            orders = await runtime.projection(
                "orders",
                apply_async if is_async else apply_plain,
                patterns=["orders.#"],
                batch_size=2,
            )
            assert orders.name == "orders"
            await placed(runtime, *range(round * 5, round * 5 + 5))

            async def caught_up() -> bool:
                return len(seen) >= round * 5 + 5 and await orders.lag() == 0

            await eventually("the projection caught up", caught_up)
            assert await orders.position() == await runtime.head()
    assert seen == list(range(10))
    assert threads == ({"MainThread"} if is_async else {"aios-projection-orders-1"})


async def test_should_dead_letter_a_failing_event_and_redrive_it() -> None:
    seen: list[int] = []
    attempts: list[int] = []
    healthy = False

    async def apply(batch: aios.Batch) -> None:
        numbers = numbers_of(batch)
        if 3 in numbers and not healthy:
            if len(numbers) == 1:
                attempts.append(batch.attempt)
            raise ValueError("three is bad")
        assert batch.is_redriven == (numbers == [3])
        seen.extend(numbers)

    async with aios.Runtime(workflows=[place]) as runtime:
        orders = await runtime.projection("orders", apply, patterns=["orders.#"], retry=QUICK)
        await placed(runtime, *range(6))

        async def listed() -> bool:
            return len(await orders.dead_letters()) == 1 and len(seen) == 5

        await eventually("the dead letter", listed)
        assert attempts == [1, 2, 3]
        assert seen == [0, 1, 2, 4, 5]
        [letter] = await runtime.projection_handle("orders").dead_letters()
        assert (letter.event_type, letter.attempts) == ("orders.order.placed", 3)
        assert letter.failure.code == "TASK_FAILED"
        assert letter.failure.message == "ValueError: three is bad"
        assert await orders.dead_letters(after=letter.position) == []

        healthy = True
        await orders.redrive(letter.position)

        async def gone() -> bool:
            return await orders.dead_letters() == []

        await eventually("the end of the dead letter", gone)
        assert seen == [0, 1, 2, 4, 5, 3]
        with pytest.raises(aios.DeadLetterNotFoundError) as caught:
            await orders.redrive(letter.position)
        assert caught.value.code == "DEAD_LETTER_NOT_FOUND"


async def test_should_reach_the_end_of_the_log_although_every_event_fails() -> None:
    """The record of a dead letter is an event too, which the projections would get in turn."""

    async def apply(batch: aios.Batch) -> None:
        raise aios.TaskError.terminal("no", code="REFUSED")

    async with aios.Runtime(workflows=[place]) as runtime:
        await placed(runtime, 1)
        failing = [await runtime.projection(name, apply) for name in ("one", "other")]

        async def is_at_the_end() -> bool:
            return [await it.lag() for it in failing] == [0, 0]

        await eventually("the end of the log", is_at_the_end)
        letters = {letter.event_type for it in failing for letter in await it.dead_letters()}
        assert "orders.order.placed" in letters
        assert "system.projection.projection_failed" not in letters


async def test_should_skip_permanent_failures_immediately() -> None:
    tried: list[int] = []

    def apply(batch: aios.Batch) -> None:
        tried.extend(numbers_of(batch))
        raise aios.TaskError.terminal("never", code="REFUSED", details={"a": 1})

    async with aios.Runtime(workflows=[place]) as runtime:
        orders = await runtime.projection("orders", apply, patterns=["orders.#"])
        await placed(runtime, 7)

        async def listed() -> bool:
            return len(await orders.dead_letters()) == 1

        await eventually("the dead letter", listed)
        [letter] = await orders.dead_letters()
    assert tried == [7]
    assert letter.failure == aios.Failure("REFUSED", "never", {"a": 1})


async def test_should_apply_each_event_exactly_once_to_a_view_that_stores_the_position(
    tmp_path: Path,
) -> None:
    view = sqlite3.connect(tmp_path / "view.db", check_same_thread=False)
    view.executescript(
        "CREATE TABLE orders (number INTEGER); CREATE TABLE place (position INTEGER);"
        "INSERT INTO place VALUES (0)"
    )
    failing = True

    def load() -> int:
        [(position,)] = view.execute("SELECT position FROM place")
        return int(position)

    def apply(batch: aios.Batch) -> None:
        nonlocal failing
        with view:
            for number in numbers_of(batch):
                view.execute("INSERT INTO orders VALUES (?)", (number,))
                if number == 4 and failing:
                    failing = False
                    raise OSError("the disk is away")
            view.execute("UPDATE place SET position = ?", (batch.position,))

    url = f"sqlite://{tmp_path}/a.db"
    for round in range(2):
        async with aios.Runtime(url, workflows=[place]) as runtime:
            await runtime.projection(
                "orders", apply, patterns=["orders.#"], retry=QUICK, position_from=load
            )
            await placed(runtime, *range(round * 5, round * 5 + 5))

            async def complete() -> bool:
                [(count,)] = view.execute("SELECT count(*) FROM orders")
                return bool(count >= round * 5 + 5)

            await eventually("the view", complete)
    assert [number for (number,) in view.execute("SELECT number FROM orders")] == list(range(10))
    view.close()


@pytest.mark.parametrize("others", [2, 5])
async def test_should_apply_what_is_left_of_a_batch_that_another_process_has_applied(
    others: int, tmp_path: Path
) -> None:
    view = sqlite3.connect(tmp_path / "view.db", check_same_thread=False)
    view.executescript(
        "CREATE TABLE orders (number INTEGER); CREATE TABLE place (position INTEGER);"
        "INSERT INTO place VALUES (0)"
    )

    def load() -> int:
        [(position,)] = view.execute("SELECT position FROM place")
        return int(position)

    def change(events: Sequence[aios.RecordedEvent], before: int, position: int) -> None:
        with view:
            move = "UPDATE place SET position = ? WHERE position < ?"
            if view.execute(move, (position, before)).rowcount == 0:
                raise RuntimeError("another process has applied some of the events")
            rows = [(recorded.event.data["number"],) for recorded in events]
            view.executemany("INSERT INTO orders VALUES (?)", rows)

    def apply(batch: aios.Batch) -> None:
        events = batch.events
        first = events[0].position if events else batch.position
        if len(events) == 5:
            # As if this process was frozen here, longer than its lease.
            change(events[:others], first, events[others - 1].position)
        change(events, first, batch.position)

    async with aios.Runtime(f"sqlite://{tmp_path}/a.db", workflows=[place]) as runtime:
        await placed(runtime, *range(5))
        orders = await runtime.projection(
            "orders", apply, patterns=["orders.#"], retry=QUICK, position_from=load
        )

        async def complete() -> bool:
            return await orders.lag() == 0

        await eventually("the view", complete)
        assert await orders.dead_letters() == []
    assert [number for (number,) in view.execute("SELECT number FROM orders")] == list(range(5))
    view.close()


async def test_should_cancel_a_running_batch_when_the_runtime_closes() -> None:
    began = asyncio.Event()
    ended: list[str] = []

    async def apply(batch: aios.Batch) -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async with aios.Runtime(workflows=[place], shutdown_timeout=0.1) as runtime:
        await runtime.projection("orders", apply, patterns=["orders.#"])
        await placed(runtime, 1)
        await began.wait()
        with contextlib.suppress(aios.ShutdownTimeoutError):
            await runtime.close()
        await asyncio.sleep(0)
        assert ended == ["cancelled"]
        with pytest.raises(aios.RuntimeClosedError):
            runtime.projection_handle("orders")


async def coroutine() -> None: ...


async def async_generator() -> AsyncIterator[int]:
    yield 1


def generator() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("make", [coroutine, async_generator, generator])
async def test_should_not_take_a_batch_for_applied_that_a_function_leaves_undone(
    make: Callable[[], Any],
) -> None:
    async with aios.Runtime(workflows=[place]) as runtime:
        orders = await runtime.projection("orders", lambda batch: make(), patterns=["orders.#"])
        await placed(runtime, 1)

        async def applied() -> bool:
            return await orders.lag() == 0

        await eventually("the end of the log", applied)
        (letter,) = await orders.dead_letters()
    assert letter.failure.code == "INVALID_OUTPUT"
    assert "it has not applied the batch" in letter.failure.message


async def test_should_reject_invalid_projections() -> None:
    async def apply(batch: aios.Batch) -> None: ...

    async def yields(batch: aios.Batch) -> AsyncIterator[int]:
        yield 1

    def yields_plainly(batch: aios.Batch) -> Iterator[int]:
        yield 1

    refused: list[tuple[str, Any, dict[str, Any]]] = [
        ("can't be the name", apply, {"name": "Bad-Name"}),
        ("must be a function of a batch, not 1", 1, {}),
        ("must be a function of a batch", lambda: None, {}),
        ("must apply its batch, not yield", yields, {}),
        ("must apply its batch, not yield", yields_plainly, {}),
        ("patterns is a list", apply, {"patterns": "orders.#"}),
        ("pattern", apply, {"patterns": ["Orders!"]}),
        ("batch_size must be at least 1", apply, {"batch_size": 0}),
        ("must be 1 to 10000", apply, {"batch_size": 10_001}),
        ("lease_time", apply, {"lease_time": 0.0}),
        ("position_from", apply, {"position_from": lambda one: one}),
    ]
    async with aios.Runtime() as runtime:
        for says, function, options in refused:
            name = options.pop("name", "orders")
            with pytest.raises(aios.ConfigurationError, match=says):
                await runtime.projection(name, function, **options)
        for size in ("1", 1.5, None):
            with pytest.raises(TypeError, match="batch_size must be an int"):
                await runtime.projection("orders", apply, batch_size=cast("Any", size))
    async with aios.Runtime(None) as runtime:
        with pytest.raises(aios.ConfigurationError):
            await runtime.projection("orders", apply)


@pytest.mark.parametrize("position", ["no position", -1, True])
async def test_should_stop_if_position_from_returns_no_position(
    position: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def load() -> int:
        found: int = position
        return found

    async def stopped() -> bool:
        return "not a position of the log" in caplog.text

    async def apply(batch: aios.Batch) -> None:
        raise AssertionError("the projection has no position")

    runtime = aios.Runtime(workflows=[place])
    await runtime.open()
    await runtime.projection("orders", apply, patterns=["orders.#"], position_from=load)
    await eventually("the stop", stopped)
    with pytest.raises(aios.AiosError, match="not a position of the log") as raised:
        await runtime.close()
    assert raised.value.code == "PROJECTION_STOPPED"
    assert str(raised.value).count("INVALID_OUTPUT") == 1


def test_should_run_projections_without_async(tmp_path: Path) -> None:
    seen: list[int] = []
    applied = threading.Event()

    def apply(batch: aios.Batch) -> None:
        seen.extend(numbers_of(batch))
        applied.set()

    url = f"sqlite://{tmp_path}/a.db"
    with aios.sync.Runtime(url, workflows=[place]) as runtime:
        orders = runtime.projection("orders", apply, patterns=["orders.#"])
        runtime.start(place, [1, 2]).result()
        assert applied.wait(30)
        assert orders.dead_letters() == []
        assert runtime.projection_handle("orders").name == orders.name
        with pytest.raises(aios.DeadLetterNotFoundError):
            orders.redrive(1)


async def test_should_retire_a_projection_that_no_process_runs(tmp_path: Path) -> None:
    async def apply(batch: aios.Batch) -> None:
        assert batch.events

    url = f"sqlite://{tmp_path}/a.db"
    async with aios.Runtime(url, workflows=[place]) as runtime:
        orders = await runtime.projection("orders", apply)

        async def begun() -> bool:
            return await orders.position() > 0

        await placed(runtime, 1)
        await eventually("the projection runs", begun)
        with pytest.raises(aios.ConfigurationError, match="a process runs the projection orders"):
            await orders.retire()
    async with aios.Runtime(url, workflows=[place]) as runtime:
        orders = runtime.projection_handle("orders")
        assert await orders.retire()
        assert await orders.position() == 0
        assert not await orders.retire()


@aios.workflow("short")
async def short(context: aios.WorkflowContext, text: str) -> str:
    return text


@pytest.mark.parametrize("archive", [False, True])
async def test_should_remove_finished_runs_and_compact_the_file(
    tmp_path: Path, archive: bool
) -> None:
    path = tmp_path / "a.db"
    async with aios.Runtime(f"sqlite://{path}", workflows=[short], relay=False) as runtime:
        for number in range(40):
            await (await runtime.start(short, "x" * 20_000, id=f"run-{number}")).result()
        assert await runtime.expire_runs(3_600) == 0
        removed = await runtime.expire_runs(0, archive=archive, batch_size=7, pause=0)
        # The run with the last event of the log is kept.
        assert removed == 39
        assert [row.id for row in (await runtime.runs()).rows] == ["run-39"]
        with pytest.raises(aios.RunNotFoundError):
            await runtime.handle("run-1")
        freed = await runtime.compact()
        assert freed > 0
        again = await runtime.start(short, "again", id="run-1")
        assert await again.result() == "again"
    with contextlib.closing(sqlite3.connect(path)) as database:
        [(archived,)] = database.execute("SELECT count(*) > 0 FROM archived_events")
    assert bool(archived) is archive


@aios.agent("printer")
async def printer(context: aios.TaskContext, text: str) -> None:
    context.stream("pages").write(text)


async def test_should_remove_output_streams_and_answers_to_requests(tmp_path: Path) -> None:
    store = f"sqlite://{tmp_path}/a.db"
    async with aios.Runtime(store, agents=[printer], workflows=[short], relay=False) as runtime:
        run = await runtime.task("printer", "a")
        await run.result()
        assert [item.value async for item in run.stream("pages")] == ["a"]
        url = await aios.asgi(runtime).listen("127.0.0.1:0")
        async with aios.RemoteClient(url) as client:
            for text in ("b", "c"):
                await (await client.start("short", text)).result()
        # A stream with the last event of the log would be kept.
        await (await runtime.start(short, "d")).result()
        assert await runtime.expire_streams("outputs", 3_600) == 0
        assert await runtime.expire_streams("outputs", 0) == 1
        assert await runtime.expire_streams("requests", 3_600) == 0
        assert await runtime.expire_streams("requests", 0, batch_size=1, pause=0) == 2
        assert [item.value async for item in run.stream("pages")] == []
        left = [recorded.stream async for recorded in runtime.log()]
        assert not [it for it in left if it.startswith(("outputs/", "system/requests/"))]


async def test_should_explain_what_can_not_be_removed_or_compacted() -> None:
    async with aios.Runtime(workflows=[short]) as runtime:
        await (await runtime.start(short, "a")).result()
        await (await runtime.start(short, "b")).result()
        with pytest.raises(aios.ConfigurationError, match="no archive"):
            await runtime.expire_runs(0, archive=True)
        with pytest.raises(aios.ConfigurationError, match="no file to compact"):
            await runtime.compact()
        with pytest.raises(aios.ConfigurationError, match="batch_size"):
            await runtime.expire_runs(0, batch_size=0)
        with pytest.raises(aios.InvalidDataError, match="-1"):
            await runtime.expire_runs(-1)
        with pytest.raises(aios.ConfigurationError, match="'requests' or 'outputs', not 'runs'"):
            await runtime.expire_streams(cast("Any", "runs"), 0)
        with pytest.raises(aios.ConfigurationError, match="batch_size"):
            await runtime.expire_streams("outputs", 0, batch_size=0)
    async with aios.Client(None) as client:
        with pytest.raises(aios.ConfigurationError, match="no store"):
            await client.expire_runs(0)
        with pytest.raises(aios.ConfigurationError, match="no store"):
            await client.expire_streams("requests", 0)


def test_should_remove_finished_runs_without_async(tmp_path: Path) -> None:
    with aios.sync.Runtime(f"sqlite://{tmp_path}/a.db", workflows=[short], relay=False) as runtime:
        for text in ("a", "b"):
            runtime.start(short, text).result()
        assert runtime.expire_runs(0, pause=0) == 1
        assert runtime.expire_streams("outputs", 0) == 0
        assert runtime.compact() >= 0
