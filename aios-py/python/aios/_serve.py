"""Runs a runtime until the process is asked to stop, and ends the process in time."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import _aios
from ._errors import ConfigurationError

if TYPE_CHECKING:
    import asyncio

    from ._client import Runtime

#: What asks a process to stop.
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(runtime: Runtime) -> None:
    """Opens a runtime, lets it work until the process gets SIGTERM or SIGINT, and closes it.

    For a process of its own: it runs an event loop, handles both signals while it runs, and may end
    the process. On a signal the runtime takes no more tasks, and gives back those whose code has not
    begun. Those that run may end within its ``shutdown_timeout``; then they are given back too. That
    is done by a thread which no Python code can hold up. If Python does not give back control, because
    code blocks the event loop or holds the interpreter, the process ends 3 s after
    ``shutdown_timeout`` with the status 75 and a line on stderr that names the tasks that did not end.
    No handler at exit runs then.

    Raises:
        ConfigurationError: This is not the main thread, or the runtime is open already.
        ShutdownTimeoutError: Tasks still ran at the end of the ``shutdown_timeout``.
    """
    import asyncio

    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError("only the main thread can handle signals")
    asyncio.run(serve_until(runtime, None))


async def serve_until(runtime: Runtime, parent: int | None) -> None:
    """Like :func:`serve`; stops too when the process ``parent`` is gone."""
    import asyncio

    stop = asyncio.Event()
    with _terminator(stop, runtime._deadline(), parent) as terminator:
        async with runtime:
            terminator.attach(runtime._opened())
            await stop.wait()


@contextlib.contextmanager
def _terminator(
    stop: asyncio.Event, deadline: float, parent: int | None
) -> Iterator[_aios.Terminator]:
    """Handles signals: by a thread of its own, and by Python, should others read its signals."""
    from asyncio import get_running_loop

    loop = get_running_loop()
    bridge = _aios.LoopBridge(loop)
    loop.add_reader(bridge.fileno(), bridge.drain)
    numbers = [int(number) for number in _SIGNALS]
    terminator = _aios.Terminator(bridge, stop.set, deadline, numbers, parent)
    before = {number: signal.signal(number, lambda *_: terminator.stop()) for number in _SIGNALS}
    descriptor = signal.set_wakeup_fd(terminator.wakeup_fileno(), warn_on_full_buffer=False)
    try:
        yield terminator
    finally:
        terminator.done()
        signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
        for number, handler in before.items():
            signal.signal(number, handler)
        loop.remove_reader(bridge.fileno())
        bridge.close()
