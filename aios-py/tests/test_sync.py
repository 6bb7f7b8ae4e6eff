"""The blocking API is generated from the async one and has the same signatures."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib.util
import inspect
import signal
import sys
import threading
import time
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import aios
import aios.sync
import pytest
from aios._clients import blocking
from aios._clients.blocking import EventLoopThread

ROOT = Path(__file__).parent.parent

#: Methods with a timeout in the blocking API only.
WITH_TIMEOUT = {("RunHandle", "result")}

CLASSES = [
    (aios.Client, aios.sync.Client),
    (aios.RemoteClient, aios.sync.RemoteClient),
    (aios.Runtime, aios.sync.Runtime),
    (aios.RunHandle, aios.sync.RunHandle),
    (aios.ProjectionHandle, aios.sync.ProjectionHandle),
]


def generator() -> ModuleType:
    path = ROOT / "tools" / "generate_sync.py"
    spec = importlib.util.spec_from_file_location("generate_sync", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public_members(owner: type) -> dict[str, Any]:
    return {
        name: inspect.getattr_static(owner, name)
        for name in dir(owner)
        if name == "__init__" or not name.startswith("_")
    }


def signature(function: Callable[..., Any]) -> inspect.Signature:
    """The signature that the blocking version of a function should have."""
    found = inspect.signature(function)
    returns = str(found.return_annotation).replace("AsyncIterator[", "Iterator[")
    return found.replace(return_annotation=returns)


def test_should_be_what_the_generator_writes() -> None:
    package = ROOT / "python" / "aios"
    assert (package / "sync.py").read_text() == generator().generate(package)


@pytest.mark.parametrize(("with_async", "blocking"), CLASSES)
def test_should_have_the_members_of_the_async_class(with_async: type, blocking: type) -> None:
    assert public_members(blocking).keys() == public_members(with_async).keys()
    for name, member in public_members(blocking).items():
        assert name == "__init__" or inspect.getdoc(member), name


@pytest.mark.parametrize(("with_async", "blocking"), CLASSES)
def test_should_have_the_signatures_of_the_async_class(with_async: type, blocking: type) -> None:
    blocking_members = public_members(blocking)
    compared = 0
    for name, member in public_members(with_async).items():
        if isinstance(member, property):
            assert isinstance(blocking_members[name], property), name
            continue
        if name == "__init__" and with_async not in (aios.Client, aios.Runtime):
            continue
        expected, found = signature(member), inspect.signature(blocking_members[name])
        if (with_async.__name__, name) in WITH_TIMEOUT:
            without = [it for it in found.parameters.values() if it.name != "timeout"]
            assert len(without) == len(found.parameters) - 1
            found = found.replace(parameters=without)
        assert found == expected, name
        compared += 1
    assert compared > 0


@pytest.mark.parametrize("name", ["start", "signal_with_start", "call"])
def test_should_have_the_overloads_of_the_async_class(name: str) -> None:
    with_async = typing.get_overloads(getattr(aios.Client, name))
    blocking = typing.get_overloads(getattr(aios.sync.Client, name))
    assert [signature(one) for one in with_async] == [inspect.signature(one) for one in blocking]
    assert len(blocking) == 2


def test_should_follow_the_log_without_async() -> None:
    with aios.sync.Runtime() as runtime:
        follower = runtime.log(follow=True)
        runtime.task("absent", id="followed")
        assert any(event.stream == "runs/followed" for event in follower)


def test_should_continue_to_follow_after_an_interrupt() -> None:
    """In a notebook, where an interrupt ends the call, but not the program."""

    @aios.workflow("waits")
    async def waits(context: aios.WorkflowContext) -> None:
        await context.signal("go")

    def interrupt() -> None:
        """Interrupts the main thread once it waits for the loop."""
        while not is_waiting():
            time.sleep(0.001)
        signal.pthread_kill(main, signal.SIGINT)

    def is_waiting() -> bool:
        caller = sys._current_frames()[main].f_back
        return caller is not None and caller.f_code is concurrent.futures.Future.result.__code__

    main = threading.get_ident()
    # Background processes ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with aios.sync.Runtime(workflows=[waits]) as runtime, contextlib.ExitStack() as stack:
        stack.callback(signal.signal, signal.SIGINT, before)
        run = runtime.start(waits)
        with runtime.events("shop.order.*") as subscribed:
            events = run.events()
            assert next(events).event.type == "workflows.waits.started"
            waiting: list[Iterator[Any]] = [events, subscribed]
            for items in waiting:
                thread = threading.Thread(target=interrupt)
                thread.start()
                with pytest.raises(KeyboardInterrupt):
                    next(items)
                thread.join()
            run.signal("go")
            runtime.publish("shop.order.placed", 1)
            assert next(events).event.type == "workflows.waits.signaled"
            assert next(subscribed).data == 1


def test_should_refuse_calls_while_another_thread_closes() -> None:
    began, ends = threading.Event(), threading.Event()

    @aios.agent("busy")
    def busy(context: aios.TaskContext) -> None:
        began.set()
        ends.wait(60)

    runtime = aios.sync.Runtime(agents=[busy])
    runtime.open()
    runtime.task("busy")
    assert began.wait(60)
    closing = threading.Thread(target=runtime.close)
    closing.start()
    try:
        # Until the call begins after the close.
        with pytest.raises(aios.RuntimeClosedError):
            while True:
                runtime.runs()
        with pytest.raises(aios.RuntimeClosedError):
            runtime.start("absent")
    finally:
        ends.set()
        closing.join()


def test_should_refuse_calls_on_the_loop_that_they_would_block() -> None:
    refused: list[str] = []

    @aios.agent("caller")
    async def caller(context: aios.TaskContext) -> str:
        for call in (runtime.runs, runtime.close):
            with pytest.raises(aios.WrongLoopError, match="would block the event loop"):
                call()
            refused.append(call.__name__)
        return "done"

    with aios.sync.Runtime(agents=[caller]) as runtime:
        assert runtime.call("caller") == "done"
    assert refused == ["runs", "close"]


def test_should_clean_up_what_is_left_when_it_closes() -> None:
    """Code in a `finally` that awaits takes turns of the loop."""
    ended: list[str] = []
    left: list[Any] = []

    async def background() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            ended.append("task")

    async def items() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0.01)
            ended.append("generator")

    @aios.agent("leaving")
    async def leave(context: aios.TaskContext) -> int:
        left.extend([asyncio.create_task(background()), items()])
        await asyncio.sleep(0)
        return await anext(left[1])

    with aios.sync.Runtime(agents=[leave]) as runtime:
        assert runtime.call("leaving") == 1
    assert ended == ["task", "generator"]


def test_should_fail_calls_that_are_in_progress_when_its_loop_ends() -> None:
    loop = EventLoopThread()
    started = threading.Event()

    async def wait() -> None:
        started.set()
        await asyncio.sleep(3600)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        call = pool.submit(lambda: loop.call(wait()))
        assert started.wait(60)
        loop.stop()
        with pytest.raises(aios.RuntimeClosedError):
            call.result(60)


def test_should_leave_what_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "_CLEANUP", 0.01)
    loop = EventLoopThread()

    async def stay() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    async def start() -> asyncio.Task[None]:
        task = asyncio.create_task(stay())
        await asyncio.sleep(0)
        return task

    task = loop.call(start())
    loop.stop()
    assert not task.done()
    # It would say that it was destroyed.
    task._log_destroy_pending = False  # type: ignore[attr-defined]
