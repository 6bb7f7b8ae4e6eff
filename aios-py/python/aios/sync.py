"""Twins of :class:`aios.Runtime` and :class:`aios.Client` without ``async``, for scripts and
notebooks. They run an event loop in a thread of their own, so a loop that runs already is no harm.

    with aios.sync.Runtime(store="sqlite://aios.db", agents=[greet]) as runtime:
        print(runtime.task("greeter", "Ada").result())
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Coroutine, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from . import _client, _projection
from ._errors import ForkedError, RuntimeClosedError
from ._projection import ProjectionDeadLetter
from ._records import (
    AgentStatus,
    Event,
    Page,
    RecordedEvent,
    RunState,
    RunStatus,
    TaskStatus,
    WorkflowStatus,
)
from ._workflow import MISSING, Workflow

if TYPE_CHECKING:
    from typing import Self

    from ._projection import Apply
    from ._retry import RetryPolicy

I = TypeVar("I")
O = TypeVar("O")
T = TypeVar("T")

__all__ = ["Client", "EventStream", "ProjectionHandle", "RunHandle", "Runtime"]


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="aios-loop", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def call(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Runs a coroutine on the loop and waits; an interrupt cancels it."""
        if self._process != os.getpid():
            coroutine.close()
            raise ForkedError(
                "this was opened before the process forked; open another one in the child"
            )
        if self._loop.is_closed():
            coroutine.close()
            raise RuntimeClosedError("the runtime or client was closed")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout)
        except (KeyboardInterrupt, concurrent.futures.TimeoutError):
            future.cancel()
            raise

    def stop(self) -> None:
        if self._process != os.getpid():
            return
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
        # What is dropped may be collected on any thread, on this one too.
        if self._thread is not threading.current_thread():
            self._thread.join()


class RunHandle(Generic[O]):
    """A run; see :class:`aios.RunHandle`."""

    __slots__ = ("_handle", "_loop")

    def __init__(self, loop: _Loop, handle: _client.RunHandle[O]) -> None:
        self._loop = loop
        self._handle = handle

    @property
    def id(self) -> str:
        """Id of the run."""
        return self._handle.id

    def result(self, timeout: float | None = None) -> O:
        """Waits for the run to end; see :meth:`aios.RunHandle.result`.

        Raises:
            TimeoutError: It did not end within ``timeout`` seconds.
        """
        return self._loop.call(self._handle.result(), timeout)

    def status(self) -> RunStatus:
        """Where the run stands."""
        return self._loop.call(self._handle.status())

    def signal(self, name: str, payload: Any = None) -> None:
        """Sends a signal."""
        self._loop.call(self._handle.signal(name, payload))

    def cancel(self, reason: str = "") -> None:
        """Asks the run to cancel."""
        self._loop.call(self._handle.cancel(reason))

    def pause(self) -> None:
        """Lets the run stand still."""
        self._loop.call(self._handle.pause())

    def resume(self) -> None:
        """Lets a paused run go on."""
        self._loop.call(self._handle.resume())

    def journal(self, after: int = 0, limit: int = 1000) -> list[RecordedEvent]:
        """The run's events with a version above ``after``, at most ``limit``."""
        return self._loop.call(self._handle.journal(after, limit))

    def events(self, after: int = 0) -> Iterator[RecordedEvent]:
        """Follows the run until it ends; see :meth:`aios.RunHandle.events`."""
        events = self._handle.events(after)

        async def following() -> RecordedEvent | None:
            return await anext(events, None)

        while (event := self._loop.call(following())) is not None:
            yield event

    def fork(self, operation: int, new_id: str) -> RunHandle[O]:
        """Starts a new run that begins with this run's journal before an operation."""
        return RunHandle(self._loop, self._loop.call(self._handle.fork(operation, new_id)))

    def __repr__(self) -> str:
        return f"<aios.sync.RunHandle {self.id}>"


