"""Reads of the log and the tables, and maintenance of the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Literal, cast

from .. import _aios
from .._aios import DEFAULTS
from .._errors import ConfigurationError
from .._projection import ProjectionHandle
from .._types.validation import (
    check_flag,
    check_limit,
    check_name,
    check_number,
    check_position,
    check_range,
    check_statuses,
    check_texts,
)
from .connection import Connection
from .following import Following
from .records import (
    AgentStatus,
    Page,
    RecordedEvent,
    RunState,
    RunStatus,
    TaskStatus,
    WorkflowStatus,
)

if TYPE_CHECKING:
    import datetime

    from .._aios import NativeClient

#: How many events are read from the log at once.
_LOG_PAGE = 500


class Queries(Connection):
    """The part of :class:`Client` that reads and maintains the store."""

    def log(self, after: int = 0, *, follow: bool = False) -> AsyncIterator[RecordedEvent]:
        """Yields the events of the log with a position above ``after``, in order. If a wait is
        cancelled, the next one continues without a gap.

        Args:
            after: Position after which to begin.
            follow: Whether to wait for new events instead of ending after the last one.

        Raises:
            StoreError: The store failed.
            ConfigurationError: ``after`` is out of range.
        """

        opened: NativeClient | None = None
        reader: NativeClient | None = None

        async def read(after: int) -> list[tuple[int, RecordedEvent]] | None:
            nonlocal opened, reader
            check_position(after, "after")
            check_flag(follow, "follow")
            # Another one if this client was closed and opened again.
            if reader is None or opened is not self._opened():
                opened = self._opened()
                reader = opened.reader()
            rows = await reader.read_log(after, _LOG_PAGE, follow)
            if not rows and not follow:
                return None
            found = (RecordedEvent.from_row(row) for row in rows)
            return [(recorded.position, recorded) for recorded in found]

        return Following(read, after)

    async def head(self) -> int:
        """Position of the last event of the log; 0 if the log is empty."""
        return cast("int", await self._opened().head())

    async def runs(
        self,
        workflow: str | None = None,
        *,
        statuses: Sequence[RunState] = (),
        created_after: datetime.datetime | None = None,
        created_before: datetime.datetime | None = None,
        after: str | None = None,
        limit: int = DEFAULTS.page_limit,
    ) -> Page[RunStatus]:
        """A page of runs.

        Args:
            workflow: Only runs of this workflow.
            statuses: Only runs in one of these statuses.
            created_after: Only runs that were started at this time or later. With a time, the rows
                are in the order of their creation.
            created_before: Only runs that were started before this time.
            after: Where the page begins: ``next`` of the previous page.
            limit: Maximum number of rows, 1 to 10,000.

        Raises:
            ConfigurationError: A status is unknown, or ``limit`` is out of range.
        """
        check_texts(workflow=workflow, after=after)
        rows, following = await self._opened().runs(
            workflow,
            check_statuses(statuses),
            _range(created_after, created_before),
            after,
            check_limit(limit),
        )
        return Page([RunStatus.from_row(row) for row in rows], following)

    async def tasks(
        self,
        *,
        run_id: str | None = None,
        agent: str | None = None,
        created_after: datetime.datetime | None = None,
        created_before: datetime.datetime | None = None,
        after: str | None = None,
        limit: int = DEFAULTS.page_limit,
    ) -> Page[TaskStatus]:
        """A page of tasks.

        Args:
            run_id: Only tasks of this run.
            agent: Only tasks of this agent type.
            created_after: Only tasks that were first assigned at this time or later. With a time, the
                rows are in the order of their creation.
            created_before: Only tasks that were first assigned before this time.
            after: Where the page begins: ``next`` of the previous page.
            limit: Maximum number of rows, 1 to 10,000.

        Raises:
            ConfigurationError: ``limit`` is out of range.
        """
        check_texts(run_id=run_id, agent=agent, after=after)
        created = _range(created_after, created_before)
        rows, following = await self._opened().tasks(
            run_id, agent, created, after, check_limit(limit)
        )
        return Page([TaskStatus.from_row(row) for row in rows], following)

    async def agents(
        self,
        agent: str | None = None,
        *,
        after: str | None = None,
        limit: int = DEFAULTS.page_limit,
    ) -> Page[AgentStatus]:
        """A page of registered agents.

        Args:
            agent: Only agents of this type.
            after: Where the page begins: ``next`` of the previous page.
            limit: Maximum number of rows, 1 to 10,000.

        Raises:
            ConfigurationError: ``limit`` is out of range.
        """
        check_texts(agent=agent, after=after)
        rows, following = await self._opened().agents(agent, after, check_limit(limit))
        return Page([AgentStatus.from_row(row) for row in rows], following)

    async def workflows(
        self, *, after: str | None = None, limit: int = DEFAULTS.page_limit
    ) -> Page[WorkflowStatus]:
        """A page of registered workflows.

        Args:
            after: Where the page begins: ``next`` of the previous page.
            limit: Maximum number of rows, 1 to 10,000.

        Raises:
            ConfigurationError: ``limit`` is out of range.
        """
        check_texts(after=after)
        rows, following = await self._opened().workflows(after, check_limit(limit))
        return Page([WorkflowStatus.from_row(row) for row in rows], following)

    def projection_handle(self, name: str) -> ProjectionHandle:
        """A handle of a projection, whichever process runs it; see :meth:`Runtime.projection`.

        Raises:
            ConfigurationError: The name is invalid.
        """
        check_name(name, "the name of a projection")
        return ProjectionHandle(_aios.projection(self._opened(), name))

    async def expire_runs(
        self,
        older_than: float,
        *,
        archive: bool = False,
        batch_size: int = DEFAULTS.expire_batch_size,
        pause: float = DEFAULTS.expire_pause,
    ) -> int:
        """Removes old finished runs and their tasks from the log and the read models, in small
        transactions. If the call fails or is cancelled, the runs removed so far stay removed; call it
        again for the rest.

        A run is kept while something may still refer to it: until its parent and the last run of its
        continue-as-new chain have ended, and until every projection and every other reader with a
        checkpoint has passed its last event. Positions are never reused; the id of a removed run can
        be.

        Args:
            older_than: Removes runs that ended at least this many seconds ago.
            archive: Moves the events to the table ``archived_events`` instead of deleting them.
            batch_size: Number of runs per transaction, 1 to 65,535. Appends wait for each
                transaction.
            pause: Seconds between two transactions, in which appends proceed.

        Returns:
            How many runs were removed.

        Raises:
            ConfigurationError: An option is out of range, or the store (``memory:``) has no archive.
            StoreError: The store failed.
        """
        check_number(older_than, "older_than")
        check_flag(archive, "archive")
        check_range(batch_size, "batch_size", DEFAULTS.max_expire_batch_size)
        check_number(pause, "pause")
        native = self._opened()
        return await _aios.expire_runs(native, older_than, archive, batch_size, pause)

    async def expire_streams(
        self,
        kind: Literal["requests", "outputs"],
        older_than: float,
        *,
        batch_size: int = DEFAULTS.expire_batch_size,
        pause: float = DEFAULTS.expire_pause,
    ) -> int:
        """Deletes streams of the log that are needed for a time only, in small transactions. If the
        call fails or is cancelled, the streams removed so far stay removed; call it again for the
        rest.

        Args:
            kind: ``"requests"``: the answers to requests to the HTTP API with an
                ``Idempotency-Key``. A request that is repeated later is handled again, so keep them
                longer than clients repeat requests, for example a day. ``"outputs"``: the output
                streams of runs that have ended or were removed; later readers find them empty.
            older_than: Removes streams whose last event is at least this many seconds old.
            batch_size: Number of streams that a transaction examines, 1 to 65,535. Appends wait for
                each transaction.
            pause: Seconds between two transactions, in which appends proceed.

        Returns:
            How many streams were removed.

        Raises:
            ConfigurationError: The kind is unknown, or an option is out of range.
            StoreError: The store failed.
        """
        if kind not in ("requests", "outputs"):
            raise ConfigurationError(f"kind is 'requests' or 'outputs', not {kind!r}")
        check_number(older_than, "older_than")
        check_range(batch_size, "batch_size", DEFAULTS.max_expire_batch_size)
        check_number(pause, "pause")
        native = self._opened()
        return await _aios.expire_streams(native, kind, older_than, batch_size, pause)

    async def compact(self) -> int:
        """Returns the free space of a SQLite file, for example after :meth:`expire_runs`, to the file
        system. Rewrites the file; appends wait until that is done.

        Returns:
            By how many bytes the file has shrunk.

        Raises:
            ConfigurationError: The store is not a SQLite file.
            StoreError: The store failed; the file is unchanged.
        """
        return await _aios.compact(self._opened())


def _range(
    after: datetime.datetime | None, before: datetime.datetime | None
) -> tuple[int | None, int | None]:
    """Two times as microseconds since the Unix epoch.

    Raises:
        TypeError: A time is not a ``datetime``.
        ConfigurationError: A time has no time zone.
    """
    return _micros(after, "created_after"), _micros(before, "created_before")


def _micros(time: datetime.datetime | None, name: str) -> int | None:
    import datetime

    if time is None:
        return None
    if not isinstance(time, datetime.datetime):
        raise TypeError(f"{name} must be a datetime, not {time!r}")
    if time.tzinfo is None:
        raise ConfigurationError(f"{name} needs a time zone, such as datetime.now(datetime.UTC)")
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (time - epoch) // datetime.timedelta(microseconds=1)
