"""Workflow code that uses asyncio, or leaves async generators open."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import aios
import pytest
from aios.testing import WorkflowTest
from conftest import finish


async def same(value: int) -> int:
    return value


async def sleep(context: aios.WorkflowContext) -> None:
    await asyncio.sleep(1)


async def sleep_until_it_succeeds(context: aios.WorkflowContext) -> None:
    while True:
        with contextlib.suppress(Exception):
            await asyncio.sleep(1)
            return


async def sleep_in_a_branch(context: aios.WorkflowContext) -> None:
    async def branch() -> None:
        with contextlib.suppress(Exception):
            await asyncio.sleep(0)

    await context.gather(branch(), context.sleep(0.01))


async def sleep_in_a_branch_that_returns_errors(context: aios.WorkflowContext) -> None:
    await context.gather(sleep(context), return_exceptions=True)


async def lock(context: aios.WorkflowContext) -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    await lock.acquire()


async def create_task(context: aios.WorkflowContext) -> None:
    coroutine = same(1)
    try:
        asyncio.ensure_future(coroutine)
    finally:
        coroutine.close()


async def generator_that_awaits_when_closed(context: aios.WorkflowContext) -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await context.sleep(1)

    async for _ in numbers():
        break


async def branch_that_awaits_when_cancelled(context: aios.WorkflowContext) -> None:
    async def branch() -> None:
        try:
            await context.sleep(60)
        finally:
            await context.sleep(1)

    await context.race(branch(), context.sleep(0.01))


@pytest.mark.parametrize(
    ("use", "explanation"),
    [
        (sleep, "instead of asyncio.sleep use"),
        (sleep_until_it_succeeds, "instead of asyncio.sleep use"),
        (sleep_in_a_branch, "None was awaited"),
        (sleep_in_a_branch_that_returns_errors, "asyncio can't be used"),
        (lock, "asyncio can't be used"),
        (create_task, "asyncio can't be used"),
        (generator_that_awaits_when_closed, "contextlib.aclosing"),
        (branch_that_awaits_when_cancelled, "branch awaits in a `finally`"),
    ],
)
async def test_should_block_a_run_whose_code_catches_the_error(
    use: Callable[[aios.WorkflowContext], Awaitable[None]], explanation: str, tmp_path: Path
) -> None:
    def make(is_correct: bool) -> aios.Workflow[None, int]:
        @aios.workflow("careless")
        async def careless(context: aios.WorkflowContext) -> int:
            if not is_correct:
                with contextlib.suppress(Exception):
                    await use(context)
            # A blocked run has not recorded this: the corrected code requests something else.
            return await context.step("right" if is_correct else "wrong", same, 1)

        return careless

    store = f"sqlite://{tmp_path}/careless.db"
    async with aios.Runtime(store, workflows=[make(False)]) as runtime:
        run = await runtime.start("careless", id="run")
        with pytest.raises(aios.RunBlockedError, match=explanation):
            await run.result()
        names = [recorded.event.type for recorded in await run.journal()]
    assert not any("step" in name for name in names), names
    if use not in (sleep, lock, create_task):
        return
    async with aios.Runtime(store, workflows=[make(True)]) as runtime:
        run = await runtime.handle("run")
        await run.resume()
        assert await run.result() == 1


async def test_should_block_a_run_whose_code_calls_a_client() -> None:
    clients: list[aios.Runtime] = []

    @aios.workflow("careless")
    async def careless(context: aios.WorkflowContext) -> int:
        with contextlib.suppress(Exception):
            await clients[0].publish("shop.order.placed", 1)
        return await context.step("wrong", same, 1)

    async with aios.Runtime(workflows=[careless]) as runtime:
        clients.append(runtime)
        run = await runtime.start(careless)
        with pytest.raises(aios.RunBlockedError, match="can't be used in a workflow"):
            await run.result()
        names = [recorded.event.type for recorded in await run.journal()]
    assert not any("step" in name for name in names), names


async def test_should_leave_objects_of_asyncio_usable_outside_of_the_workflow() -> None:
    """Those that a workflow awaited by mistake: the run is blocked whenever it is loaded, and an agent can
    use them."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @aios.agent("takes")
    async def takes(context: aios.TaskContext) -> int:
        return await queue.get() + await future

    @aios.workflow("wrong")
    async def wrong(context: aios.WorkflowContext, name: str) -> int:
        with contextlib.suppress(Exception):
            return await (queue.get() if name == "queue" else future)
        return 0

    async with aios.Runtime(agents=[takes], workflows=[wrong]) as runtime:
        for name in ("queue", "future"):
            run = await runtime.start(wrong, name)
            for _ in range(2):
                with pytest.raises(aios.RunBlockedError, match="use"):
                    await run.result()
                await run.resume()
                await asyncio.sleep(0.2)
            assert (await run.status()).status == "blocked"
        task = await runtime.task("takes", None, retry=aios.RetryPolicy.fixed(1, 0))
        await asyncio.sleep(0.2)
        queue.put_nowait(1)
        future.set_result(2)
        assert await task.result() == 3


