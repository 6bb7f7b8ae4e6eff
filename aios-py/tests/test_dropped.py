"""Runtimes that are dropped, or whose loop is closed, while they are open."""

from __future__ import annotations

import asyncio
import gc
import os
import queue
import signal
import socket
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aios
import aios.sync
import pytest
from aios._clients.blocking import EventLoopThread
from aios._threads import start_threads
from conftest import finish

Start = Callable[..., subprocess.Popen[str]]


@aios.agent("plain")
def plain(context: aios.TaskContext, parameters: int) -> int:
    return parameters


@aios.workflow("waits")
async def waits(context: aios.WorkflowContext) -> str:
    return await context.signal("never", result=str)


def runtime() -> aios.Runtime:
    return aios.Runtime(agents=[plain], workflows=[waits], workers=2, threads=2)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def settled(read: Callable[[], int], expected: int) -> int:
    """Reads a value until it is at most the expected one, because threads take a moment to end."""
    until = time.monotonic() + 30
    while (found := read()) > expected and time.monotonic() < until:
        gc.collect()
        time.sleep(0.02)
    return found


@pytest.fixture(autouse=True)
def no_waker_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert signal.set_wakeup_fd(-1) == -1


async def leave_open() -> None:
    dropped = runtime()
    await dropped.open()
    await dropped.start(waits)
    assert await dropped.call("plain", 1) == 1


