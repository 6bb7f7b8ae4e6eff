"""The task or run whose code is executed here, for the log."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from . import _trace

if TYPE_CHECKING:
    from ._aios import CallScope, NativeTaskContext, RunScope

_current: ContextVar[NativeTaskContext | CallScope | RunScope | None] = ContextVar(
    "aios_scope", default=None
)


def enter(scope: NativeTaskContext | CallScope | RunScope, traceparent: str | None) -> None:
    """Makes a task or run the current one, and its trace, until the end of the context of this code."""
    _current.set(scope)
    _trace.enter(traceparent)


def is_silent() -> bool:
    """Whether this is the code of a workflow that repeats what it has done before, or leaves memory."""
    from ._aios import RunScope
    from ._workflows.steps import running_step

    scope = _current.get()
    return isinstance(scope, RunScope) and running_step() is None and scope.is_silent


def fields() -> dict[str, object]:
    """The fields of a line of the log that the current code writes, under the names of Rust."""
    from ._aios import RunScope
    from ._workflows.steps import running_step

    scope = _current.get()
    found: dict[str, object] = {} if scope is None else scope.fields()
    if isinstance(scope, RunScope) and (step := running_step()) is not None:
        found |= {"operation": step.operation, "attempt": step.attempt}
    if (ids := _trace.ids(_trace.current())) is not None:
        found["trace_id"], found["span_id"] = ids
    return found
