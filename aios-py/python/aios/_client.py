"""Runtimes and clients."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
import warnings
import weakref
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast, get_args, overload

from . import _aios, _trace
from ._agent import agent_type
from ._errors import (
    ConfigurationError,
    InvalidDataError,
    RuntimeClosedError,
    WorkflowNotFoundError,
)
from ._projection import ProjectionHandle
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
from ._workflow import MISSING, Begin, Workflow, _reader, named

if TYPE_CHECKING:
    import asyncio
    from typing import Self

    from ._agent import BoundAgent
    from ._aios import Core, Events, HandleCore, LoopBridge, Pool
    from ._projection import Apply, Load
    from ._retry import RetryPolicy

I = TypeVar("I")
O = TypeVar("O")
T = TypeVar("T")

#: ``Client.list`` hides the name inside the class.
_List = list

#: What is open in this process; closed when the interpreter exits.
_OPEN: weakref.WeakSet[Client] = weakref.WeakSet()


#: Threads for plain functions. They end when their runtime is closed, unless they are busy.
_THREADS: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
#: How long a busy thread may hold up the end of the interpreter, in seconds.
_GRACE = 5.0


@atexit.register
def _dispose_all() -> None:
    import time

    for client in list(_OPEN):
        client._dispose()
    until = time.monotonic() + _GRACE
    for thread in list(_THREADS):
        thread.join(max(0.0, until - time.monotonic()))


def _abandon(reference: weakref.ref[Client], serial: int) -> None:
    """Closes a client whose loop has dropped it, if it was not opened again since."""
    client = reference()
    if client is not None and client._serial == serial:
        client._abandon()


def _serve(pool: Pool, limit: int, name: str) -> None:
    """Calls the functions of a pool in at most ``limit`` threads, which start when they are needed."""

    def work() -> None:
        while (call := pool.next()) is not None:
            function, args = call
            grow()
            try:
                function(*args)
            finally:
                # What the task was given may be large.
                del call, function, args

    def grow() -> None:
        number = pool.grow(limit)
        if number is None:
            return
        thread = threading.Thread(target=work, name=f"aios-{name}-{number}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            import logging

            pool.shrink()
            logging.getLogger("aios").warning("can't start another thread for %s: %s", name, error)
        else:
            _THREADS.add(thread)

    grow()


class RunHandle(Generic[O]):
    """A run, wherever it is advanced. Dropping it does nothing to the run."""

    __slots__ = ("_core", "_workflow")

    def __init__(self, core: HandleCore, workflow: Workflow[Any, O] | None) -> None:
        self._core = core
        self._workflow = workflow

    @property
    def id(self) -> str:
        """Id of the run."""
        return self._core.id

    async def result(self) -> O:
        """Waits for the run to end, and for the run that it continues as.

        Raises:
            RunFailedError: It failed; the cause says why.
            RunCancelledError: It was cancelled.
            RunBlockedError: Today's code does not fit its journal; it may go on later.
        """
        value = await self._core.result()
        return value if self._workflow is None else self._workflow.read_result(value)

    async def status(self) -> RunStatus:
        """Where the run stands, and what its workflow says it is doing."""
        return RunStatus.from_row(await self._core.status())

    async def signal(self, name: str, payload: Any = None) -> None:
        """Sends a signal. It is kept until the workflow waits for it.

        Raises:
            RunEndedError: The run has ended.
        """
        _check_text("the name of a signal", name)
        await self._core.signal(name, payload)

    async def cancel(self, reason: str = "") -> None:
        """Asks the run to cancel: its code is dropped where it waits, and its compensations run.

        Raises:
            RunEndedError: The run has ended.
        """
        _check_text("a reason", reason)
        await self._core.cancel(reason)

    async def pause(self) -> None:
        """Lets the run stand still; what was begun outside of it goes on and is kept.

        Raises:
            RunEndedError: The run has ended.
        """
        await self._core.pause()

    async def resume(self) -> None:
        """Lets a paused run go on.

        Raises:
            RunEndedError: The run has ended.
        """
        await self._core.resume()

    async def journal(self, after: int = 0, limit: int = 1000) -> list[RecordedEvent]:
        """The run's events with a version above ``after``, at most ``limit``."""
        rows = await self._core.journal(after, _limit(limit))
        return [RecordedEvent.from_row(row) for row in rows]

    async def events(self, after: int = 0) -> AsyncIterator[RecordedEvent]:
        """Follows the run of this very id, also if it has continued as another one: its events with
        a version above ``after``, first those that are there, then those that come, until the one
        that ends it.

        Raises:
            RunNotFoundError: There is no such run.
        """
        while (rows := await self._core.events(after)) is not None:
            for row in rows:
                recorded = RecordedEvent.from_row(row)
                after = recorded.version
                yield recorded

    async def fork(self, operation: int, new_id: str) -> RunHandle[O]:
        """Starts a new run that begins with this run's journal as it was before an operation, and
        goes on from there with today's code.

        Raises:
            OperationNotFoundError: The journal has no such operation.
            RunExistsError: The new id is taken.
        """
        _check_text("a run id", new_id)
        return RunHandle(await self._core.fork(operation, new_id), self._workflow)

    def __repr__(self) -> str:
        return f"<aios.RunHandle {self.id}>"