def run(coroutine: Coroutine[Any, Any, Any]) -> None:
    asyncio.run(coroutine)


def run_in_a_new_loop(coroutine: Coroutine[Any, Any, Any]) -> None:
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(coroutine)
    finally:
        loop.close()


def run_in_a_loop_of_uvloop(coroutine: Coroutine[Any, Any, Any]) -> None:
    loop = pytest.importorskip("uvloop").new_event_loop()
    try:
        loop.run_until_complete(coroutine)
    finally:
        loop.close()


@pytest.mark.parametrize("start", [run, run_in_a_new_loop, run_in_a_loop_of_uvloop])
async def test_should_block_a_run_whose_code_starts_an_event_loop(
    start: Callable[[Coroutine[Any, Any, Any]], None],
) -> None:
    @aios.workflow("starts")
    async def starts(context: aios.WorkflowContext) -> None:
        coroutine = same(1)
        try:
            start(coroutine)
        finally:
            coroutine.close()

    async with aios.Runtime(workflows=[starts]) as runtime:
        blocked = await runtime.start(starts)
        with pytest.raises(aios.RunBlockedError, match="a workflow can't start an event loop"):
            await blocked.result()


async def test_should_close_a_generator_where_the_code_leaves_it() -> None:
    seen: list[str] = []

    @aios.workflow("leaving")
    async def leaving(context: aios.WorkflowContext) -> list[str]:
        async def numbers() -> AsyncIterator[int]:
            try:
                for number in range(5):
                    yield await context.step("number", same, number)
            finally:
                seen.append("closed")

        seen.clear()
        async for number in numbers():
            seen.append(str(number))
            if number == 1:
                break
        seen.append("after")
        await context.sleep(0.01)
        return list(seen)

    async with aios.Runtime(workflows=[leaving]) as runtime:
        run = await runtime.start(leaving)
        assert await run.result() == ["0", "1", "closed", "after"]


async def test_should_leave_generators_of_steps_to_the_event_loop() -> None:
    closed: list[Any] = []

    async def first() -> int:
        async def numbers() -> AsyncIterator[int]:
            try:
                yield 1
            finally:
                await asyncio.sleep(0)
                closed.append(1)

        async for number in numbers():
            return number
        return 0

    @aios.workflow("stepping")
    async def stepping(context: aios.WorkflowContext) -> int:
        number = await context.step("first", first)
        await context.sleep(0.1)
        return number

    async with aios.Runtime(workflows=[stepping]) as runtime:
        run = await runtime.start(stepping)
        assert await run.result() == 1
    assert closed == [1]


