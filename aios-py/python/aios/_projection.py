"""Projections: views of the log that a program keeps for itself."""

from __future__ import annotations

import contextvars
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ._errors import ConfigurationError, TaskError
from ._records import Failure, RecordedEvent, failure

if TYPE_CHECKING:
    import asyncio

    from ._aios import Pool, ProjectionCore, Reply
    from ._retry import RetryPolicy


class Batch(NamedTuple):
    """Events that a projection applies together, all of them or none.

    Attributes:
        events: The events, in the order of the log. There may be none: then only the position is to
            be kept, because the log has grown by much that the patterns do not match.
        position: Up to where the log is done once this batch is applied. A projection that keeps its
            own position stores this, in the transaction in which it applies the events.
        attempt: Number of this attempt, from 1.
        is_redriven: Whether this is a dead letter that is applied again. Its event is older than what
            was applied before.
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
        attempts: How often it was tried.
    """

    position: int
    event_id: str
    event_type: str
    failure: Failure
    attempts: int

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> ProjectionDeadLetter:
        """Reads what Rust tells."""
        return cls(**{**row, "failure": failure(row["failure"])})


Apply: TypeAlias = Callable[[Batch], Awaitable[None]] | Callable[[Batch], None]
Load: TypeAlias = Callable[[], Awaitable[int]] | Callable[[], int]


class ProjectionHandle:
    """A projection, wherever it runs. Dropping it does nothing to the projection."""

    __slots__ = ("_core",)

    def __init__(self, core: ProjectionCore) -> None:
        self._core = core

    @property
    def name(self) -> str:
        """Name of the projection."""
        return self._core.name

    async def position(self) -> int:
        """Up to where the log is done, as the runtime's store knows it."""
        return await self._core.position()

    async def lag(self) -> int:
        """By how many positions the projection is behind the log."""
        return await self._core.lag()

    async def dead_letters(self, after: int = 0, limit: int = 100) -> list[ProjectionDeadLetter]:
        """Events that were skipped and not redriven, with positions above ``after``, at most
        ``limit``.

        Raises:
            ConfigurationError: ``limit`` is out of range.
        """
        from ._client import _limit

        rows = await self._core.dead_letters(after, _limit(limit))
        return [ProjectionDeadLetter.from_row(row) for row in rows]

    async def redrive(self, position: int) -> None:
        """Asks the projection to apply a dead letter again, wherever it runs. If that fails as well,
        it remains a dead letter.

        Raises:
            DeadLetterNotFoundError: The event at this position is no dead letter.
        """
        await self._core.redrive(position)

    def __repr__(self) -> str:
        return f"<aios.ProjectionHandle {self.name}>"


class GivenProjection(NamedTuple):
    """A projection as Rust takes it."""

    name: str
    apply: Callable[..., Any]
    is_async: bool
    patterns: list[str] | None
    batch_size: int
    retry: RetryPolicy | None
    lease_time: float
    position: Callable[..., Any] | None
    is_position_async: bool
    pool: Pool


def given(
    name: str,
    apply: Apply,
    patterns: Sequence[str] | None,
    batch_size: int,
    retry: RetryPolicy | None,
    lease_time: float,
    position_from: Load | None,
) -> GivenProjection:
    """A projection as Rust takes it, with the context variables of now.

    Raises:
        ConfigurationError: It can't be one.
    """
    from ._aios import Pool
    from ._signature import check_name, is_async

    check_name(name, "the name of a projection")
    _check(apply, 1, f"projection {name} is a function of a batch")
    if isinstance(patterns, str):
        raise ConfigurationError(f"patterns is a list: pass [{patterns!r}] instead of {patterns!r}")
    if batch_size < 1:
        raise ConfigurationError(f"a batch has at least 1 event, not {batch_size}")
    load: Callable[..., Any] | None = None
    if position_from is not None:
        _check(
            position_from, 0, f"position_from of projection {name} is a function without arguments"
        )
        load = _runner(position_from, _position)
    return GivenProjection(
        name,
        _runner(apply, _nothing, _batch),
        is_async(apply),
        None if patterns is None else list(patterns),
        batch_size,
        retry,
        lease_time,
        load,
        position_from is not None and is_async(position_from),
        Pool(),
    )


def _check(function: Any, arguments: int, what: str) -> None:
    if not callable(function):
        raise ConfigurationError(f"{what}, not {function!r}")
    try:
        inspect.signature(function).bind(*[None] * arguments)
    except TypeError as error:
        raise ConfigurationError(f"{what}: {error}") from error
    except ValueError:
        # Functions in C may have no signature.
        return


def _batch(rows: list[Any], position: int, attempt: int, is_redriven: bool) -> tuple[Batch]:
    return (Batch([RecordedEvent.from_row(row) for row in rows], position, attempt, is_redriven),)


def _nothing(value: Any) -> None:
    if inspect.iscoroutine(value):
        value.close()
        raise TaskError.terminal(
            "a projection that is no `async def` returned a coroutine", code="INVALID_OUTPUT"
        )


def _position(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TaskError.terminal(
            f"position_from returned {value!r}, not a position of the log", code="INVALID_OUTPUT"
        )
    return value


def _runner(
    function: Callable[..., Any],
    check: Callable[[Any], Any],
    read: Callable[..., tuple[Any, ...]] = lambda: (),
) -> Callable[..., Any]:
    """What Rust calls: on the loop for a coroutine, in a thread for a plain function."""
    from ._signature import is_async

    base = contextvars.copy_context()

    async def work(reply: Reply, *given: Any) -> None:
        try:
            value = check(await function(*read(*given)))
        except BaseException as error:
            reply.fail(error)
            if not isinstance(error, Exception):
                raise
        else:
            reply.done(value)

    def start(reply: Reply, *given: Any) -> asyncio.Task[None]:
        from asyncio import get_running_loop

        # A task takes a copy of the context in which it is made.
        return base.run(get_running_loop().create_task, work(reply, *given))

    def work_plain(reply: Reply, *given: Any) -> None:
        try:
            value = check(base.copy().run(function, *read(*given)))
        except BaseException as error:
            reply.fail(error)
        else:
            reply.done(value)

    return start if is_async(function) else work_plain
