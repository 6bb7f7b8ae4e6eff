"""Runs a runtime until the process receives a stop signal, and ends the process in time."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, cast

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


class Server(NamedTuple):
    """The server of a process.

    Attributes:
        address: Where to listen.
        api: The API; ``None`` for health alone.
        prefix: Path of the API.
        accept_delay: How many seconds connections are accepted after a signal.
        metrics: Whether to answer ``/metrics``.
    """

    address: str
    api: Asgi | None
    prefix: str = API_PREFIX
    accept_delay: float = 0.0
    metrics: bool = False

    async def listen(self, runtime: Runtime) -> None:
        """Serves until the runtime is closed."""
        from . import asgi as _asgi

        if self.api is not None:
            url = await self.api._listen(
                self.address, self.prefix, self.accept_delay, metrics=self.metrics
            )
            _log.info("listening on %s", url)
        else:
            url = await _asgi.listen_for_health(
                runtime, self.address, self.accept_delay, metrics=self.metrics
            )
            _log.info("listening on %s; this process does not serve the API", url)


def serve(
    runtime: Runtime | Asgi,
    *,
    listen: str | None = None,
    prefix: str = API_PREFIX,
    metrics: bool = False,
) -> None:
    """Opens a runtime, runs it until the process receives SIGTERM or SIGINT, and closes it.

    With ``listen``, it also serves the HTTP API, from native threads, with the options of
    :func:`asgi`; a runtime without a store has no API, and only its health is served. On a signal, it
    accepts no more connections, ends streams of events, and lets other requests end, in at most half of
    ``shutdown_timeout``.

    For a dedicated process: it runs an event loop, handles both signals while it runs, and may end
    the process. On a signal, the runtime accepts no more tasks and releases tasks whose code has not
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
        metrics: Whether to serve ``/metrics`` too, as OpenMetrics text, without the prefix and without
            credentials.

    Raises:
        ConfigurationError: This is not the main thread, the runtime is already open, nothing can
            listen there, or ``metrics`` is set without ``listen``.
        ShutdownTimeoutError: Tasks were still running after ``shutdown_timeout``.
    """
    from . import asgi as _asgi

    opened = runtime_of(runtime)
    server = None
    if listen is not None:
        api = runtime if isinstance(runtime, _asgi.Asgi) else None
        if api is None and opened._store is not None:
            api = _asgi.asgi(opened)
        has_metrics = metrics or (api is not None and api._metrics)
        server = Server(listen, api, prefix, metrics=has_metrics)
    elif metrics:
        raise ConfigurationError("`metrics` are served at an address; pass `listen=` to aios.serve")
    run(opened, server)


def run(runtime: Runtime, server: Server | None) -> None:
    """Same as :func:`serve`, with what the process serves."""
    import asyncio

    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError("serve must be called on the main thread, which handles signals")
    asyncio.run(run_until(runtime, None, server))


def runtime_of(app: Runtime | Asgi) -> Runtime:
    """The runtime of an application."""
    from .asgi import Asgi

    return cast("Runtime", app._runtime) if isinstance(app, Asgi) else app


async def run_until(runtime: Runtime, parent: int | None, server: Server | None = None) -> None:
    """Same as :func:`run`, within a running loop; also stops when the process ``parent`` has ended."""
    import asyncio

    if server is not None and server.metrics:
        from .asgi import record_metrics

        # Before the runtime records the first values.
        record_metrics()
    stop = asyncio.Event()
    delay = 0.0 if server is None else server.accept_delay
    with _terminator(stop, delay, runtime._deadline(), parent) as terminator:
        async with runtime:
            terminator.attach(runtime._opened())
            if server is not None:
                await server.listen(runtime)
            await stop.wait()


@contextlib.contextmanager
def _terminator(
    stop: asyncio.Event, accept_delay: float, deadline: float, parent: int | None
) -> Iterator[_aios.Terminator]:
    """Handles signals in a native thread, and in Python in case other code reads the wake-up descriptor."""
    from asyncio import get_running_loop

    loop = get_running_loop()
    bridge = _aios.LoopBridge(loop)
    loop.add_reader(bridge.fileno(), bridge.run_jobs)
    numbers = [int(number) for number in _SIGNALS]
    terminator = _aios.Terminator(bridge, stop.set, accept_delay, deadline, numbers, parent)
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