async def test_should_log_in_a_workflow() -> None:
    @aios.workflow("logging")
    async def logs(context: aios.WorkflowContext) -> str:
        # Python 3.12 asks for the current task here.
        logging.getLogger("test").warning("in a workflow")
        with contextlib.suppress(Exception):
            asyncio.current_task()
        return "logged"

    assert (await WorkflowTest(logs).run()).result() == "logged"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_should_leave_code_that_catches_every_exception() -> None:
    @aios.workflow("endless")
    async def endless(context: aios.WorkflowContext) -> None:
        while True:
            with contextlib.suppress(BaseException):
                await context.signal("item")

    async with aios.Runtime(workflows=[endless]) as runtime:
        # It leaves memory while it waits; then it is cancelled.
        run = await runtime.start(endless)
        await asyncio.sleep(0.2)
        await run.signal("item")
        await run.cancel("enough")
        with pytest.raises(aios.RunCancelledError):
            await run.result()


async def test_should_warn_about_a_cleanup_that_is_not_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @aios.workflow("cleanup")
    async def cleanup(context: aios.WorkflowContext) -> None:
        try:
            await context.signal("never")
        finally:
            await context.step("cleanup", same, 1)

    async with aios.Runtime(workflows=[cleanup]) as runtime:
        run = await runtime.start(cleanup)
        await run.cancel("enough")
        with pytest.raises(aios.RunCancelledError):
            await run.result()
        while "use `context.compensate`" not in caplog.text:
            await asyncio.sleep(0.01)


ENDLESS = """
import asyncio
import sys

import aios

@aios.workflow("endless")
async def endless(context: aios.WorkflowContext) -> str:
    async def again():
        while True:
            try:
                await context.sleep(100)
            except:
                continue

    async def same():
        operation = context.sleep(100)
        while True:
            try:
                await operation
            except:
                continue

    async def group():
        waiting = context.gather(context.sleep(100))
        while True:
            try:
                await waiting
            except:
                continue

    lose = {"again": again, "same": same, "group": group}[sys.argv[1]]
    kept = []
    if sys.argv[2] == "kept":
        kept.append(lose())
    await context.race(*kept or [lose()], context.sleep(0))
    return "kept"


async def main():
    async with aios.Runtime(workflows=[endless]) as runtime:
        run = await runtime.start(endless)
        try:
            print(await run.result())
        except aios.RunBlockedError as error:
            print(error)

asyncio.run(main())
"""


@pytest.mark.parametrize("kept", ["kept", "dropped"])
@pytest.mark.parametrize("loser", ["again", "same", "group"])
def test_should_leave_the_loser_of_a_race_that_catches_every_exception(
    script: Callable[..., subprocess.Popen[str]], loser: str, kept: str
) -> None:
    status, output, errors = finish(script(ENDLESS, loser, kept))
    assert status == 0, errors
    # The code is left at its next `await` while it is closed, or while it is freed.
    says = {"dropped": "awaits in a `finally`", "kept": "kept|catches BaseException and continues"}
    assert re.search(says[kept], output), output


@pytest.mark.parametrize("catches", [(), (Exception,), (BaseException,)])
@pytest.mark.parametrize("what", ["now", "uuid", "set_status", "emit", "sleep"])
async def test_should_block_a_run_that_makes_requests_without_end(
    what: str, catches: tuple[type[BaseException], ...]
) -> None:
    @aios.workflow("asks")
    async def asks(context: aios.WorkflowContext) -> None:
        requests: dict[str, Callable[[], object]] = {
            "now": context.now,
            "uuid": context.uuid,
            "set_status": lambda: context.set_status("asking"),
            "emit": lambda: context.emit("shop.order.placed"),
            "sleep": lambda: cast("Any", context.sleep(1)).close(),
        }
        while True:
            with contextlib.suppress(*catches):
                requests[what]()

    async with aios.Runtime(workflows=[asks], blocked_after=0.2) as runtime:
        run = await runtime.start(asks)
        with pytest.raises(aios.RunBlockedError) as blocked:
            await run.result()
        assert isinstance(blocked.value.__cause__, aios.AiosError)
        assert blocked.value.__cause__.code == "WORKFLOW_BUSY"
