"""The current trace."""

from __future__ import annotations

from contextvars import ContextVar

#: W3C ``traceparent`` of the current task or run. It is passed on to runs, tasks and events that are
#: started or published here.
traceparent: ContextVar[str | None] = ContextVar("aios.traceparent", default=None)
