"""Runs a runtime until the process receives a stop signal, and ends the process in time."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .. import _aios
from .._errors import ConfigurationError

if TYPE_CHECKING:
    import asyncio

    from .._runtime import Runtime
    from .asgi import Asgi

_log = logging.getLogger("aios.serve")
#: Where the HTTP API is mounted unless the caller says otherwise.
API_PREFIX = "/api/v1"

#: Signals that stop the process.
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(runtime: Runtime | Asgi, *, listen: str | None = None, prefix: str = API_PREFIX) -> None:
    """Opens a runtime, runs it until the process receives SIGTERM or SIGINT, and closes it.

    With ``listen``, it also serves the HTTP API, from native threads, with the options of
    :func:`asgi`. On a signal, it takes no more connections, ends streams of events, and lets other
    requests end, in at most half of ``shutdown_timeout``.

    For a dedicated process: it runs an event loop, handles both signals while it runs, and may end
    the process. On a signal, the runtime takes no more tasks and releases tasks whose code has not
    started. Running tasks may end within its ``shutdown_timeout``; then they are released too. A
    native thread does this, which Python code can't block. If Python does not return control, because
    code blocks the event loop or holds the interpreter, the process ends 3 s after
    ``shutdown_timeout`` with exit status 75 and a line on stderr that names the unfinished tasks. No
    exit handlers run in that case.

    Args:
        runtime: A runtime, or what :func:`asgi` returned for one.
        listen: Where to serve the HTTP API, such as ``127.0.0.1:8080``; it is not served by default.
            A port of 0 stands for a free one, which the log names.
        prefix: Path of the API. Its health is at ``/health``, without the prefix.

    Raises:
        ConfigurationError: This is not the main thread, the runtime is already open, or nothing can
            listen there.
        ShutdownTimeoutError: Tasks were still running after ``shutdown_timeout``.
    """
    import asyncio

    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError("serve must be called on the main thread, which handles signals")
    asyncio.run(serve_until(runtime, None, listen, prefix))


async def serve_until(
    app: Runtime | Asgi, parent: int | None, listen: str | None = None, prefix: str = API_PREFIX
) -> None:
    """Same as :func:`serve`, within a running loop; also stops when the process ``parent`` has ended."""
    import asyncio

    from . import asgi as _asgi

    api = app if isinstance(app, _asgi.Asgi) else None
    runtime = app if not isinstance(app, _asgi.Asgi) else app._runtime
    if listen is not None and api is None:
        api = _asgi.asgi(runtime)
    stop = asyncio.Event()
    with _terminator(stop, runtime._deadline(), parent) as terminator:
        async with runtime:
            terminator.attach(runtime._opened())
            if api is not None and listen is not None:
                _log.info("listening on %s", await api.listen(listen, prefix=prefix))
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
