"""Agents: classes or functions that do tasks."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from . import _trace
from ._errors import ConfigurationError
from ._fence import Fence, as_fence

if TYPE_CHECKING:
    import asyncio
    import datetime

    from ._aios import Pool, Reply, TaskCore

A = TypeVar("A", bound=Callable[..., Any])

#: Where the decorator leaves what it was told.
_MARK = "__aios_agent__"


class TaskContext:
    """What an agent may ask and do while it works on one task."""

    __slots__ = ("_core",)

    def __init__(self, core: TaskCore) -> None:
        self._core = core

    @property
    def task_id(self) -> str:
        """Id of the task; of one that a workflow gave ``<run id>/<operation>``."""
        return self._core.task_id

    @property
    def idempotency_key(self) -> str:
        """The same text in every attempt of this task and in no other task, also if a later run
        uses the id of this one again: hand it to outside systems, so that they recognise a
        repetition."""
        return self._core.idempotency_key

    @property
    def agent_type(self) -> str:
        """Type of the agent that does it."""
        return self._core.agent_type

    @property
    def agent_id(self) -> str:
        """Id of the agent that does it."""
        return self._core.agent_id

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1."""
        return self._core.attempt

    @property
    def deadline(self) -> datetime.datetime | None:
        """When this attempt is given up, in UTC; ``None`` means never."""
        from ._records import moment

        micros = self._core.deadline_micros
        return None if micros is None else moment(micros)

    @property
    def fence(self) -> Fence | None:
        """Proof that the engine which gave the task owned its run; ``None`` if no run gave the task."""
        return as_fence(self._core.fence)

    @property
    def correlation_id(self) -> str | None:
        """Groups everything that one request caused."""
        return self._core.correlation_id

    @property
    def traceparent(self) -> str | None:
        """W3C trace context of whoever gave the task."""
        return self._core.traceparent

    @property
    def user_id(self) -> str | None:
        """On whose behalf the task was given."""
        return self._core.user_id

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits for this attempt any more: it timed out or was cancelled.

        A coroutine is cancelled then, as ``asyncio`` does it; plain functions should look.
        """
        return self._core.is_cancelled

    def heartbeat(self, progress: Any = None) -> None:
        """Says that the work goes on, and how far it is. Cheap; the latest is sent now and then.

        Args:
            progress: Anything that can be JSON.

        Raises:
            InvalidDataError: ``progress`` can't be JSON.
        """
        self._core.heartbeat(progress)

    def emit(self, event_type: str, data: Any = None) -> None:
        """Publishes an event if the task succeeds, before the task counts as done.

        Args:
            event_type: ``domain.entity.action``.
            data: Anything that can be JSON.

        Raises:
            InvalidDataError: This can't be an event.
        """
        self._core.emit(event_type, data)


class _Mark(NamedTuple):
    agent_type: str
    concurrency: int | None
    names: Mapping[str, Any]


class BoundAgent(NamedTuple):
    """An agent as the runtime takes it."""

    agent_type: str
    invoke: Callable[..., Any]
    is_async: bool
    parameters_schema: str
    output_schema: str
    concurrency: int
    pool: Pool | None = None


#: How many tasks of a coroutine one process does at once, by default.
_CONCURRENCY = 256


def agent(agent_type: str, *, concurrency: int | None = None) -> Callable[[A], A]:
    """Makes a class with a method ``process_task(self, context, parameters)``, or a function
    ``(context, parameters)``, an agent.

    ``async def`` runs on the event loop of the runtime, a plain ``def`` in threads of its own. What
    ``parameters`` and the result are annotated with says what they are read from and written to.

    A plain ``def`` can't be stopped. One that still runs after its task timed out or was cancelled
    keeps its thread, is reported in the log, and is counted: the process takes only as many tasks
    as there are threads left for this agent.

    Args:
        agent_type: ``[a-z][a-z0-9_]*``, at most 100 bytes; tasks are given to a type.
        concurrency: How many tasks one process does at once, 1 to 65,535. By default 256 for
            ``async def``; for a plain ``def`` the ``threads`` of the runtime, which also limit it.

    Raises:
        ConfigurationError: The type or the concurrency is not valid.
    """
    if not isinstance(agent_type, str):
        raise TypeError('an agent has a type: write @aios.agent("type") instead of @aios.agent')
    from ._signature import check_name

    check_name(agent_type, "the type of an agent")
    if concurrency is not None and not 1 <= concurrency <= 65_535:
        raise ConfigurationError(f"concurrency is 1 to 65,535, not {concurrency}")

    def mark(marked: A) -> A:
        from ._signature import surroundings

        setattr(marked, _MARK, _Mark(agent_type, concurrency, surroundings(1)))
        return marked

    return mark


def _mark_of(given: Any) -> _Mark:
    mark = getattr(given, _MARK, None)
    if not isinstance(mark, _Mark):
        raise ConfigurationError(f"{given!r} is no agent; decorate it with @aios.agent(type)")
    if isinstance(given, type):
        raise ConfigurationError(
            f"agents are objects: pass {given.__name__}() instead of {given.__name__}"
        )
    return mark


def agent_type(given: Any) -> str:
    """The type of the agent that an object is.

    Raises:
        ConfigurationError: It is none.
    """
    return _mark_of(given).agent_type


def bind(given: Any) -> BoundAgent:
    """The agent that an object is.

    Raises:
        ConfigurationError: It is none.
    """
    from ._aios import dumps
    from ._signature import is_async, signature

    mark = _mark_of(given)
    code = getattr(given, "process_task", given)
    if not callable(code):
        raise ConfigurationError(f"agent {mark.agent_type} has no method process_task")
    found = signature(code, mark.names, f"agent {mark.agent_type}")
    read = None
    if found.input is not None and not found.input.is_trivial:
        read = found.input.read
    runs_async = is_async(code)
    make = _async_invoke if runs_async else _plain_invoke
    return BoundAgent(
        mark.agent_type,
        make(code, read, takes_parameters=found.input is not None),
        runs_async,
        dumps(found.input.schema if found.input is not None else {}),
        dumps(found.output.schema),
        mark.concurrency if mark.concurrency is not None else _CONCURRENCY,
    )


def _async_invoke(
    code: Callable[..., Any],
    read: Callable[[Any], Any] | None,
    *,
    takes_parameters: bool,
) -> Callable[[Reply, TaskCore, Any], Any]:
    from asyncio import get_running_loop

    async def work(reply: Reply, core: TaskCore, raw: Any) -> None:
        try:
            _trace.traceparent.set(core.traceparent)
            context = TaskContext(core)
            if takes_parameters:
                value = await code(context, raw if read is None else read(raw))
            else:
                value = await code(context)
        except BaseException as error:
            reply.fail(error)
            if not isinstance(error, Exception):
                raise
        else:
            reply.done(value)

    def invoke(reply: Reply, core: TaskCore, raw: Any) -> asyncio.Task[None]:
        return get_running_loop().create_task(work(reply, core, raw))

    return invoke


def _plain_invoke(
    code: Callable[..., Any],
    read: Callable[[Any], Any] | None,
    *,
    takes_parameters: bool,
) -> Callable[[Reply, TaskCore, Any], None]:
    base = contextvars.copy_context()

    def work(reply: Reply, core: TaskCore, raw: Any) -> None:
        try:
            _trace.traceparent.set(core.traceparent)
            context = TaskContext(core)
            if takes_parameters:
                value = code(context, raw if read is None else read(raw))
            else:
                value = code(context)
        except BaseException as error:
            reply.fail(error)
        else:
            reply.done(value)

    def invoke(reply: Reply, core: TaskCore, raw: Any) -> None:
        base.copy().run(work, reply, core, raw)

    return invoke
