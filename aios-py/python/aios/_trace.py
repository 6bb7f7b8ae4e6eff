"""The current trace."""

from __future__ import annotations

import contextlib
import re
import sys
from contextvars import ContextVar
from typing import Any

#: W3C ``traceparent`` of the current task or run. It is passed on to runs, tasks and events that are
#: started or published here.
traceparent: ContextVar[str | None] = ContextVar("aios.traceparent", default=None)


#: Version, trace id, span id and flags of a W3C ``traceparent``. Later versions may have more.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


def current() -> str | None:
    """The trace context of the caller.

    That of the current span of OpenTelemetry, if the program uses it, and otherwise the current task or
    run.
    """
    span = span_headers()
    return traceparent.get() if span is None else span[0]


def span_headers() -> tuple[str, str] | None:
    """``traceparent`` and ``tracestate`` of the current span of OpenTelemetry, if the program uses it."""
    api = _api()
    if api is None:
        return None
    # A trace never fails what it follows, whatever a span of another library does.
    with contextlib.suppress(Exception):
        span = api.get_current_span().get_span_context()
        if span.is_valid:
            parent = f"00-{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags):02x}"
            return parent, str(span.trace_state.to_header())
    return None


def _api() -> Any:
    """The API of OpenTelemetry; ``None`` if the program has not imported it, or another thread is still
    importing it."""
    api: Any = sys.modules.get("opentelemetry.trace")
    spec = getattr(api, "__spec__", None)
    return None if getattr(spec, "_initializing", False) else api


def ids(parent: str | None) -> tuple[str, str] | None:
    """The ids of the trace and of the span of a ``traceparent``; ``None`` if it is malformed."""
    parts = None if parent is None else _TRACEPARENT.fullmatch(parent)
    return None if parts is None else (parts[1], parts[2])


def enter(parent: str | None) -> None:
    """Makes a task or run the current one, until the end of the context of this code.

    Spans that the code makes with OpenTelemetry are then below that of the task or run.
    """
    traceparent.set(parent)
    api = _api()
    if api is None or parent is None:
        return
    # One of another service may be malformed, which begins a trace and fails nothing.
    parts = _TRACEPARENT.fullmatch(parent)
    if parts is None:
        return
    with contextlib.suppress(Exception):
        # The first module imports the second.
        contexts: Any = sys.modules["opentelemetry.context"]
        trace_id, span_id, flags = parts.groups()
        span = api.SpanContext(
            trace_id=int(trace_id, 16),
            span_id=int(span_id, 16),
            is_remote=True,
            trace_flags=api.TraceFlags(int(flags, 16)),
        )
        # Never detached: the context ends with the code.
        contexts.attach(api.set_span_in_context(api.NonRecordingSpan(span)))
