"""Runtimes: host agents, execute workflows, and run projections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from . import _aios
from ._agent import agent_type
from ._aios import DEFAULTS
from ._clients.client import Client
from ._errors import ConfigurationError
from ._projection import ProjectionHandle
from ._threads import start_threads
from ._types.validation import (
    as_list,
    as_workflows,
    check_at_least,
    check_flag,
    check_seconds,
    find_duplicate,
)

if TYPE_CHECKING:
    from ._agent import BoundAgent
    from ._llm.agent import BoundLlmAgent, LlmAgent
    from ._projection import Apply, Load
    from ._retry import RetryPolicy
    from ._secret import Secret
    from ._service.collector import MetricsCollector, TraceCollector
    from ._workflows.definition import Workflow


class Runtime(Client):
    """Hosts agents and executes runs of workflows. It is a :class:`Client` too.

    Args:
        store: Where runs are stored; see :class:`Client`. ``None`` is for processes that only host
            agents.
        broker: What transports tasks and events; see :class:`Client`.
        agents: Functions, or instances of classes, that are decorated with :func:`aios.agent`, and
            :class:`aios.LlmAgent`.
        workflows: Workflows made with :func:`aios.workflow`. A process without ``engine`` and without a
            store leaves them out.
        source: Name of this service, the ``source`` of its events.
        threads: Maximum number of threads of each plain ``def`` agent, and of all plain steps
            together. Threads are started on demand.
        workers: Number of native threads; see :class:`Client`.
        engine: Whether to execute runs; otherwise other processes do.
        host: Whether to host ``agents``; otherwise other processes do. Runs of an :class:`aios.LlmAgent`
            are executed with ``engine`` all the same.
        lease_time: How many seconds after the death of this process others take over its runs; at
            least 0.1.
        relay: Whether the lifecycle events of the log are published to the broker.
        shutdown_timeout: How many seconds running tasks may take to end when the runtime is closed.
        blocked_after: After how many seconds without a response the event loop counts as blocked, at
            least 0.01; ``None`` means never. While it is blocked, its agents take no tasks and send no
            heartbeats, so that other processes take over their tasks. The log names a run whose code
            blocks it. On Linux, code of a run that uses as much processor time again is interrupted by an
            exception, and the run is blocked with the code ``WORKFLOW_BUSY``.
        agent_timeout: How many seconds an attempt of a task of ``agents`` may take, in addition to the
            timeout of the task; a longer one fails with the code ``TASK_TIMEOUT``. No limit by default.
        traces: The collector of the traces of runs. A process that only hosts agents sends none.
        metrics: The collector of the metrics of this process, of which one runtime sends them.

    Raises:
        ConfigurationError: An argument is invalid.
    """

    def __init__(
        self,
        store: str | Secret | None = "memory:",
        broker: str | Secret = "memory://",
        *,
        agents: Iterable[Any] = (),
        workflows: Iterable[Workflow[Any, Any]] = (),
        source: str = "aios",
        threads: int = 8,
        workers: int | None = None,
        engine: bool = True,
        host: bool = True,
        lease_time: float = DEFAULTS.lease_time,
        relay: bool = True,
        shutdown_timeout: float = 10.0,
        blocked_after: float | None = DEFAULTS.blocked_after,
        agent_timeout: float | None = None,
        traces: TraceCollector | None = None,
        metrics: MetricsCollector | None = None,
    ) -> None:
        super().__init__(store, broker, source=source, workflows=workflows, workers=workers)
        from ._llm.agent import LlmAgent

        given = as_list(agents, "agents")
        self._agent_objects = [agent for agent in given if not isinstance(agent, LlmAgent)]
        self._llm_objects: list[LlmAgent[Any]] = [it for it in given if isinstance(it, LlmAgent)]
        self._llm_workflows = [it for it in self._workflows if isinstance(it, LlmAgent)]
        self._workflows = as_workflows([*self._workflows, *self._llm_objects])
        duplicate = find_duplicate(agent_type(agent) for agent in self._agent_objects)
        if duplicate is not None:
            raise ConfigurationError(f"there are two agents of the type {duplicate}")
        self._thread_count = check_at_least(threads, "threads", 1)
        self._engine = check_flag(engine, "engine")
        self._hosts = check_flag(host, "host")
        self._lease = check_seconds(lease_time, "lease_time")
        self._relay = check_flag(relay, "relay")
        self._shutdown_timeout = check_seconds(shutdown_timeout, "shutdown_timeout")
        self._blocked_after = (
            None if blocked_after is None else check_seconds(blocked_after, "blocked_after")
        )
        self._agent_timeout = (
            None if agent_timeout is None else check_seconds(agent_timeout, "agent_timeout")
        )
        _check_collectors(traces, metrics)
        self._traces = traces
        self._metrics = metrics

    async def projection(
        self,
        name: str,
        apply: Apply,
        *,
        patterns: Sequence[str] | None = None,
        batch_size: int = DEFAULTS.projection_batch_size,
        retry: RetryPolicy | None = None,
        lease_time: float = DEFAULTS.projection_lease_time,
        position_from: Load | None = None,
    ) -> ProjectionHandle:
        """Starts a projection: reads the log in order from the projection's position, and passes
        matching events to ``apply``. It runs until the runtime is closed.

        Every event is applied at least once; after a crash, again from the last saved position. If a
        batch raises, its events are applied one by one. An event that fails in every attempt that
        ``retry`` allows, or with :meth:`TaskError.terminal`, becomes a dead letter and is skipped;
        see :meth:`ProjectionHandle.dead_letters`. Only one process at a time runs a projection. If it
        dies, another process that has started the projection takes over.

        Args:
            name: ``[a-z][a-z0-9_]*``, at most 100 bytes.
            apply: Applies a :class:`Batch`. An ``async def`` runs on the event loop, a plain function
                in its own thread.
            patterns: Event types to apply, where ``*`` matches one segment and ``#`` any number; all
                by default.
            batch_size: Maximum number of events that are applied together, 1 to 10,000.
            retry: Retry policy of an event before it becomes a dead letter; :class:`RetryPolicy` by
                default.
            lease_time: How many seconds after the death of the process another takes over; at least
                1.
            position_from: Reads the position that the projection stores itself, preferably in the
                transaction in which it applies a batch: it stores :attr:`Batch.position`, and this
                function returns the last stored value, or 0. Every event is then applied exactly once
                to what that transaction changes, if the transaction fails when the stored position is
                not before the first event: another process may have applied the batch while this one
                was frozen. After an error, only the events after the stored position are passed again.

        Raises:
            ConfigurationError: An option is invalid, or there is no store.
            StoreError: The store failed.
        """
        from ._projection import to_native

        native = self._opened()
        projection = to_native(name, apply, patterns, batch_size, retry, lease_time, position_from)
        self._pools.append(projection.pool)
        if not projection.is_async or (
            projection.position is not None and not projection.is_position_async
        ):
            start_threads(projection.pool, 1, f"projection-{name}")
        await _aios.start_projection(native, projection)
        return self.projection_handle(name)

    def _agents(self) -> list[BoundAgent]:
        from ._agent import bind

        hosted = self._agent_objects if self._hosts else []
        return [self._with_pool(bind(agent)) for agent in hosted]

    def _llm_agents(self) -> list[BoundLlmAgent]:
        given = [agent.bind(is_workflow_only=not self._hosts) for agent in self._llm_objects]
        return [*given, *(agent.bind(is_workflow_only=True) for agent in self._llm_workflows)]

    def _with_pool(self, agent: BoundAgent) -> BoundAgent:
        """Gives a plain function its own threads, and limits its tasks to their number."""
        if agent.is_async:
            return agent
        threads = min(agent.concurrency, self._thread_count)
        return agent._replace(concurrency=threads, pool=_aios.ThreadPool())

    def _used(self) -> list[Workflow[Any, Any]]:
        # The same program may have processes that only host agents.
        return self._workflows if self._engine or self._store is not None else []

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

    def _task_limit(self) -> float | None:
        return self._agent_timeout

    def _collectors(self) -> tuple[TraceCollector | None, MetricsCollector | None]:
        return self._traces if self._has_engine() else None, self._metrics

    def _threads(self) -> int:
        return self._thread_count if self._agent_objects or self._workflows else 0


def _check_collectors(traces: Any, metrics: Any) -> None:
    from ._service.collector import MetricsCollector, TraceCollector

    for name, given, kind in (
        ("traces", traces, TraceCollector),
        ("metrics", metrics, MetricsCollector),
    ):
        if given is not None and not isinstance(given, kind):
            raise TypeError(f"{name} must be an aios.{kind.__name__}, not {given!r}")
