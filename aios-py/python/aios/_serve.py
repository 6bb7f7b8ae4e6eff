"""Runs a runtime until the process receives a stop signal, and ends the process in time."""

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

    from ._runtime import Runtime

#: Signals that stop the process.
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(runtime: Runtime) -> None:
    """Opens a runtime, runs it until the process receives SIGTERM or SIGINT, and closes it.

    For a dedicated process: it runs an event loop, handles both signals while it runs, and may end
    the process. On a signal, the runtime takes no more tasks and releases tasks whose code has not
    started. Running tasks may end within its ``shutdown_timeout``; then they are released too. A
    native thread does this, which Python code can't block. If Python does not return control, because
    code blocks the event loop or holds the interpreter, the process ends 3 s after
    ``shutdown_timeout`` with exit status 75 and a line on stderr that names the unfinished tasks. No
    exit handlers run in that case.

    Raises:
        ConfigurationError: This is not the main thread, or the runtime is already open.
        ShutdownTimeoutError: Tasks were still running after ``shutdown_timeout``.
    """
    import asyncio

    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError("serve must be called on the main thread, which handles signals")
    asyncio.run(serve_until(runtime, None))


async def serve_until(runtime: Runtime, parent: int | None) -> None:
    """Same as :func:`serve`, within a running loop; also stops when the process ``parent`` has ended."""
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
    """Handles signals in a native thread, and in Python in case other code reads the wake-up descriptor."""
    from asyncio import get_running_loop

    loop = get_running_loop()
    bridge = _aios.LoopBridge(loop)
    loop.add_reader(bridge.fileno(), bridge.run_jobs)
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