class EventStream:
    """Events as they come: ``async for event in stream``.

    An event is acknowledged when the next one is asked for, or when the ``async with`` is left
    without an exception. One whose handling raised, or during which the process died or the client
    was closed, comes again if its group is still there.
    """

    def __init__(self, client: Client, patterns: Sequence[str], group: str | None) -> None:
        self._client = client
        self._patterns = list(patterns)
        self._group = group
        self._events: Events | None = None
        self._unread: Any = None

    async def __aenter__(self) -> Self:
        if self._events is None:
            self._events = await self._client._opened().subscribe(self._patterns, self._group)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        events, self._events = self._events, None
        if events is not None and kind is None:
            await events.ack()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        import asyncio

        await self.__aenter__()
        row, self._unread = self._unread, None
        if row is None and self._events is not None:
            waiting = self._events.next()
            try:
                row = await waiting
            except asyncio.CancelledError:
                # Cancelled after it had come: the next wait gets it.
                if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                    self._unread = waiting.result()
                raise
        if row is None:
            raise StopAsyncIteration
        return Event.from_envelope(row[1])


#: The bridges whose loops are to be woken by signals, oldest first. Only the main thread can choose
#: the descriptor that a signal writes to, so that a bridge stays here, and its descriptor open, until
#: the main thread has chosen another one.
_WAKERS: list[LoopBridge] = []
#: Those among them that are closed.
_CLOSED_WAKERS: list[LoopBridge] = []


def _wake_by_signals(bridge: LoopBridge) -> None:
    """Lets signals wake the loop, if nothing does so yet.

    A signal that comes just before the loop begins to wait would be handled only when it has waited:
    asyncio relies on the call being interrupted, unless it has signal handlers of its own.
    """
    if threading.current_thread() is threading.main_thread():
        _WAKERS.append(bridge)
        _choose_waker()


def _wake_by_signals_no_more(bridge: LoopBridge) -> None:
    """Takes back what :func:`_wake_by_signals` did."""
    if bridge not in _WAKERS:
        return
    _CLOSED_WAKERS.append(bridge)
    if threading.current_thread() is threading.main_thread():
        _choose_waker()


def _choose_waker() -> None:
    """Has signals write to the latest bridge that is open, unless a descriptor of others is in use."""
    open_wakers = [bridge for bridge in _WAKERS if bridge not in _CLOSED_WAKERS]
    own = {bridge.wakeup_fileno() for bridge in _WAKERS}
    wanted = open_wakers[-1].wakeup_fileno() if open_wakers else -1
    current = signal.set_wakeup_fd(wanted, warn_on_full_buffer=False)
    if current != -1 and current not in own:
        # One that was closed meanwhile is refused.
        with contextlib.suppress(OSError, ValueError):
            signal.set_wakeup_fd(current, warn_on_full_buffer=False)
    _WAKERS[:] = open_wakers
    _CLOSED_WAKERS.clear()


def _check_text(what: str, text: str | None) -> None:
    """Refuses a text that UTF-8 can't hold.

    Raises:
        InvalidDataError: It is one.
    """
    try:
        if text is not None and not text.isascii():
            text.encode()
    except UnicodeEncodeError as error:
        raise InvalidDataError(
            f"{what} is UTF-8, and {text!r} is not: {error.reason}", code="INVALID_TEXT"
        ) from None
    except AttributeError:
        raise TypeError(f"{what} is a text, not {text!r}") from None


