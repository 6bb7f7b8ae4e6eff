"""Projections: application-defined views of the log."""

from __future__ import annotations

import contextvars
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ._aios import DEFAULTS, ThreadPool
from ._clients.records import Failure, RecordedEvent, failure
from ._errors import ConfigurationError, TaskError
from ._retry import retry_row
from ._signals import leaves_loop
from ._types.validation import (
    as_texts,
    check_at_least,
    check_limit,
    check_name,
    check_position,
    check_seconds,
)

if TYPE_CHECKING:
    import asyncio

    from ._aios import NativeProjectionHandle, Reply
    from ._retry import RetryPolicy


class Batch(NamedTuple):
    """Events that a projection applies together, all of them or none.

    Attributes:
        events: The events, in log order. May be empty: then only the position needs to be stored,
            because the log has grown by many events that do not match the patterns.
        position: The projection's position once this batch is applied. A projection that stores its
            own position stores this value, in the transaction in which it applies the events.
        attempt: Number of the attempt, from 1.
        is_redriven: Whether the batch is a redriven dead letter. Its event is older than the events
            applied before.
    """

    events: list[RecordedEvent]
    position: int
    attempt: int
    is_redriven: bool


class ProjectionDeadLetter(NamedTuple):
    """An event that a projection could not apply, and skipped.

    Attributes:
        position: Its position in the log.
        event_id: Its id.
        event_type: Its type.
        failure: Why it could not be applied.
        attempts: Number of attempts.
    """

    position: int
    event_id: str
    event_type: str
    failure: Failure
    attempts: int

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> ProjectionDeadLetter:
        """Reads a row of the native module."""
        return cls(**{**row, "failure": failure(row["failure"])})


Apply: TypeAlias = Callable[[Batch], Awaitable[None]] | Callable[[Batch], None]
Load: TypeAlias = Callable[[], Awaitable[int]] | Callable[[], int]


class ProjectionHandle:
    """A projection, whichever process runs it. Dropping the handle does not affect the projection."""

    __slots__ = ("_native",)

    def __init__(self, native: NativeProjectionHandle) -> None:
        self._native = native

    @property
    def name(self) -> str:
        """Name of the projection."""
        return self._native.name

    async def position(self) -> int:
        """Position up to which the log has been applied, as stored in the runtime's store."""
        return await self._native.position()

    async def lag(self) -> int:
        """How many positions the projection is behind the end of the log."""
        return await self._native.lag()

    async def dead_letters(
        self, after: int = 0, limit: int = DEFAULTS.page_limit
    ) -> list[ProjectionDeadLetter]:
        """Dead letters with positions above ``after``, at most ``limit``: events that were skipped
        and not redriven.

        Raises:
            ConfigurationError: ``after`` or ``limit`` is out of range.
        """
        check_position(after, "after")
        rows = await self._native.dead_letters(after, check_limit(limit))
        return [ProjectionDeadLetter.from_row(row) for row in rows]

    async def redrive(self, position: int) -> None:
        """Requests that a dead letter be applied again, whichever process runs the projection. If that
        fails, it remains a dead letter.

        Raises:
            DeadLetterNotFoundError: The event at this position is not a dead letter.
            ConfigurationError: ``position`` is out of range.
        """
        check_position(position, "position")
        await self._native.redrive(position)

    async def retire(self) -> bool:
        """Deletes the saved position of a projection that is not needed any more; returns whether
        there was one. Retention keeps what a projection with a position has not applied, even if no
        process runs the projection. If it is started again, it begins like one that never ran.

        Raises:
            ConfigurationError: A process runs the projection, or died less than a lease time ago while
                it did.
        """
        return await self._native.retire()

    def __repr__(self) -> str:
        return f"<aios.ProjectionHandle {self.name}>"


