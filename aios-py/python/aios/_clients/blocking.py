"""The base of :mod:`aios.sync`: an event loop in a thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from .._errors import ForkedError, RuntimeClosedError, WrongLoopError
from .records import Event

if TYPE_CHECKING:
    from typing import Self

    from .. import sync
    from .._llm.budget import SubjectBudget
    from .._llm.conversation import Conversation, ConversationRun
    from . import stream as _stream
    from .connection import Connection

T = TypeVar("T")

#: After how many seconds the cleanup of tasks, and of async generators, is left undone when a loop ends.
_CLEANUP = 5.0


class EventLoopThread:
    """An event loop that runs in its own thread."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        #: The calls in progress.
        self._calls: set[concurrent.futures.Future[Any]] = set()
        #: Whether what is left on the loop is being cancelled.
        self._is_ending = False
        #: The exception with which code on the loop ended the process.
        self._exit: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="aios-loop", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        except (KeyboardInterrupt, SystemExit) as error:
            # Raised by the calls, because it would end this thread only.
            self._exit = error
        finally:
            self._end()
            self._loop.close()
            self._fail_calls()

    def _end(self) -> None:
        """Cancels the tasks that are left on the loop and closes its async generators, as ``asyncio.run``
        does."""
        self._is_ending = True
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        try:
            if tasks:
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=_CLEANUP))
            closing = self._loop.create_task(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(asyncio.wait([closing], timeout=_CLEANUP))
        except (KeyboardInterrupt, SystemExit) as error:
            self._exit = self._exit or error
        except RuntimeError:
            # Stopped a second time.
            return

    def _fail_calls(self) -> None:
        """Fails the calls that the closed loop has not completed."""
        for future in list(self._calls):
            # Another thread may do the same.
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                future.set_exception(self._closed())

    def _closed(self) -> BaseException:
        """The error of calls after the end of the loop."""
        return self._exit or RuntimeClosedError("the runtime or client was closed")

    def call(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Runs a coroutine on the loop and waits for its result. An interrupt cancels it.

        Raises:
            TimeoutError: It did not end within ``timeout`` seconds, and was cancelled.
            ForkedError: The process has forked since the loop was started.
            RuntimeClosedError: The loop is closed, or was closed during the call.
            WrongLoopError: Code on the loop itself makes the call, which would wait indefinitely.
            KeyboardInterrupt, SystemExit: Code on the loop raised it, which ended the loop.
        """
        if self._process != os.getpid():
            coroutine.close()
            raise ForkedError(
                "the client was opened before the process forked; open another one in the child"
            )
        try:
            self.check_thread()
        except WrongLoopError:
            coroutine.close()
            raise
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise self._closed() from None
        self._calls.add(future)
        if self._loop.is_closed():
            # Perhaps before the call was added.
            self._fail_calls()
        try:
            return future.result(timeout)
        except concurrent.futures.CancelledError:
            if self._is_ending:
                raise self._closed() from None
            raise
        except BaseException:
            future.cancel()
            raise
        finally:
            self._calls.discard(future)

    def check_thread(self) -> None:
        """Raises an error if the caller runs on the loop, because a call would wait for itself.

        Raises:
            WrongLoopError: It does.
        """
        if self._thread is threading.current_thread():
            raise WrongLoopError(
                "the call would block the event loop that it waits for; make it from a plain function, "
                "which runs in another thread, or use `aios` instead of `aios.sync`"
            )

    def iterate(self, events: AsyncIterator[T]) -> Iterator[T]:
        """Yields the items of an async iterator, which are never ``None``."""
        return _Items(self, events)

    def stop(self) -> None:
        """Stops the loop and waits for its thread."""
        if self._process != os.getpid():
            return
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
        # Garbage may be collected on any thread, even on the loop's own.
        if self._thread is not threading.current_thread():
            self._thread.join()


class _Items(Iterator[T]):
    """The items of an async iterator. Not a generator, which an interrupt would end."""

    def __init__(self, loop: EventLoopThread, items: AsyncIterator[T]) -> None:
        self._loop = loop
        self._items = items
        #: An item that no call has returned yet, because an interrupt ended the call.
        self._unread: T | None = None

    async def _read(self) -> None:
        if self._unread is None:
            self._unread = await anext(self._items, None)

    def __next__(self) -> T:
        self._loop.call(self._read())
        item, self._unread = self._unread, None
        if item is None:
            raise StopIteration
        return item


class EventStream:
    """A subscription: ``for event in stream``. See :class:`aios.EventStream`.

    An event is acknowledged when the next one is requested, or when the ``with`` block ends without
    an exception. If the stream is dropped without ``with``, its last event is delivered again if its
    group still exists.
    """

    def __init__(self, loop: EventLoopThread, stream: _stream.EventStream) -> None:
        self._loop = loop
        self._stream = stream
        self._items = loop.iterate(stream)

    @classmethod
    def subscribe(cls, loop: EventLoopThread, stream: _stream.EventStream) -> Self:
        """Subscribes, and returns the stream."""
        loop.call(stream.__aenter__())
        return cls(loop, stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call(self._stream.__aexit__(kind, error, traceback))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        return next(self._items)


class BlockingConnection:
    """Opening and closing of a blocking runtime or client."""

    _running: EventLoopThread | None = None

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __del__(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            # The end of its loop closes the connection, which warns that it was not closed.
            running.stop()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close(lambda: self._connection.__aexit__(kind, error, traceback))

    def open(self) -> None:
        """Connects to the store and the broker, and starts agents and the engine if there are any.

        Raises:
            ConfigurationError: An option is invalid, or the client is already open.
            StoreError: The store can't be opened.
            BrokerError: The broker can't be reached.
        """
        loop = EventLoopThread()
        try:
            loop.call(self._connection.open())
        except BaseException:
            loop.stop()
            raise
        self._running = loop

    def close(self) -> None:
        """Stops taking tasks, waits at most ``shutdown_timeout`` for running tasks, and closes.

        Raises:
            ShutdownTimeoutError: Tasks were still running at the deadline. They are reassigned; the
                client is closed.
            WrongLoopError: Code on the loop of the client itself makes the call. The client stays open.
        """
        self._close(self._connection.close)

    def _close(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._running is not None and self._connection._is_own_process():
            self._running.check_thread()
        loop, self._running = self._running, None
        if loop is None:
            return
        if not self._connection._is_own_process():
            self._connection._dispose()
            return
        try:
            loop.call(close())
        finally:
            loop.stop()

    @property
    def _loop(self) -> EventLoopThread:
        running = self._running
        if running is None:
            # Raises that the connection is not open.
            self._connection._opened()
            raise RuntimeClosedError("the runtime or client is being opened or closed")
        return running


def conversation_of(run: sync.RunHandle[Any]) -> Conversation:
    """Reads the conversation of a run. See :meth:`aios.Conversation.of` for the async version.

    Raises:
        StoreError: The store failed.
    """
    from .._llm.conversation import Conversation

    loop = run._loop
    return loop.call(Conversation.of(run._handle))


def conversation_runs(client: sync.Client | sync.Runtime, run_id: str) -> list[ConversationRun]:
    """Lists the runs of the conversation that a run belongs to. See :meth:`aios.Conversation.runs` for
    the async version.

    Args:
        client: An open client or runtime with the store.
        run_id: A run of the conversation.

    Raises:
        RunNotFoundError: There is no run with this id.
        StoreError: The store failed.
    """
    from .._llm.conversation import Conversation

    return client._loop.call(Conversation.runs(client._client, run_id))


def spent_of(
    budget: SubjectBudget, client: sync.Client | sync.Runtime, subject: str
) -> dict[str, Any]:
    """The sums of a subject in the present window. See :meth:`aios.SubjectBudget.spent` for the async
    version.

    Args:
        budget: The budget.
        client: An open client or runtime with the store.
        subject: The subject.

    Raises:
        ConfigurationError: The client has no store.
        StoreError: The store failed.
    """
    loop = client._loop
    return loop.call(budget.spent(client._client, subject))
