"""The trace that a task or a call belongs to."""

from __future__ import annotations

from contextvars import ContextVar

#: W3C ``traceparent`` of the work that is being done. Agents find that of their task here; runs,
#: tasks and events that are started take it along.
traceparent: ContextVar[str | None] = ContextVar("aios.traceparent", default=None)
