"""Interrupts the code of a run that computes on the thread of the event loop and does not return.

The engine sees that a poll of a run does not return, and the native module asks here, on another thread,
whether to interrupt it. Code that waits, for example in ``time.sleep``, or for the interpreter while another
thread has it, uses no processor time and is left alone.

An interruption is an exception that the interpreter raises in the thread between two of its instructions. It
must be raised in the code of the run and nowhere else, so ``executing`` tells where the code is, and a
driver withdraws an interruption that was not raised before its code returned.

Code that catches every exception in a loop catches this one too. So the exception traces the code from when
it is created, and is raised again at the next line, which is in the ``except`` block: that leaves the loop.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

#: Where the code of runs is called, which is not traced.
_OWN = __name__.rpartition(".")[0]


class Interrupted(BaseException):
    """Raised in code that computes for too long, wherever it is."""

    def __init__(self, traces: bool = True) -> None:
        super().__init__()
        if traces:
            _trace(sys._getframe(1))


def _trace(frame: FrameType | None) -> None:
    """Raises the exception again at the next line of the code, unless something else traces it."""
    if sys.gettrace() is not None:
        return
    while frame is not None and not _is_own(frame):
        frame.f_trace = _raise_again
        frame = frame.f_back
    sys.settrace(_raise_again)


def _raise_again(frame: FrameType, event: str, _: Any) -> Any:
    if event in ("line", "call") and not _is_own(frame):
        raise Interrupted(False)
    return _raise_again


def _is_own(frame: FrameType) -> bool:
    """Whether a frame belongs to this package and not to the code of a run."""
    return str(frame.f_globals.get("__name__")).startswith(_OWN)


class Interruptible(Protocol):
    """A driver."""

    turn: int
    interrupted: bool


#: The driver whose code executes, by the identifier of its thread.
executing: dict[int, Interruptible] = {}

#: The code that was seen last on each thread: its driver and turn, and the processor time of the thread at
#: that moment.
_seen: dict[int, tuple[int, int, float]] = {}


def due(thread: int, limit: float) -> tuple[Interruptible, int, Callable[[], Any]] | None:
    """The driver to interrupt, its turn, and what interrupts it; ``None`` if there is none. Called by the
    native module, which then looks at ``executing`` again without running Python code in between.

    Args:
        thread: Identifier of the thread of the event loop.
        limit: How much processor time code may use after it was first seen, in seconds.
    """
    driver = executing.get(thread)
    used = None if driver is None else _processor_time(thread)
    if driver is None or used is None:
        return None
    code = (id(driver), driver.turn)
    seen = _seen.get(thread)
    if seen is None or seen[:2] != code:
        _seen[thread] = (*code, used)
        return None
    if used - seen[2] < limit:
        return None
    return driver, driver.turn, _raise_in(thread, Interrupted)


def withdraw(thread: int) -> None:
    """Withdraws an interruption that was not raised yet, or not again."""
    _raise_in(thread, None)()
    if sys.gettrace() is _raise_again:
        sys.settrace(None)


def _processor_time(thread: int) -> float | None:
    """The processor time of a thread in seconds; ``None`` where the system does not tell."""
    clock_of = getattr(time, "pthread_getcpuclockid", None)
    return None if clock_of is None else time.clock_gettime(clock_of(thread))


def _raise_in(thread: int, exception: type[BaseException] | None) -> Callable[[], Any]:
    """Raises an exception in a thread, or nothing any more, when it is called."""
    # Rarely needed, and missing in some builds of Python.
    import ctypes

    argument = None if exception is None else ctypes.py_object(exception)
    function = ctypes.pythonapi.PyThreadState_SetAsyncExc
    return functools.partial(function, ctypes.c_ulong(thread), argument)
