"""Agent definitions: classes and functions that process tasks."""

from __future__ import annotations

import contextvars
import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from . import _scope
from ._aios import DEFAULTS
from ._errors import ConfigurationError
from ._signals import fail_or_leave
from ._workflows.fence import Fence, as_fence

if TYPE_CHECKING:
    import asyncio
    import datetime

    from ._aios import NativeTaskContext, Reply, ThreadPool
    from ._clients.output import OutputStream
    from ._types.signature import Signature

A = TypeVar("A", bound=Callable[..., Any])

#: Attribute of decorated classes and functions that holds their :class:`AgentMarker`.
_MARKER = "__aios_agent__"


class TaskContext:
    """Information about a task, for the agent that processes it."""

    __slots__ = ("_native",)

    def __init__(self, native: NativeTaskContext) -> None:
        self._native = native

    @property
    def task_id(self) -> str:
        """Id of the task; ``<run id>/<operation>`` if a workflow assigned it."""
        return self._native.task_id

    @property
    def idempotency_key(self) -> str:
        """The same string in every attempt of this task and in no other task, even if a later run
        reuses the id of this task's run. Pass it to external systems, so that they recognise a
        repeated attempt."""
        return self._native.idempotency_key

    @property
    def agent_type(self) -> str:
        """Type of the agent."""
        return self._native.agent_type

    @property
    def agent_id(self) -> str:
        """Id of the agent."""
        return self._native.agent_id

    @property
    def attempt(self) -> int:
        """Number of the attempt, from 1."""
        return self._native.attempt

    @property
    def deadline(self) -> datetime.datetime | None:
        """When this attempt times out, in UTC; ``None`` means never."""
        from ._clients.records import moment

        micros = self._native.deadline_micros
        return None if micros is None else moment(micros)

    @property
    def fence(self) -> Fence | None:
        """Proof that the engine which assigned the task owned its run; ``None`` if the task does not
        belong to a run."""
        return as_fence(self._native.fence)

    @property
    def correlation_id(self) -> str | None:
        """Groups everything that one request caused."""
        return self._native.correlation_id

    @property
    def traceparent(self) -> str | None:
        """W3C trace context of whatever assigned the task."""
        return self._native.traceparent

    @property
    def user_id(self) -> str | None:
        """The user on whose behalf the task was assigned."""
        return self._native.user_id

    @property
    def is_cancelled(self) -> bool:
        """Whether the result of this attempt is no longer needed: it timed out or was cancelled.

        A coroutine is cancelled then, as with :meth:`asyncio.Task.cancel`; plain functions should
        check this property.
        """
        return self._native.is_cancelled

    def heartbeat(self, progress: Any = None) -> None:
        """Reports that work is in progress. Cheap: call it as often as you like; only the latest is
        sent, at the heartbeat interval.

        Args:
            progress: Anything that can be serialised to JSON.

        Raises:
            InvalidDataError: ``progress`` cannot be serialised to JSON.
        """
        self._native.heartbeat(progress)

    def stream(self, name: str) -> OutputStream:
        """An output stream of the run that the task belongs to, for what it shows while it works.
        What the task writes is stored before its answer; see :meth:`RunHandle.stream`.

        Args:
            name: ``[a-z][a-z0-9_]*``, at most 40 bytes.

        Raises:
            InvalidDataError: The name is invalid, the process has no store, or the task does not
                belong to a run.
        """
        from ._clients.output import OutputStream

        return OutputStream(self._native.stream(name))

    def emit(self, event_type: str, data: Any = None) -> None:
        """Publishes an event if the task succeeds, before the task is completed.

        Args:
            event_type: ``domain.entity.action``.
            data: Anything that can be serialised to JSON.

        Raises:
            InvalidDataError: ``data`` cannot be serialised to JSON, or the type is invalid.
        """
        self._native.emit(event_type, data)


class AgentMarker(NamedTuple):
    """Attached by :func:`agent` to a class or a function."""

    agent_type: str
    concurrency: int | None
    names: Mapping[str, Any]


class BoundAgent(NamedTuple):
    """An agent as the native module takes it."""

    agent_type: str
    invoke: Callable[..., Any]
    is_async: bool
    parameters_schema: str
    output_schema: str
    concurrency: int
    pool: ThreadPool | None = None
    factory: BoundFactory | None = None


class BoundFactory(NamedTuple):
    """How the agents of a type are created, as the native module takes it."""

    config_schema: str
    make: Callable[..., Any]
    release: Callable[[int], None]


def agent(agent_type: str, *, concurrency: int | None = None) -> Callable[[A], A]:
    """Decorates a class with a method ``process_task(self, context, parameters)``, or a function
    ``(context, parameters)``, as an agent.

    An ``async def`` runs on the event loop of the runtime, a plain ``def`` in its own threads. The
    annotations of ``parameters`` and the result determine how they are converted from and to JSON.
    A default of ``parameters`` applies to a task without parameters, which are ``null`` in JSON.

    A plain ``def`` can't be stopped. If it still runs after its task timed out or was cancelled, it
    occupies its thread and is reported in the log, and the process takes only as many tasks as the
    agent has free threads.

    Args:
        agent_type: ``[a-z][a-z0-9_]*``, at most 100 bytes; tasks are addressed to a type.
        concurrency: Maximum number of concurrent tasks per process, 1 to 65,535. The default is 256
            for an ``async def``, and the ``threads`` of the runtime, which are also the upper limit,
            for a plain ``def``.

    Raises:
        ConfigurationError: The type or the concurrency is invalid, or what is decorated is neither a class
            nor a function.
    """
    if not isinstance(agent_type, str):
        raise TypeError('an agent needs a type: write @aios.agent("type") instead of @aios.agent')
    from ._types.validation import check_name, check_range

    check_name(agent_type, "the type of an agent")
    if concurrency is not None:
        check_range(concurrency, "concurrency", DEFAULTS.max_concurrency)

    def decorate(decorated: A) -> A:
        from ._types.signature import caller_namespace

        marker = AgentMarker(agent_type, concurrency, caller_namespace(1))
        try:
            setattr(decorated, _MARKER, marker)
        except (AttributeError, TypeError):
            # Such as a bound method, or a function that is written in C.
            raise ConfigurationError(
                f"@aios.agent({agent_type!r}) decorates a class or a function of Python, not "
                f"{decorated!r}; write a function that calls it"
            ) from None
        return decorated

    return decorate