def unclosed(action: Callable[[], object]) -> list[str]:
    """Collects the warnings about unclosed objects."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
        gc.collect()
    return [str(one.message) for one in caught if one.category is ResourceWarning]


def test_should_end_the_threads_of_a_runtime_whose_loop_was_closed() -> None:
    asyncio.run(leave_open())  # Threads that stay for the process are there now.
    before = settled(threads, 0 + threads()), descriptors()
    for number in range(30):
        texts = unclosed(lambda: asyncio.run(leave_open()))
        assert texts == ["unclosed aios.Runtime: use `async with`, or await its close()"], number
    assert settled(threads, before[0]) <= before[0]
    assert settled(descriptors, before[1]) <= before[1]


def test_should_close_a_referenced_runtime_whose_loop_was_closed() -> None:
    held = runtime()

    async def open_it() -> None:
        await held.open()

    assert len(unclosed(lambda: asyncio.run(open_it()))) == 1

    async def use_it() -> None:
        with pytest.raises(aios.RuntimeClosedError):
            await held.call("plain", 1)
        async with held:
            assert await held.call("plain", 2) == 2

    assert unclosed(lambda: asyncio.run(use_it())) == []


async def test_should_close_a_runtime_that_is_dropped_while_its_loop_runs() -> None:
    await leave_open()
    gc.collect()
    before = threads()
    for _ in range(10):
        await leave_open()
        gc.collect()
    assert settled(threads, before) <= before
    async with runtime() as other:
        assert await other.call("plain", 3) == 3


async def test_should_close_a_runtime_that_is_dropped_on_another_thread() -> None:
    kept = [runtime()]
    await kept[0].open()
    waiting = asyncio.ensure_future((await kept[0].start(waits)).result())
    await asyncio.sleep(0)
    async with runtime() as other:
        thread = threading.Thread(target=kept.clear)
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.01)
        with pytest.raises(aios.RuntimeClosedError):
            await waiting
        assert await other.call("plain", 4) == 4


def test_should_close_a_sync_runtime_that_is_dropped() -> None:
    def drop() -> None:
        dropped = aios.sync.Runtime(agents=[plain], workers=2, threads=2)
        dropped.open()
        assert dropped.call("plain", 5) == 5

    drop()
    gc.collect()
    before = threads()
    for _ in range(10):
        assert len(unclosed(drop)) == 1
    assert settled(threads, before) <= before


def test_should_fail_a_call_when_its_sync_runtime_is_dropped() -> None:
    failed: list[BaseException] = []

    def wait(run: aios.sync.RunHandle[str]) -> None:
        try:
            run.result()
        except aios.RuntimeClosedError as error:
            failed.append(error)

    def drop() -> None:
        dropped = aios.sync.Runtime(workflows=[waits], workers=1)
        dropped.open()
        thread = threading.Thread(target=wait, args=(dropped.start(waits),), daemon=True)
        waiting.append(thread)
        thread.start()
        time.sleep(0.1)

    waiting: list[threading.Thread] = []
    assert len(unclosed(drop)) == 1
    waiting[0].join(30)
    assert len(failed) == 1


async def same(value: int) -> int:
    return value


def test_should_fail_the_calls_of_other_threads_when_a_loop_is_stopped() -> None:
    failed: list[BaseException] = []

    def work(loop: EventLoopThread) -> None:
        try:
            while True:
                assert loop.call(same(1)) == 1
        except aios.RuntimeClosedError as error:
            failed.append(error)

    for _ in range(10):
        loop = EventLoopThread()
        workers = [threading.Thread(target=work, args=(loop,), daemon=True) for _ in range(3)]
        for worker in workers:
            worker.start()
        time.sleep(0.01)
        loop.stop()
        for worker in workers:
            worker.join(10)
            assert not worker.is_alive()
    assert len(failed) == 30


def test_should_replace_a_thread_that_an_exception_ends() -> None:
    class Stop(BaseException):
        pass

    calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
    names: list[str] = []

    class Pool:
        """A pool that has at most one thread."""

        threads = 0

        def next(self) -> Any:
            found = calls.get()
            return None if found is None else (found, ())

        def reserve_thread(self, limit: int) -> int | None:
            if self.threads == limit:
                return None
            self.threads += 1
            return self.threads

        def release_thread(self) -> None:
            self.threads -= 1

    def fail() -> None:
        raise Stop

    pool: Any = Pool()
    reported = threading.excepthook
    threading.excepthook = lambda arguments: names.append(arguments.exc_type.__name__)
    try:
        start_threads(pool, 1, "tested")
        for call in (fail, lambda: names.append("called"), None):
            calls.put(call)
        until = time.monotonic() + 30
        while len(names) < 2 and time.monotonic() < until:
            time.sleep(0.01)
    finally:
        threading.excepthook = reported
    assert sorted(names) == ["Stop", "called"]


async def test_should_fail_to_open_without_a_thread_for_plain_functions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened, original = runtime(), threading.Thread.start
    for first in ("aios-steps", "aios-plain"):

        def start(thread: threading.Thread, refused: str = first) -> None:
            if thread.name.startswith(refused):
                raise RuntimeError("can't start new thread")
            original(thread)

        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", start)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await opened.open()
    async with opened:
        assert await opened.call("plain", 1) == 1


def test_should_isolate_a_new_runtime_from_one_that_was_dropped() -> None:
    async def fails() -> None:
        async with runtime():
            raise ValueError("mine")

    for _ in range(50):
        unclosed(lambda: asyncio.run(leave_open()))
        # Reuses the descriptors that have just been closed.
        pair = socket.socketpair()
        with pytest.raises(ValueError, match="mine"):
            asyncio.run(fails())
        assert pair[0].send(b"x") == 1 and pair[1].recv(1) == b"x"
        for end in pair:
            end.close()


def test_should_keep_a_wakeup_descriptor_of_other_code() -> None:
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno())
    try:
        unclosed(lambda: asyncio.run(leave_open()))
        assert signal.set_wakeup_fd(writer.fileno()) == writer.fileno()
    finally:
        signal.set_wakeup_fd(before)
        reader.close()
        writer.close()


async def test_should_wake_on_signals_while_one_of_two_runtimes_is_open() -> None:
    async with runtime():
        async with runtime():
            pass
        assert signal.set_wakeup_fd(-1) != -1


def test_should_reopen_a_database_right_after_it_was_dropped(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path / 'a.db'}"

    async def leave() -> None:
        dropped = aios.Runtime(url, workflows=[waits])
        await dropped.open()
        await dropped.start(waits, id="a")

    async def again() -> None:
        async with aios.Runtime(url, workflows=[waits]) as opened:
            assert (await (await opened.handle("a")).status()).status == "running"

    for _ in range(5):
        unclosed(lambda: asyncio.run(leave()))
        asyncio.run(again())


def test_should_exit_a_program_that_keeps_dropping_runtimes(script: Start) -> None:
    status, output, errors = finish(
        script(
            """
import asyncio, gc, threading
import aios

@aios.agent("plain")
def plain(context: aios.TaskContext, parameters: int) -> int:
    return parameters

async def main(number):
    runtime = aios.Runtime(agents=[plain], workers=1, threads=1)
    await runtime.open()
    if number % 2:
        await runtime.call("plain", number)
    if number % 3 == 0:
        runtime.itself = runtime

for number in range(40):
    asyncio.run(main(number))
del number
gc.collect()
print(sum(thread.name.startswith("aios-0") for thread in threading.enumerate()) < 5)
"""
        )
    )
    assert (status, output, errors) == (0, "True\n", "")
