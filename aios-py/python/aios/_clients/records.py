"""Events, rows of the tables, and pages."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Generic, Literal, NamedTuple, TypeVar

T = TypeVar("T")

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

#: Status of a run. ``blocked``: the current code does not match its journal.
RunState = Literal[
    "running",
    "paused",
    "blocked",
    "cancelling",
    "completed",
    "failed",
    "cancelled",
    "continued",
]


def moment(micros: int) -> datetime.datetime:
    """Converts microseconds since the Unix epoch to a time in UTC."""
    return _EPOCH + datetime.timedelta(microseconds=micros)


def _optional(micros: int | None) -> datetime.datetime | None:
    return None if micros is None else moment(micros)


class Event(NamedTuple):
    """An immutable fact that has happened.

    Attributes:
        id: Unique id.
        type: ``domain.entity.action``.
        timestamp: When it happened, in UTC.
        source: Name of the service that created it.
        data: Its payload.
        metadata: Its context: ``correlation_id``, ``causation_id``, ``user_id``,
            ``traceparent`` and more.
    """

    id: str
    type: str
    timestamp: datetime.datetime
    source: str
    data: Any
    metadata: Mapping[str, Any]

    @classmethod
    def from_envelope(cls, envelope: Mapping[str, Any]) -> Event:
        """Reads an event from its JSON envelope."""
        return cls(
            envelope["id"],
            envelope["type"],
            datetime.datetime.fromisoformat(envelope["timestamp"]),
            envelope["source"],
            envelope["data"],
            envelope.get("metadata", {}),
        )

    def to_envelope(self) -> dict[str, Any]:
        """The JSON envelope."""
        stamp = self.timestamp.astimezone(datetime.UTC).replace(tzinfo=None).isoformat()
        return {
            "id": self.id,
            "type": self.type,
            "timestamp": stamp + "Z",
            "source": self.source,
            "data": self.data,
            "metadata": dict(self.metadata),
        }


class RecordedEvent(NamedTuple):
    """An event and its position in the log.

    Attributes:
        position: Position in the log: 1, 2, 3 … without gaps.
        stream: The stream it belongs to; ``runs/<id>`` for a run.
        version: Number in the stream: 1, 2, 3 …
        event: The event.
    """

    position: int
    stream: str
    version: int
    event: Event

    @classmethod
    def from_row(cls, row: list[Any]) -> RecordedEvent:
        """Reads a row of the native module."""
        return cls(row[0], row[1], row[2], Event.from_envelope(row[3]))


class Failure(NamedTuple):
    """Why a task, a step or a run failed, as recorded in a journal."""

    code: str
    message: str
    details: Any = None


def failure(data: Mapping[str, Any] | None) -> Failure | None:
    """Reads a row of the native module."""
    if data is None:
        return None
    return Failure(data["code"], data["message"], data.get("details"))


class RunStatus(NamedTuple):
    """The status of a run, and what its workflow last reported."""

    id: str
    workflow: str
    workflow_version: int
    status: RunState
    parent_run_id: str | None
    result: Any
    failure: Failure | None
    status_text: str | None
    waits_for: str | None
    """The reason why the run waits without progress: a task that no agent has started, or a child
    that is blocked or paused. Only set by :meth:`RunHandle.status`."""
    progress: Any
    created_at: datetime.datetime
    updated_at: datetime.datetime

    @property
    def is_final(self) -> bool:
        """Whether the run has ended."""
        return self.status in ("completed", "failed", "cancelled", "continued")

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> RunStatus:
        """Reads a row of the native module."""
        return cls(**{**row, "failure": failure(row["failure"]), **_times(row)})


class TaskStatus(NamedTuple):
    """A task and its status."""

    id: str
    run_id: str | None
    agent_type: str
    agent_id: str | None
    status: Literal["assigned", "completed", "failed", "cancelled"]
    attempt: int
    failure: Failure | None
    created_at: datetime.datetime
    updated_at: datetime.datetime

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> TaskStatus:
        """Reads a row of the native module."""
        return cls(**{**row, "failure": failure(row["failure"]), **_times(row)})


class AgentStatus(NamedTuple):
    """A registered agent."""

    id: str
    agent_type: str
    name: str
    config: Any
    status: Literal["running", "missing", "stopped", "failed", "waiting"]
    last_seen_at: datetime.datetime | None
    created_at: datetime.datetime
    updated_at: datetime.datetime

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> AgentStatus:
        """Reads a row of the native module."""
        return cls(**{**row, "last_seen_at": _optional(row["last_seen_at"]), **_times(row)})


class WorkflowStatus(NamedTuple):
    """A registered version of a workflow."""

    id: str
    name: str
    version: int
    created_at: datetime.datetime
    updated_at: datetime.datetime

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> WorkflowStatus:
        """Reads a row of the native module."""
        return cls(**{**row, **_times(row)})


def _times(row: dict[str, Any]) -> dict[str, datetime.datetime]:
    return {name: moment(row[name]) for name in ("created_at", "updated_at")}


class Page(NamedTuple, Generic[T]):
    """One page of rows.

    Attributes:
        rows: The rows.
        next: What to pass as ``after`` for the next page; ``None`` on the last one.
    """

    rows: list[T]
    next: str | None
