"""What is read: events, rows and pages."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Generic, Literal, NamedTuple, TypeVar

T = TypeVar("T")

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

#: Where a run stands. ``blocked``: today's code does not fit its journal.
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
    """Microseconds since the Unix epoch as a time in UTC."""
    return _EPOCH + datetime.timedelta(microseconds=micros)


def _optional(micros: int | None) -> datetime.datetime | None:
    return None if micros is None else moment(micros)


class Event(NamedTuple):
    """An immutable fact that has happened.

    Attributes:
        id: Unique name of this event.
        type: ``domain.entity.action``.
        timestamp: When it happened, in UTC.
        source: Who says so.
        data: The facts themselves.
        metadata: How it relates to others: ``correlation_id``, ``causation_id``, ``user_id``,
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
        """Reads the JSON envelope."""
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
    """An event and its place in the log.

    Attributes:
        position: Place in the log: 1, 2, 3 … without gaps.
        stream: The stream it belongs to; of a run ``runs/<id>``.
        version: Place in the stream: 1, 2, 3 …
        event: The event.
    """

    position: int
    stream: str
    version: int
    event: Event

    @classmethod
    def from_row(cls, row: list[Any]) -> RecordedEvent:
        """Reads what Rust tells."""
        return cls(row[0], row[1], row[2], Event.from_envelope(row[3]))


class Failure(NamedTuple):
    """What went wrong, as a journal keeps it."""

    code: str
    message: str
    details: Any = None


def failure(data: Mapping[str, Any] | None) -> Failure | None:
    """Reads what Rust tells."""
    if data is None:
        return None
    return Failure(data["code"], data["message"], data.get("details"))


class RunStatus(NamedTuple):
    """Where a run stands, and what its workflow says it is doing."""

    id: str
    workflow: str
    workflow_version: int
    status: RunState
    parent_run_id: str | None
    result: Any
    failure: Failure | None
    status_text: str | None
    waits_for: str | None
    """What nobody does although the run waits for it, such as a task that no agent begins; only of
    the status of one run."""
    progress: Any
    created_at: datetime.datetime
    updated_at: datetime.datetime

    @property
    def is_final(self) -> bool:
        """Whether the run has ended."""
        return self.status in ("completed", "failed", "cancelled", "continued")

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> RunStatus:
        """Reads what Rust tells."""
        return cls(**{**row, "failure": failure(row["failure"]), **_times(row)})


class TaskStatus(NamedTuple):
    """A task: who does it, and where it stands."""

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
        """Reads what Rust tells."""
        return cls(**{**row, "failure": failure(row["failure"]), **_times(row)})


class AgentStatus(NamedTuple):
    """A registered agent."""

    id: str
    agent_type: str
    name: str
    config: Any
    status: Literal["running", "missing", "stopped", "failed"]
    last_seen_at: datetime.datetime | None
    created_at: datetime.datetime
    updated_at: datetime.datetime

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> AgentStatus:
        """Reads what Rust tells."""
        return cls(**{**row, "last_seen_at": _optional(row["last_seen_at"]), **_times(row)})


class WorkflowStatus(NamedTuple):
    """A version of a workflow that some runtime registered."""

    id: str
    name: str
    version: int
    created_at: datetime.datetime
    updated_at: datetime.datetime

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> WorkflowStatus:
        """Reads what Rust tells."""
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
