"""Opening and closing of runtimes and clients."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import warnings
import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import _aios
from .._errors import AiosError, ConfigurationError, RuntimeClosedError
from .._signals import disable_wakeup, enable_wakeup
from .._threads import join_threads, start_threads
from .._types.validation import as_workflows, check_range, check_str, check_url
from .._workflows.context import Begin

if TYPE_CHECKING:
    import asyncio
    from typing import Self

    from .._agent import BoundAgent
    from .._aios import LoopBridge, NativeClient, ThreadPool
    from .._llm.agent import BoundLlmAgent
    from .._secret import Secret
    from .._service.collector import MetricsCollector, TraceCollector
    from .._workflows.definition import Workflow

#: Open connections of this process; closed when the interpreter exits.
_open_connections: weakref.WeakSet[Connection] = weakref.WeakSet()
#: Most native threads of a connection, far more than are of use.
_MAX_WORKERS = 1024
#: How long the exit of the interpreter waits for running plain functions, in seconds.
_EXIT_TIMEOUT = 5.0

# Otherwise a forked child that outlives this process would keep its SQLite files locked.
os.register_at_fork(after_in_child=_aios.release_inherited_locks)


@atexit.register
def _dispose_all() -> None:
    for connection in list(_open_connections):
        connection._dispose()
    join_threads(_EXIT_TIMEOUT)


def _abandon(reference: weakref.ref[Connection], serial: int) -> None:
    """Closes a connection whose loop was closed, unless it has been opened again since."""
    connection = reference()
    if connection is not None and connection._serial == serial:
        connection._abandon()


class NativeWorkflow(NamedTuple):
    """A workflow as the native module takes it."""

    name: str
    version: int
    looks_ahead: bool
    begin: Begin


def to_native(workflow: Workflow[Any, Any]) -> NativeWorkflow:
    """Converts a workflow for the native module. Its runs see the current context variables."""
    return NativeWorkflow(workflow.name, workflow.version, workflow.lookahead, Begin(workflow))


def _default_workers() -> int:
    return max(1, min(4, (os.cpu_count() or 1) - 1))


class Connection:
    """Base class of :class:`Client` and :class:`Runtime`: opens, closes, and owns native threads."""

    _native: NativeClient | None = None
    _bridge: LoopBridge | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    #: How many times it was opened.
    _serial = 0

    def __init__(
        self,
        store: str | Secret | None,
        broker: str | Secret,
        source: str,
        workflows: Iterable[Workflow[Any, Any]],
        workers: int | None,
    ) -> None:
        self._store = check_url(
            store, "store", "memory:, sqlite://aios.db or postgres://…", optional=True
        )
        self._broker = check_url(broker, "broker", "memory:// or amqp://…")
        self._source = check_str("source", source)
        self._workflows = as_workflows(workflows)
        self._workers = (
            _default_workers() if workers is None else check_range(workers, "workers", _MAX_WORKERS)
        )
        self._pools: list[ThreadPool] = []
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
        if error is None:
            await self.close()
            return
        # Do not wait for running tasks, and do not hide the error of the block: without it, an exit would
        # have another status, and a cancellation would not end the code that was cancelled.
        try:
            await self._close(min(1.0, self._deadline()))
        except AiosError as failed:
            logging.getLogger("aios.close").warning(
                "%s was closed because of an error, and not cleanly: %s",
                type(self).__name__,
                failed,
            )

    # What a runtime overrides.

    def _deadline(self) -> float:
        return 10.0

    def _agents(self) -> list[BoundAgent]:
        return []

    def _llm_agents(self) -> list[BoundLlmAgent]:
        return []

    def _used(self) -> list[Workflow[Any, Any]]:
        """The workflows that this process needs."""
        return self._workflows

    def _has_engine(self) -> bool:
        return False

    def _lease_time(self) -> float:
        return _aios.DEFAULTS.lease_time

    def _relays(self) -> bool:
        return False

    def _blocked_limit(self) -> float | None:
        return None

    def _task_limit(self) -> float | None:
        return None

    def _collectors(self) -> tuple[TraceCollector | None, MetricsCollector | None]:
        return None, None

    def _threads(self) -> int:
        return 0

    async def open(self) -> None:
        """Connects to the store and the broker, and starts agents and the engine if there are any.

        Raises:
            ConfigurationError: An option is invalid, or the client is already open.
            StoreError: The store can't be opened.
            BrokerError: The broker can't be reached.
        """
        from .._llm.agent import LlmAgent

        agents, llm_agents = self._agents(), self._llm_agents()
        traces, metrics = self._collectors()
        native = self._begin()
        try:
            self._start_agent_threads(agents)
            self._start_tool_threads(llm_agents)
            await native.open(
                self._store,
                self._broker,
                self._source,
                agents,
                llm_agents,
                [to_native(it) for it in self._used() if not isinstance(it, LlmAgent)],
                self._has_engine(),
                self._lease_time(),
                self._relays(),
                self._blocked_limit(),
                self._task_limit(),
                (
                    None if traces is None else traces._native(),
                    None if metrics is None else metrics._native(),
                ),
            )
        except BaseException:
            self._dispose()
            raise

    def _begin(self) -> NativeClient:
        """Starts the threads and attaches the native module to the running event loop."""
        import asyncio

        from .._service import logging as _logging

        if self._native is not None:
            raise ConfigurationError("the client is already open")
        _logging.install()
        loop = asyncio.get_running_loop()
        bridge = _aios.LoopBridge(loop)
        native = _aios.NativeClient(bridge, self._workers)
        run_jobs = bridge.run_jobs
        loop.add_reader(bridge.fileno(), run_jobs)
        # The loop holds the only reference to this bound method, and drops it when it is closed.
        self._serial += 1
        weakref.finalize(run_jobs, _abandon, weakref.ref(self), self._serial).atexit = False
        enable_wakeup(bridge)
        self._native, self._bridge, self._loop = native, bridge, loop
        self._process, self._thread = os.getpid(), threading.get_ident()
        _open_connections.add(self)
        try:
            start_threads(native.pool(), self._threads(), "steps")
        except BaseException:
            self._dispose()
            raise
        return native

    def _start_agent_threads(self, agents: list[BoundAgent]) -> None:
        """Starts the threads of the agents that are plain functions."""
        for agent in agents:
            if agent.pool is not None:
                self._pools.append(agent.pool)
                start_threads(agent.pool, agent.concurrency, agent.agent_type)

    def _start_tool_threads(self, agents: list[BoundLlmAgent]) -> None:
        """Starts the threads of the tools and models that are plain functions."""
        for agent in agents:
            for name, function in agent.functions():
                if function.pool is not None:
                    self._pools.append(function.pool)
                    start_threads(function.pool, max(1, self._threads()), name)

    async def close(self) -> None:
        """Stops taking tasks, waits at most ``shutdown_timeout`` for running tasks, and closes.

        Raises:
            ShutdownTimeoutError: Tasks were still running at the deadline. They are reassigned; the
                client is closed.
        """
        await self._close(self._deadline())

    async def _close(self, deadline: float) -> None:
        native = self._native
        if native is None:
            return
        try:
            if self._is_own_process():
                await native.shutdown(deadline)
        except RuntimeClosedError:
            # Another call has closed it meanwhile, which fails the calls in progress.
            if self._native is native:
                raise
        finally:
            if self._native is native:
                self._dispose()

    def _is_own_process(self) -> bool:
        """Whether the process has not forked since the client was opened."""
        return self._process == os.getpid()

    def _dispose(self, wait: float = 5.0) -> None:
        """Ends the threads, waiting at most ``wait`` seconds. May be called twice, on any thread, at
        exit, and in a forked child."""
        native, bridge, loop = self._native, self._bridge, self._loop
        self._native = self._bridge = self._loop = None
        _open_connections.discard(self)
        if native is None or bridge is None or loop is None:
            return
        # A forked child shares the selector with its parent: removing the reader would remove the
        # parent's. The threads exist only in the parent, and with them what they have locked.
        pools, self._pools = self._pools, []
        if not self._is_own_process():
            return
        disable_wakeup(bridge)
        for pool in pools:
            pool.close()
        bridge.close()
        native.dispose(wait)
        if loop.is_closed():
            return

        def detach() -> None:
            loop.remove_reader(bridge.fileno())
            native.fail_all()

        if self._thread == threading.get_ident():
            detach()
        else:
            # The loop may be closed at this moment.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(detach)

    def _abandon(self) -> None:
        """Closes a client that was dropped, or whose loop was closed, while it was open."""
        if self._native is None:
            return
        is_own = self._is_own_process()
        self._dispose(1.0)
        if is_own:
            kind = f"aios.{type(self).__name__}"
            text = f"unclosed {kind}: use `async with`, or await its close()"
            warnings.warn(text, ResourceWarning, source=self, stacklevel=2)

    def _opened(self) -> NativeClient:
        if self._native is None:
            raise RuntimeClosedError(f"this {type(self).__name__} is not open; use `async with`")
        return self._native