def _marker(candidate: Any) -> AgentMarker:
    marker = getattr(candidate, _MARKER, None)
    if not isinstance(marker, AgentMarker):
        raise ConfigurationError(
            f"{candidate!r} is not an agent; decorate it with @aios.agent(type)"
        )
    if isinstance(candidate, type):
        name = candidate.__name__
        raise ConfigurationError(
            f"agents are instances: pass {name}() instead of {name}, or aios.AgentFactory({name}) for "
            "agents that are created while processes run"
        )
    return marker


def agent_type(candidate: Any) -> str:
    """The type of an agent.

    Raises:
        ConfigurationError: The object is not an agent.
    """
    return _marker(candidate).agent_type


def agent_type_name(candidate: Any) -> str:
    """The agent type to which a task is addressed.

    Raises:
        TypeError: It is not a string.
    """
    if isinstance(candidate, str):
        return candidate
    try:
        hint = f"pass {agent_type(candidate)!r} instead of"
    except ConfigurationError:
        hint = "not"
    raise TypeError(f"a task is addressed to an agent type, a str: {hint} {candidate!r}")


def bind(candidate: Any) -> BoundAgent:
    """Converts an agent for the native module.

    Raises:
        ConfigurationError: The object is not an agent, or its annotations can't be read from JSON.
    """
    from ._factory import AgentFactory

    marker = _marker(candidate)
    if isinstance(candidate, AgentFactory):
        return candidate.bind()
    code = getattr(candidate, "process_task", candidate)
    if not callable(code):
        raise ConfigurationError(f"agent {marker.agent_type} has no method process_task")
    return bind_code(marker, code, lambda: code)


def bind_code(
    marker: AgentMarker, code: Callable[..., Any], find: Callable[..., Callable[..., Any]]
) -> BoundAgent:
    """Converts agents for the native module.

    Args:
        marker: What :func:`agent` has attached.
        code: Code of an agent, for its signature.
        find: Returns the code of the agent with a key, or of the only one.
    """
    from ._aios import dumps
    from ._types.signature import is_async, signature

    found = signature(code, marker.names, f"agent {marker.agent_type}")
    read, schema = _parameters_of(found)
    runs_async = is_async(code)
    make = _async_invoke if runs_async else _plain_invoke
    return BoundAgent(
        marker.agent_type,
        make(find, read, takes_parameters=found.input is not None),
        runs_async,
        dumps(schema),
        dumps(found.output.schema),
        marker.concurrency if marker.concurrency is not None else DEFAULTS.concurrency,
    )


def _parameters_of(found: Signature) -> tuple[Callable[[Any], Any] | None, dict[str, Any]]:
    """How parameters are read, and their JSON Schema. Without parameters, a task has those that are the
    default of the code."""
    from ._workflows.definition import MISSING

    if found.input is None:
        return None, {}
    read = None if found.input.is_trivial else found.input.read
    schema = found.input.schema
    if found.default is MISSING:
        return read, schema

    def read_or_default(raw: Any) -> Any:
        if raw is None:
            # Tasks that change it would see the changes of each other.
            return copy.deepcopy(found.default)
        return raw if read is None else read(raw)

    if not schema:
        return read_or_default, schema
    definitions = {"$defs": schema["$defs"]} if "$defs" in schema else {}
    given = {key: part for key, part in schema.items() if key != "$defs"}
    return read_or_default, {"anyOf": [given, {"type": "null"}], **definitions}


def _async_invoke(
    find: Callable[..., Callable[..., Any]],
    read: Callable[[Any], Any] | None,
    *,
    takes_parameters: bool,
) -> Callable[..., Any]:
    from asyncio import get_running_loop

    async def work(reply: Reply, native: NativeTaskContext, raw: Any, *key: int) -> None:
        try:
            _scope.enter(native, native.traceparent)
            context, code = TaskContext(native), find(*key)
            if takes_parameters:
                value = await code(context, raw if read is None else read(raw))
            else:
                value = await code(context)
        except BaseException as error:
            if fail_or_leave(reply, error):
                raise
        else:
            reply.succeed(value)

    def invoke(reply: Reply, native: NativeTaskContext, raw: Any, *key: int) -> asyncio.Task[None]:
        return get_running_loop().create_task(work(reply, native, raw, *key))

    return invoke


def _plain_invoke(
    find: Callable[..., Callable[..., Any]],
    read: Callable[[Any], Any] | None,
    *,
    takes_parameters: bool,
) -> Callable[..., None]:
    base = contextvars.copy_context()

    def work(reply: Reply, native: NativeTaskContext, raw: Any, *key: int) -> None:
        try:
            _scope.enter(native, native.traceparent)
            context, code = TaskContext(native), find(*key)
            if takes_parameters:
                value = code(context, raw if read is None else read(raw))
            else:
                value = code(context)
        except BaseException as error:
            reply.fail(error)
        else:
            reply.succeed(value)

    def invoke(reply: Reply, native: NativeTaskContext, raw: Any, *key: int) -> None:
        base.copy().run(work, reply, native, raw, *key)

    return invoke
