"""Signals: wakes the event loops of open runtimes and clients, and recognises what handlers raise.

asyncio runs a signal handler that was set with :func:`signal.signal` when the signal interrupts the
loop's wait. A signal that arrives just before the wait would be handled only after it, unless a byte
in a descriptor that the loop watches ends the wait. The interpreter writes such a byte to one
descriptor (:func:`signal.set_wakeup_fd`), which only the main thread can choose.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
import traceback
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._aios import LoopBridge

#: Bridges whose loops signals should wake, oldest first. A closed bridge stays here, and its
#: descriptor open, until the main thread has chosen another descriptor.
_bridges: list[LoopBridge] = []
#: The closed ones among them.
_closed: list[LoopBridge] = []


def enable_wakeup(bridge: LoopBridge) -> None:
    """Lets signals wake the bridge's loop, unless other code has set a wake-up descriptor."""
    if threading.current_thread() is threading.main_thread():
        _bridges.append(bridge)
        _choose_descriptor()


def disable_wakeup(bridge: LoopBridge) -> None:
    """Undoes :func:`enable_wakeup`."""
    if bridge not in _bridges:
        return
    _closed.append(bridge)
    if threading.current_thread() is threading.main_thread():
        _choose_descriptor()


def _choose_descriptor() -> None:
    """Makes signals write to the most recent open bridge. Keeps a descriptor set by other code."""
    open_bridges = [bridge for bridge in _bridges if bridge not in _closed]
    own = {bridge.wakeup_fileno() for bridge in _bridges}
    wanted = open_bridges[-1].wakeup_fileno() if open_bridges else -1
    current = signal.set_wakeup_fd(wanted, warn_on_full_buffer=False)
    if current != -1 and current not in own:
        # Raises if that descriptor has been closed since.
        with contextlib.suppress(OSError, ValueError):
            signal.set_wakeup_fd(current, warn_on_full_buffer=False)
    _bridges[:] = open_bridges
    _closed.clear()


def is_raised_by_handler(trace: TracebackType | None) -> bool:
    """Whether a signal handler raised the exception with this traceback, and not the code that it interrupted.

    The interpreter calls handlers between two instructions of any code on the main thread. The code of
    the handler is then among the frames of the traceback.
    """
    handlers = (_code_of(signal.getsignal(number)) for number in signal.valid_signals())
    codes = {code for code in handlers if code is not None}
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(trace))


def _code_of(handler: Any) -> CodeType | None:
    """The code that the interpreter executes for a handler; ``None`` if it is not written in Python."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    code = getattr(handler, "__code__", None)
    if code is None:
        code = getattr(type(handler).__call__, "__code__", None) if callable(handler) else None
    return code if isinstance(code, CodeType) else None