def _count(number: int, what: str, least: int) -> int:
    if number < least:
        raise ConfigurationError(f"{what} is at least {least}, not {number}")
    return number


def _default_workers() -> int:
    return max(1, min(4, (os.cpu_count() or 1) - 1))


def _url(url: Any, name: str, examples: str, *, none: bool = False) -> Any:
    if isinstance(url, str) or (none and url is None):
        return url
    raise ConfigurationError(f"{name} is a URL such as {examples}, not {url!r}")


def _several(given: Iterable[Any], name: str) -> list[Any]:
    try:
        return list(given)
    except TypeError:
        raise ConfigurationError(
            f"{name} is a list: pass [{given!r}] instead of {given!r}"
        ) from None


def _workflows(given: Iterable[Any]) -> list[Workflow[Any, Any]]:
    made = _several(given, "workflows")
    for one in made:
        if not isinstance(one, Workflow):
            raise ConfigurationError(
                f"{one!r} is no workflow; decorate it with @aios.workflow(name)"
            )
    twice = _twice((one.name, one.version) for one in made)
    if twice is not None:
        raise ConfigurationError(f"there are two workflows {twice[0]} of version {twice[1]}")
    return made


def _twice(names: Iterable[T]) -> T | None:
    """The first name that is there twice."""
    seen: set[T] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _limit(limit: int) -> int:
    if not 1 <= limit <= 10_000:
        raise ConfigurationError(f"a page has 1 to 10,000 rows, not {limit}")
    return limit


def _statuses(statuses: Iterable[str]) -> list[str]:
    if isinstance(statuses, str):
        raise ConfigurationError(f"statuses is a list: pass [{statuses!r}] instead of {statuses!r}")
    made = list(statuses)
    known = get_args(RunState)
    for status in made:
        if status not in known:
            raise ConfigurationError(
                f"runs have no status {status!r}; they have {', '.join(known)}"
            )
    return made