class EventStream:
    """Events as they come; see :class:`aios.EventStream`.

    ``with client.events(...) as events`` acknowledges the last event and ends the subscription. One
    that is dropped without ends too, and its last event comes again if its group is still there.
    """

    def __init__(self, loop: _Loop, stream: _client.EventStream) -> None:
        self._loop = loop
        self._stream = stream

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
        async def following() -> Event | None:
            return await anext(self._stream, None)

        event = self._loop.call(following())
        if event is None:
            raise StopIteration
        return event


class ProjectionHandle:
    """A projection; see :class:`aios.ProjectionHandle`."""

    __slots__ = ("_handle", "_loop")

    def __init__(self, loop: _Loop, handle: _projection.ProjectionHandle) -> None:
        self._loop = loop
        self._handle = handle

    @property
    def name(self) -> str:
        """Name of the projection."""
        return self._handle.name

    def position(self) -> int:
        """Up to where the log is done."""
        return self._loop.call(self._handle.position())

    def lag(self) -> int:
        """By how many positions the projection is behind the log."""
        return self._loop.call(self._handle.lag())

    def dead_letters(self, after: int = 0, limit: int = 100) -> list[ProjectionDeadLetter]:
        """Events that were skipped; see :meth:`aios.ProjectionHandle.dead_letters`."""
        return self._loop.call(self._handle.dead_letters(after, limit))

    def redrive(self, position: int) -> None:
        """Asks to apply a dead letter again; see :meth:`aios.ProjectionHandle.redrive`."""
        self._loop.call(self._handle.redrive(position))

    def __repr__(self) -> str:
        return f"<aios.sync.ProjectionHandle {self.name}>"