class NativeProjection(NamedTuple):
    """A projection as the native module takes it."""

    name: str
    apply: Callable[..., Any]
    is_async: bool
    patterns: list[str] | None
    batch_size: int
    retry: RetryPolicy | None
    lease_time: float
    position: Callable[..., Any] | None
    is_position_async: bool
    pool: ThreadPool


def to_native(
    name: str,
    apply: Apply,
    patterns: Sequence[str] | None,
    batch_size: int,
    retry: RetryPolicy | None,
    lease_time: float,
    position_from: Load | None,
) -> NativeProjection:
    """Converts a projection for the native module. It sees the current context variables.

    Raises:
        ConfigurationError: An argument is invalid.
    """
    from ._types.signature import is_async, is_async_generator, is_generator

    check_name(name, "the name of a projection")
    _check_callable(apply, 1, f"projection {name} must be a function of a batch")
    if is_async_generator(apply) or is_generator(apply):
        raise ConfigurationError(f"projection {name} must apply its batch, not yield")
    chosen = None if patterns is None else as_texts(patterns, "patterns")
    check_at_least(batch_size, "batch_size", 1)
    retry_row(retry)
    check_seconds(lease_time, "lease_time")
    load: Callable[..., Any] | None = None
    if position_from is not None:
        what = f"position_from of projection {name} must be a function without arguments"
        _check_callable(position_from, 0, what)
        load = _runner(position_from, _check_position)
    return NativeProjection(
        name,
        _runner(apply, _check_no_result, _batch_arguments),
        is_async(apply),
        chosen,
        batch_size,
        retry,
        lease_time,
        load,
        position_from is not None and is_async(position_from),
        ThreadPool(),
    )


def _check_callable(function: Any, arguments: int, what: str) -> None:
    from ._types.annotations import signature_of

    if not callable(function):
        raise ConfigurationError(f"{what}, not {function!r}")
    try:
        signature_of(function).bind(*[None] * arguments)
    except TypeError as error:
        raise ConfigurationError(f"{what}: {error}") from error
    except ValueError:
        # Functions implemented in C may have no signature.
        return


def _batch_arguments(
    rows: list[Any], position: int, attempt: int, is_redriven: bool
) -> tuple[Batch]:
    return (Batch([RecordedEvent.from_row(row) for row in rows], position, attempt, is_redriven),)


def _check_no_result(value: Any) -> None:
    """Refuses what has to be awaited or iterated over: the function has not done its work then."""
    if not isinstance(value, (Awaitable, Generator, AsyncGenerator)):
        return
    kind = type(value).__name__
    if inspect.iscoroutine(value):
        value.close()
    raise TaskError.terminal(
        f"the function of a projection returned a {kind}, so it has not applied the batch: write an "
        "`async def`, or a function that does not yield",
        code="INVALID_OUTPUT",
    )


def _check_position(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise TaskError.terminal(
            f"position_from returned {value!r}, which is not a position of the log",
            code="INVALID_OUTPUT",
        )
    return value


def _runner(
    function: Callable[..., Any],
    check: Callable[[Any], Any],
    read: Callable[..., tuple[Any, ...]] = lambda: (),
) -> Callable[..., Any]:
    """Returns what the native module calls: on the event loop for an async function, in a thread for
    a plain function."""
    from ._types.signature import is_async

    base = contextvars.copy_context()

    async def work(reply: Reply, *arguments: Any) -> None:
        try:
            value = check(await function(*read(*arguments)))
        except BaseException as error:
            reply.fail(error)
            if leaves_loop(error):
                raise
        else:
            reply.succeed(value)

    def start(reply: Reply, *arguments: Any) -> asyncio.Task[None]:
        from asyncio import get_running_loop

        # A task copies the context in which it is created.
        return base.run(get_running_loop().create_task, work(reply, *arguments))

    def work_plain(reply: Reply, *arguments: Any) -> None:
        try:
            value = check(base.copy().run(function, *read(*arguments)))
        except BaseException as error:
            reply.fail(error)
        else:
            reply.succeed(value)

    return start if is_async(function) else work_plain