class Client:
    """Starts and handles runs that others advance, publishes, and reads.

    ``async with aios.Client(store=..., broker=...) as client`` opens and closes it. It belongs to
    the event loop and to the process that opened it.

    Args:
        store: Where runs are kept: ``memory:``, ``sqlite://path`` or ``postgres://…``. ``None`` is
            for clients that only publish, call and listen.
        broker: What moves tasks and events: ``memory://`` (this process) or ``amqp://…``.
        source: Name of this service, the source of the events it makes.
        workflows: Workflows whose runs are started by their latest version here; those of others
            are started by name and version.
        workers: Threads for everything that is not Python. Without it one less than there are
            processors, because one works for Python, but 1 to 4.
    """

    _core: Core | None = None
    _bridge: LoopBridge | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    #: How often it was opened.
    _serial = 0

    def __init__(
        self,
        store: str | None = "memory:",
        broker: str = "memory://",
        *,
        source: str = "aios",
        workflows: Iterable[Workflow[Any, Any]] = (),
        workers: int | None = None,
    ) -> None:
        self._store = _url(store, "store", "memory:, sqlite://aios.db or postgres://…", none=True)
        self._broker = _url(broker, "broker", "memory:// or amqp://…")
        self._source = source
        self._workflows = _workflows(workflows)
        self._workers = _default_workers() if workers is None else _count(workers, "workers", 1)
        self._pools: _List[Pool] = []
        self._process = os.getpid()
        self._thread = threading.get_ident()

    def __del__(self) -> None:
        self._abandon()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Whoever leaves with an error does not wait for what runs to end.
        await self._close(self._deadline() if error is None else min(1.0, self._deadline()))

    def _deadline(self) -> float:
        return 10.0

    def _agents(self) -> _List[BoundAgent]:
        return []

    def _has_engine(self) -> bool:
        return False

    def _lease_time(self) -> float:
        return 10.0

    def _relays(self) -> bool:
        return False

    def _blocked_limit(self) -> float | None:
        return None

    def _threads(self) -> int:
        return 0

    async def open(self) -> None:
        """Connects, and starts what there is to start.

        Raises:
            ConfigurationError: What it was given makes no sense.
            StoreError: The store can't be opened.
            BrokerError: The broker can't be reached.
        """
        agents = self._agents()
        core = self._begin()
        try:
            self._serve_agents(agents)
            await core.open(
                self._store,
                self._broker,
                self._source,
                agents,
                [given(workflow) for workflow in self._workflows],
                self._has_engine(),
                self._lease_time(),
                self._relays(),
                self._blocked_limit(),
            )
        except BaseException:
            self._dispose()
            raise

    def _begin(self) -> Core:
        """Starts the threads, and makes the way from them into the loop that runs."""
        import asyncio

        from . import _logging

        if self._core is not None:
            raise ConfigurationError("this is open already")
        _logging.install()
        loop = asyncio.get_running_loop()
        bridge = _aios.LoopBridge(loop)
        core = _aios.Core(bridge, self._workers)
        drain = bridge.drain
        loop.add_reader(bridge.fileno(), drain)
        # The loop holds the only reference to this method, and drops it when it is closed.
        self._serial += 1
        weakref.finalize(drain, _abandon, weakref.ref(self), self._serial).atexit = False
        _wake_by_signals(bridge)
        self._core, self._bridge, self._loop = core, bridge, loop
        self._process, self._thread = os.getpid(), threading.get_ident()
        _OPEN.add(self)
        _serve(core.pool(), self._threads(), "steps")
        return core

    def _serve_agents(self, agents: _List[BoundAgent]) -> None:
        """Gives each plain function threads of its own."""
        for agent in agents:
            if agent.pool is not None:
                self._pools.append(agent.pool)
                _serve(agent.pool, agent.concurrency, agent.agent_type)

    async def close(self) -> None:
        """Takes no more tasks, lets those that run end within ``shutdown_timeout``, and closes.

        Raises:
            ShutdownTimeoutError: Tasks still ran then. They are given again; this is closed.
        """
        await self._close(self._deadline())

    async def _close(self, deadline: float) -> None:
        if self._core is None:
            return
        try:
            if self._is_own_process():
                await self._core.shutdown(deadline)
        finally:
            self._dispose()

    def _is_own_process(self) -> bool:
        """Whether the process has not forked since this was opened."""
        return self._process == os.getpid()

    def _dispose(self, wait: float = 5.0) -> None:
        """Ends the threads, for which it waits so many seconds. Safe to call twice, on any thread, at
        exit, and in a child after a fork."""
        core, bridge, loop = self._core, self._bridge, self._loop
        self._core = self._bridge = self._loop = None
        _OPEN.discard(self)
        if core is None or bridge is None or loop is None:
            return
        # A forked child shares the selector with its parent, and would take the reader from it.
        is_own = self._is_own_process()
        if is_own:
            _wake_by_signals_no_more(bridge)
            for pool in self._pools:
                pool.close()
        self._pools = []
        bridge.close()
        core.dispose(wait)
        if not is_own or loop.is_closed():
            return

        def leave() -> None:
            loop.remove_reader(bridge.fileno())
            core.fail_all()

        if self._thread == threading.get_ident():
            leave()
        else:
            # The loop may be closed at this moment.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(leave)

    def _abandon(self) -> None:
        """Closes what was not closed: this is dropped while it is open, or its loop is closed."""
        if self._core is None:
            return
        is_own = self._is_own_process()
        self._dispose(1.0)
        if is_own:
            kind = f"aios.{type(self).__name__}"
            text = f"unclosed {kind}: use `async with`, or await its close()"
            warnings.warn(text, ResourceWarning, source=self, stacklevel=2)

    def _opened(self) -> Core:
        if self._core is None:
            raise RuntimeClosedError("this is not open; use `async with`")
        return self._core

    @overload
    async def start(
        self,
        workflow: Workflow[I, O],
        input: I = ...,
        *,
        id: str | None = None,
        delay: float | None = None,
        traceparent: str | None = None,
        correlation_id: str | None = None,
    ) -> RunHandle[O]: ...

    @overload
    async def start(
        self,
        workflow: str,
        input: Any = ...,
        *,
        id: str | None = None,
        delay: float | None = None,
        version: int | None = None,
        traceparent: str | None = None,
        correlation_id: str | None = None,
    ) -> RunHandle[Any]: ...

    async def start(
        self,
        workflow: Workflow[Any, Any] | str,
        input: Any = MISSING,
        *,
        id: str | None = None,
        delay: float | None = None,
        version: int | None = None,
        traceparent: str | None = None,
        correlation_id: str | None = None,
    ) -> RunHandle[Any]:
        """Starts a run; returns once the start is durable.

        Args:
            workflow: The workflow, or the name of one.
            input: What it is given; anything that can be JSON.
            id: Id of the run, 1 to 200 bytes; a fresh one without it. Starting a run again under the
                same id gives a handle for the one that exists, if workflow and input are the same.
            delay: When to begin, in seconds from now.
            version: Version of a workflow that is given by name and not registered here; the latest
                that any process has registered in the store without it.
            traceparent: Trace of everything that the run causes; that of the caller without it.
            correlation_id: Groups everything that the run causes; its id without it.

        Raises:
            RunExistsError: A run with this id exists, of another workflow or with another input.
            WorkflowNotFoundError: No process has registered the workflow.
            InvalidParametersError: The workflow takes an input, and there is none.
            InvalidDataError: ``input`` can't be JSON.
        """
        return await self._start(
            workflow, input, id, delay, version, traceparent, correlation_id, None
        )

    @overload
    async def signal_with_start(
        self,
        workflow: Workflow[I, O],
        input: I = ...,
        *,
        id: str,
        signal: str,
        payload: Any = None,
        traceparent: str | None = None,
        correlation_id: str | None = None,
    ) -> RunHandle[O]: ...

    @overload
    async def signal_with_start(
        self,
        workflow: str,
        input: Any = ...,
        *,
        id: str,
        signal: str,
        payload: Any = None,
        version: int | None = None,
        traceparent: str | None = None,
        correlation_id: str | None = None,
    ) -> RunHandle[Any]: ...

    async def signal_with_start(
        self,
        workflow: Workflow[Any, Any] | str,
        input: Any = MISSING,
        *,
        id: str,
        signal: str,
        payload: Any = None,
        version: int | None = None,
        traceparent: str | None = None,
        correlation_id: str | None = None,
    ) -> RunHandle[Any]:
        """Sends a signal to a run, and starts the run first if there is none with this id: both at
        once, so that no run is started without its signal.

        Args:
            workflow: The workflow, or the name of one; see :meth:`start`.
            input: What the run is given if it is started.
            id: Id of the run.
            signal: Name of the signal.
            payload: What the signal carries; anything that can be JSON.
            version: See :meth:`start`.
            traceparent: See :meth:`start`.
            correlation_id: See :meth:`start`.

        Raises:
            RunExistsError: A run with this id exists, of another workflow or with another input.
            RunEndedError: The run has ended.
            InvalidDataError: ``input`` or ``payload`` can't be JSON.
        """
        return await self._start(
            workflow, input, id, None, version, traceparent, correlation_id, (signal, payload)
        )

    async def _start(
        self,
        workflow: Workflow[Any, Any] | str,
        input: Any,
        id: str | None,
        delay: float | None,
        version: int | None,
        traceparent: str | None,
        correlation_id: str | None,
        signal: tuple[str, Any] | None,
    ) -> RunHandle[Any]:
        core = self._opened()
        if not isinstance(workflow, (Workflow, str)):
            raise TypeError(
                f"a run is started of a workflow, or of the name of one, not of {workflow!r}; is it "
                "decorated with @aios.workflow(name)?"
            )
        _check_text("the name of a workflow", workflow if isinstance(workflow, str) else None)
        _check_text("a run id", id)
        _check_text("the name of a signal", None if signal is None else signal[0])
        known = workflow if isinstance(workflow, Workflow) else self._known(workflow)
        if isinstance(workflow, Workflow) and workflow not in self._workflows:
            raise WorkflowNotFoundError(
                f"workflow {workflow.name} is not registered here; pass it as "
                "`workflows=[...]`, or start it by its name"
            )
        handle = await core.start(
            workflow.name if isinstance(workflow, Workflow) else workflow,
            (None if input is MISSING else input) if known is None else known.input(input),
            id,
            delay,
            known is not None,
            version,
            traceparent if traceparent is not None else _trace.traceparent.get(),
            correlation_id,
            signal,
        )
        return RunHandle(handle, known)

    def _known(self, name: str) -> Workflow[Any, Any] | None:
        found = [workflow for workflow in self._workflows if workflow.name == name]
        return max(found, key=lambda workflow: workflow.version, default=None)

    async def run(self, id: str) -> RunHandle[Any]:
        """A handle for a run that was started before, here or elsewhere.

        Raises:
            RunNotFoundError: There is none.
        """
        _check_text("a run id", id)
        return RunHandle(await self._opened().run(id), None)

    async def task(
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
        """Gives a task to an agent, as a run of one step: durable, tried again, visible.

        Args:
            agent: Type of the agent.
            parameters: What to do; anything that can be JSON.
            agent_id: The one agent of the type that is to do it.
            id: Id of the run; see :meth:`start`.
            timeout: How long one attempt may take, in seconds; for ever without it.
            total_timeout: How long all attempts together may take, in seconds, with the time in queues
                and between attempts.
            retry: When a failed attempt is followed by another.
        """
        policy = None if retry is None else tuple(retry)
        _check_text("a run id", id)
        handle = await self._opened().task(
            named(agent), parameters, agent_id, id, timeout, total_timeout, policy
        )
        return RunHandle(handle, None)

    @overload
    async def call(
        self,
        agent: str,
        parameters: Any = None,
        *,
        result: type[T],
        agent_id: str | None = None,
        timeout: float = 60.0,
        traceparent: str | None = None,
        correlation_id: str | None = None,
    ) -> T: ...

    @overload
    async def call(
        self,
        agent: str,
        parameters: Any = None,
        *,
        result: Any = ...,
        agent_id: str | None = None,
        timeout: float = 60.0,
        traceparent: str | None = None,
        correlation_id: str | None = None,
    ) -> Any: ...

    async def call(
        self,
        agent: str,
        parameters: Any = None,
        *,
        result: Any = Any,
        agent_id: str | None = None,
        timeout: float = 60.0,
        traceparent: str | None = None,
        correlation_id: str | None = None,
    ) -> Any:
        """Gives a task straight to an agent and waits for its answer, without a journal: fast, and
        lost if this process dies. Nobody tries it again.

        Args:
            agent: Type of the agent.
            parameters: What to do; anything that can be JSON.
            result: What the answer is read as.
            agent_id: The one agent of the type that is to do it.
            timeout: How long it may take, in seconds.
            traceparent: Trace of the task; that of the caller without it.
            correlation_id: Groups everything that the task causes.

        Raises:
            TaskError: The attempt failed; the subclass says how.
            InvalidResultError: The answer does not fit ``result``.
        """
        read = _reader(result, "answer", agent)
        value = await self._opened().call(
            agent if type(agent) is str else named(agent),
            parameters,
            agent_id,
            timeout,
            traceparent if traceparent is not None else _trace.traceparent.get(),
            correlation_id,
        )
        return value if read is None else read(value)

    async def publish(
        self,
        event_type: str,
        data: Any = None,
        *,
        id: str | None = None,
        traceparent: str | None = None,
        correlation_id: str | None = None,
    ) -> str:
        """Publishes an event to everybody who listens. Returns its id once the broker has it.

        Args:
            event_type: ``domain.entity.action``.
            data: Anything that can be JSON.
            id: Id of the event; a fresh one without it.
            traceparent: Trace of the event; that of the caller without it.
            correlation_id: Groups everything that one request caused.
        """
        _check_text("an event type", event_type)
        _check_text("the id of an event", id)
        return cast(
            "str",
            await self._opened().publish(
                event_type,
                data,
                id,
                traceparent if traceparent is not None else _trace.traceparent.get(),
                correlation_id,
                self._source,
            ),
        )

    def events(self, *patterns: str, group: str | None = None) -> EventStream:
        """Events whose type matches a pattern, as they come.

        ``async with client.events(...) as events`` subscribes before it returns; a bare ``async
        for`` when it starts.

        Args:
            patterns: Types, where ``*`` stands for one segment and ``#`` for any number.
            group: Consumers of one group share its events, and the group keeps them while nobody
                listens. Without it the subscription is this client's own, and gone with it.
        """
        return EventStream(self, patterns, group)

    async def log(self, after: int = 0, *, follow: bool = False) -> AsyncIterator[RecordedEvent]:
        """The events of the log with a position above ``after``, in order.

        Args:
            after: Where to begin.
            follow: Whether to go on with what is appended, without end.
        """
        while True:
            rows = await self._opened().read_log(after, 500, follow)
            for row in rows:
                recorded = RecordedEvent.from_row(row)
                after = recorded.position
                yield recorded
            if not rows and not follow:
                return

    async def head(self) -> int:
        """Position of the last event of the log; 0 if there is none."""
        return cast("int", await self._opened().head())

    async def list(
        self,
        workflow: str | None = None,
        *,
        statuses: Sequence[RunState] = (),
        after: str | None = None,
        limit: int = 100,
    ) -> Page[RunStatus]:
        """A page of runs.

        Args:
            workflow: Of this workflow.
            statuses: In one of these statuses.
            after: Where the page begins: ``next`` of the page before.
            limit: How many at most, 1 to 10,000.

        Raises:
            ConfigurationError: There is no such status, or ``limit`` is out of range.
        """
        rows, following = await self._opened().runs(
            workflow, _statuses(statuses), after, _limit(limit)
        )
        return Page([RunStatus.from_row(row) for row in rows], following)

    async def tasks(
        self,
        *,
        run_id: str | None = None,
        agent: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[TaskStatus]:
        """A page of tasks; see :meth:`list`."""
        rows, following = await self._opened().tasks(run_id, agent, after, _limit(limit))
        return Page([TaskStatus.from_row(row) for row in rows], following)

    async def agents(
        self, agent: str | None = None, *, after: str | None = None, limit: int = 100
    ) -> Page[AgentStatus]:
        """A page of registered agents; see :meth:`list`."""
        rows, following = await self._opened().agents(agent, after, _limit(limit))
        return Page([AgentStatus.from_row(row) for row in rows], following)

    async def workflows(
        self, *, after: str | None = None, limit: int = 100
    ) -> Page[WorkflowStatus]:
        """A page of registered workflows; see :meth:`list`."""
        rows, following = await self._opened().workflows(after, _limit(limit))
        return Page([WorkflowStatus.from_row(row) for row in rows], following)

    def projection_handle(self, name: str) -> ProjectionHandle:
        """A handle for a projection that runs here or elsewhere; see :meth:`Runtime.projection`."""
        from ._signature import check_name

        check_name(name, "the name of a projection")
        return ProjectionHandle(_aios.projection(self._opened(), name))

    async def expire_runs(
        self,
        older_than: float,
        *,
        archive: bool = False,
        batch_size: int = 50,
        pause: float = 0.1,
    ) -> int:
        """Removes runs that ended longer ago from the log and the read models, with their tasks, in
        small transactions. What was done stays done if this is cancelled or fails; call it again.

        A run stays while somebody may ask for it: while its parent or the last one of its chain of
        continue-as-new goes on, and while a projection or another reader with a checkpoint has not
        passed its last event. Positions are not given out again, but the id of a run is.

        Args:
            older_than: How long ago, in seconds.
            archive: Moves the events to the table ``archived_events`` instead of deleting them.
            batch_size: How many runs go in one transaction, 1 to 65,535. Appends wait meanwhile.
            pause: How long the log is left to others between two transactions, in seconds.

        Returns:
            How many runs were removed.

        Raises:
            ConfigurationError: An option is out of range, or ``memory:`` is to archive.
            StoreError: The store failed.
        """
        if not 1 <= batch_size <= 65_535:
            raise ConfigurationError(f"batch_size is 1 to 65,535, not {batch_size}")
        core = self._opened()
        return await _aios.expire_runs(core, older_than, archive, batch_size, pause)

    async def compact(self) -> int:
        """Gives the space back that :meth:`expire_runs` left in a SQLite file. The file is written anew,
        and appends wait for that.

        Returns:
            By how many bytes the database is smaller.

        Raises:
            ConfigurationError: The store is no SQLite file.
            StoreError: The store failed; the file is as it was.
        """
        return await _aios.compact(self._opened())


class GivenWorkflow(NamedTuple):
    """A workflow as Rust takes it."""

    name: str
    version: int
    begin: Begin


def given(workflow: Workflow[Any, Any]) -> GivenWorkflow:
    """A workflow as Rust takes it, with the context variables of now."""
    return GivenWorkflow(workflow.name, workflow.version, Begin(workflow))


class Runtime(Client):
    """Hosts agents and advances the runs of workflows, and is a :class:`Client` too.

    Args:
        store: Where runs are kept; see :class:`Client`. ``None`` is for processes that only host
            agents.
        broker: What moves tasks and events; see :class:`Client`.
        agents: Objects of classes, or functions, that are decorated with :func:`aios.agent`.
        workflows: Workflows that are made with :func:`aios.workflow`.
        source: Name of this service, the source of the events it makes.
        threads: How many threads each plain ``def`` agent has at most, and all plain steps together.
            They start when they are needed.
        workers: Threads for everything that is not Python.
        engine: Whether to advance runs; otherwise that is left to other processes.
        lease_time: How long the death of this process costs before another one goes on with its
            runs, in seconds; at least 1.
        relay: Whether lifecycle events of the log are published to the broker.
        shutdown_timeout: How long tasks may go on when the runtime is closed, in seconds.
        blocked_after: After which time without a sign of life the event loop counts as blocked, in
            seconds, at least 0.01; ``None`` means never. Its agents then take no tasks and send no
            heartbeats until it resumes, so that other processes do their tasks.
    """

    def __init__(
        self,
        store: str | None = "memory:",
        broker: str = "memory://",
        *,
        agents: Iterable[Any] = (),
        workflows: Iterable[Workflow[Any, Any]] = (),
        source: str = "aios",
        threads: int = 8,
        workers: int | None = None,
        engine: bool = True,
        lease_time: float = 10.0,
        relay: bool = True,
        shutdown_timeout: float = 10.0,
        blocked_after: float | None = 5.0,
    ) -> None:
        super().__init__(store, broker, source=source, workflows=workflows, workers=workers)
        self._given_agents = _several(agents, "agents")
        twice = _twice(agent_type(given) for given in self._given_agents)
        if twice is not None:
            raise ConfigurationError(f"there are two agents of the type {twice}")
        self._thread_count = _count(threads, "threads", 1)
        self._engine = engine
        self._lease = lease_time
        self._relay = relay
        self._shutdown_timeout = shutdown_timeout
        self._blocked_after = blocked_after

    def _agents(self) -> list[BoundAgent]:
        from ._agent import bind

        return [self._with_pool(bind(given)) for given in self._given_agents]

    async def projection(
        self,
        name: str,
        apply: Apply,
        *,
        patterns: Sequence[str] | None = None,
        batch_size: int = 100,
        retry: RetryPolicy | None = None,
        lease_time: float = 10.0,
        position_from: Load | None = None,
    ) -> ProjectionHandle:
        """Starts a projection: reads the log in order from where the projection is, and hands what
        matches to ``apply``. It runs until the runtime is closed.

        Every event is handed over at least once; after a crash, again from the last position that was
        saved. A batch that raises is divided into its events. An event that fails as often as
        ``retry`` says, or with :meth:`TaskError.terminal`, becomes a dead letter and is skipped;
        :meth:`ProjectionHandle.dead_letters` lists it. One process at a time runs the projection of a
        name; another one that started it too takes over if that process dies.

        Args:
            name: ``[a-z][a-z0-9_]*``, at most 100 bytes.
            apply: Applies a :class:`Batch`. An ``async def`` runs on the event loop, a plain function
                in a thread of its own.
            patterns: Which events, by their types, where ``*`` stands for one segment and ``#`` for
                any number; all of them without it.
            batch_size: How many events are applied together at most, 1 to 10,000.
            retry: How often, and with what delays, an event is tried before it becomes a dead letter;
                :class:`RetryPolicy` without it.
            lease_time: How long the death of the process costs, in seconds; at least 1.
            position_from: Reads the position that the projection keeps itself, best in the
                transaction in which it applies a batch: it stores :attr:`Batch.position` there, and
                this function returns what it stored last, 0 if it never did. Every event is then
                applied exactly once to what that transaction changes.

        Raises:
            ConfigurationError: An option is not valid, or there is no store.
            StoreError: The store failed.
        """
        from ._projection import given

        core = self._opened()
        made = given(name, apply, patterns, batch_size, retry, lease_time, position_from)
        self._pools.append(made.pool)
        if not made.is_async or (made.position is not None and not made.is_position_async):
            _serve(made.pool, 1, f"projection-{name}")
        await _aios.start_projection(core, made)
        return self.projection_handle(name)

    def _with_pool(self, agent: BoundAgent) -> BoundAgent:
        """Gives a plain function threads of its own, and no more tasks than these can run."""
        if agent.is_async:
            return agent
        threads = min(agent.concurrency, self._thread_count)
        return agent._replace(concurrency=threads, pool=_aios.Pool())

    def _has_engine(self) -> bool:
        return self._engine and self._store is not None

    def _lease_time(self) -> float:
        return self._lease

    def _relays(self) -> bool:
        return self._relay

    def _deadline(self) -> float:
        return self._shutdown_timeout

    def _blocked_limit(self) -> float | None:
        return self._blocked_after

    def _threads(self) -> int:
        return self._thread_count if self._given_agents or self._workflows else 0