class Client:
    """See :class:`aios.Client`, which takes the same arguments."""

    _running: _Loop | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._client: _client.Client = self._make(*args, **kwargs)

    def __del__(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            # The client is closed, and says so, when its loop is.
            running.stop()

    def _make(self, *args: Any, **kwargs: Any) -> _client.Client:
        return _client.Client(*args, **kwargs)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Connects; see :meth:`aios.Client.open`."""
        loop = _Loop()
        try:
            loop.call(self._client.open())
        except BaseException:
            loop.stop()
            raise
        self._running = loop

    def close(self) -> None:
        """Closes; see :meth:`aios.Client.close`."""
        loop, self._running = self._running, None
        if loop is None:
            return
        if not self._client._is_own_process():
            self._client._dispose()
            return
        try:
            loop.call(self._client.close())
        finally:
            loop.stop()

    @property
    def _loop(self) -> _Loop:
        if self._running is None:
            self._client._opened()
        return cast("_Loop", self._running)

    def start(
        self,
        workflow: Workflow[I, O] | str,
        input: Any = MISSING,
        *,
        id: str | None = None,
        delay: float | None = None,
        version: int | None = None,
        traceparent: str | None = None,
        correlation_id: str | None = None,
    ) -> RunHandle[O]:
        """Starts a run; see :meth:`aios.Client.start`."""
        start: Any = self._client.start
        handle = self._loop.call(
            start(
                workflow,
                input,
                id=id,
                delay=delay,
                version=version,
                traceparent=traceparent,
                correlation_id=correlation_id,
            )
        )
        return RunHandle(self._loop, cast("_client.RunHandle[O]", handle))

    def signal_with_start(
        self,
        workflow: Workflow[I, O] | str,
        input: Any = MISSING,
        *,
        id: str,
        signal: str,
        payload: Any = None,
        **options: Any,
    ) -> RunHandle[O]:
        """Sends a signal, and starts the run first; see :meth:`aios.Client.signal_with_start`."""
        start: Any = self._client.signal_with_start
        call = start(workflow, input, id=id, signal=signal, payload=payload, **options)
        return RunHandle(self._loop, cast("_client.RunHandle[O]", self._loop.call(call)))

    def run(self, id: str) -> RunHandle[Any]:
        """A handle for a run that was started before."""
        return RunHandle(self._loop, self._loop.call(self._client.run(id)))

    def task(
        self,
        agent: str,
        parameters: Any = None,
        *,
        agent_id: str | None = None,
        id: str | None = None,
        timeout: float | None = None,
        total_timeout: float | None = None,
        retry: RetryPolicy | None = None,
    ) -> RunHandle[Any]:
        """Gives a task to an agent, as a run; see :meth:`aios.Client.task`."""
        task = self._client.task(
            agent,
            parameters,
            agent_id=agent_id,
            id=id,
            timeout=timeout,
            total_timeout=total_timeout,
            retry=retry,
        )
        return RunHandle(self._loop, self._loop.call(task))

    def call(self, agent: str, parameters: Any = None, **options: Any) -> Any:
        """Gives a task without a journal; see :meth:`aios.Client.call`."""
        return self._loop.call(self._client.call(agent, parameters, **options))

    def publish(self, event_type: str, data: Any = None, **options: Any) -> str:
        """Publishes an event; see :meth:`aios.Client.publish`."""
        return self._loop.call(self._client.publish(event_type, data, **options))

    def events(self, *patterns: str, group: str | None = None) -> EventStream:
        """Events as they come; subscribed when this returns. See :meth:`aios.Client.events`."""
        stream = self._client.events(*patterns, group=group)
        self._loop.call(stream.__aenter__())
        return EventStream(self._loop, stream)

    def log(self, after: int = 0) -> Iterator[RecordedEvent]:
        """The events of the log with a position above ``after``, in order."""
        events = self._client.log(after)

        async def following() -> RecordedEvent | None:
            return await anext(events, None)

        while (event := self._loop.call(following())) is not None:
            yield event

    def head(self) -> int:
        """Position of the last event of the log."""
        return self._loop.call(self._client.head())

    def list(
        self,
        workflow: str | None = None,
        *,
        statuses: Sequence[RunState] = (),
        after: str | None = None,
        limit: int = 100,
    ) -> Page[RunStatus]:
        """A page of runs; see :meth:`aios.Client.list`."""
        return self._loop.call(
            self._client.list(workflow, statuses=statuses, after=after, limit=limit)
        )

    def tasks(self, **filters: Any) -> Page[TaskStatus]:
        """A page of tasks; see :meth:`aios.Client.tasks`."""
        return self._loop.call(self._client.tasks(**filters))

    def agents(self, agent: str | None = None, **options: Any) -> Page[AgentStatus]:
        """A page of registered agents; see :meth:`aios.Client.agents`."""
        return self._loop.call(self._client.agents(agent, **options))

    def workflows(self, **options: Any) -> Page[WorkflowStatus]:
        """A page of registered workflows; see :meth:`aios.Client.workflows`."""
        return self._loop.call(self._client.workflows(**options))

    def projection_handle(self, name: str) -> ProjectionHandle:
        """A handle for a projection; see :meth:`aios.Client.projection_handle`."""
        return ProjectionHandle(self._loop, self._client.projection_handle(name))

    def expire_runs(self, older_than: float, **options: Any) -> int:
        """Removes runs that ended longer ago; see :meth:`aios.Client.expire_runs`."""
        return self._loop.call(self._client.expire_runs(older_than, **options))

    def compact(self) -> int:
        """Gives free space of a SQLite file back; see :meth:`aios.Client.compact`."""
        return self._loop.call(self._client.compact())


class Runtime(Client):
    """See :class:`aios.Runtime`, which takes the same arguments. ``async def`` agents and steps run
    on the loop in the thread."""

    def _make(self, *args: Any, **kwargs: Any) -> _client.Client:
        return _client.Runtime(*args, **kwargs)

    def projection(self, name: str, apply: Apply, **options: Any) -> ProjectionHandle:
        """Starts a projection; see :meth:`aios.Runtime.projection`."""
        runtime = cast("_client.Runtime", self._client)
        handle = self._loop.call(runtime.projection(name, apply, **options))
        return ProjectionHandle(self._loop, handle)
