"""The current trace."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import Any

#: W3C ``traceparent`` of the current task or run. It is passed on to runs, tasks and events that are
#: started or published here.
traceparent: ContextVar[str | None] = ContextVar("aios.traceparent", default=None)


def current() -> str | None:
    """The trace context of the caller.

    That of the current span of OpenTelemetry, if the program uses it, and otherwise the current task or
    run.
    """
    api: Any = sys.modules.get("opentelemetry.trace")
    if api is not None:
        span = api.get_current_span().get_span_context()
        if span.is_valid:
            return f"00-{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags):02x}"
    return traceparent.get()


def enter(parent: str | None) -> None:
    """Makes a task or run the current one, until the end of the context of this code.

    Spans that the code makes with OpenTelemetry are then below that of the task or run.
    """
    traceparent.set(parent)
    api: Any = sys.modules.get("opentelemetry.trace")
    if api is None or parent is None:
        return
    # The first module imports the second.
    contexts: Any = sys.modules["opentelemetry.context"]
    _, trace_id, span_id, flags = parent.split("-")[:4]
    span = api.SpanContext(
        trace_id=int(trace_id, 16),
        span_id=int(span_id, 16),
        is_remote=True,
        trace_flags=api.TraceFlags(int(flags, 16)),
    )
    # Never detached: the context ends with the code.
    contexts.attach(api.set_span_in_context(api.NonRecordingSpan(span)))
