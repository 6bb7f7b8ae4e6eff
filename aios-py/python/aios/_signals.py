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
from types import CodeType, FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._aios import LoopBridge, Reply

#: Flag of the code object of a function with ``*args`` (``inspect.CO_VARARGS``).
_VARARGS = 0x04

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

    The interpreter calls handlers between two instructions of any code on the main thread, with the
    frame of that code as an argument. The frame of the handler is then among those of the traceback. A
    handler may have dropped that argument, or have removed itself, but hardly both.
    """
    handlers = (_code_of(signal.getsignal(number)) for number in signal.valid_signals())
    codes = {code for code in handlers if code is not None}
    frames = [frame for frame, _ in traceback.walk_tb(trace)]
    return any(frame.f_code in codes or _has_interrupted(frame) for frame in frames)


def _has_interrupted(frame: FrameType) -> bool:
    """Whether a frame was called with the frame that called it, as only a handler is."""
    caller, code = frame.f_back, frame.f_code
    if caller is None:
        return False
    values = frame.f_locals
    arguments = [values.get(name) for name in code.co_varnames[: code.co_argcount]]
    if code.co_flags & _VARARGS:
        arguments += values.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount], ())
    return any(argument is caller for argument in arguments)


def leaves_loop(error: BaseException) -> bool:
    """Whether a task of asyncio must pass on the exception of its code, after it was reported.

    asyncio raises ``SystemExit`` and ``KeyboardInterrupt`` out of the loop, which ends the process. A
    ``SystemExit`` of the code itself is only a failure: it would end every process that tries again.
    """
    if isinstance(error, SystemExit):
        return is_raised_by_handler(error.__traceback__)
    return not isinstance(error, Exception)


def fail_or_leave(reply: Reply, error: BaseException) -> bool:
    """Reports the exception of the code of a step, a task or a tool, which ran in a task of asyncio.
    Returns whether that must pass it on.

    An exception that ends the process or the loop is no failure of the code: the attempt does not count.
    """
    leaves = leaves_loop(error)
    if leaves and _ends_loop(error):
        reply.leave()
    else:
        reply.fail(error)
    # A coroutine that is closed may also return, and one that raised it is not closed.
    return leaves and not isinstance(error, GeneratorExit)


def _ends_loop(error: BaseException) -> bool:
    """Whether the loop ends with an exception that leaves it. :func:`asyncio.run` then cancels all tasks;
    otherwise the code has cancelled itself, and would do so again."""
    import asyncio

    if isinstance(error, asyncio.CancelledError):
        return all(task.cancelling() > 0 for task in asyncio.all_tasks())
    return isinstance(error, (SystemExit, KeyboardInterrupt, GeneratorExit))


def _code_of(handler: Any) -> CodeType | None:
    """The code that the interpreter executes for a handler; ``None`` if it is not written in Python."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    code = getattr(handler, "__code__", None)
    if code is None:
        code = getattr(type(handler).__call__, "__code__", None) if callable(handler) else None
    return code if isinstance(code, CodeType) else None
