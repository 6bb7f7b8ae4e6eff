"""Worker processes: one runtime each, supervised by a parent process."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from .._errors import ConfigurationError
from .._runtime import Runtime
from .asgi import Asgi
from .log_format import configure
from .reload import Reload, hangup_blocked
from .serve import run_until
from .settings import Settings

_log = logging.getLogger("aios.worker")

#: A process that lived for less than this many seconds is restarted after a delay.
_SHORT_LIFE = 5.0
#: The first and the longest of these delays, in seconds.
_BACKOFF = (0.2, 10.0)
#: Keys that a runtime reads when it is created, and keys that an API reads.
_OF_RUNTIMES = (
    "database.url",
    "broker.url",
    "agent.timeout",
    "process.roles",
    "shutdown.deadline",
    "telemetry.traces.endpoint",
    "telemetry.metrics.endpoint",
)
_OF_APIS = ("http.request_timeout", "http.max_body_bytes", "http.rate_limit.requests")


def load(app: str, settings: Settings) -> Runtime:
    """Loads the runtime ``module:app``. See :func:`load_app`.

    Raises:
        ConfigurationError: It is neither a runtime nor a function that returns one.
    """
    loaded = load_app(app, settings)
    if not isinstance(loaded, Runtime):
        raise ConfigurationError(f"{app} is what aios.asgi returned; pass its runtime instead")
    return loaded


def load_app(app: str, settings: Settings) -> Runtime | Asgi:
    """Loads ``module:app``. A function that takes a value gets the settings.

    Raises:
        ConfigurationError: It is neither a runtime, nor what :func:`aios.asgi` returned, nor a
            function that returns one of them.
    """
    module, _, name = app.partition(":")
    if not module or not name:
        raise ConfigurationError(f"{app!r} is not of the form module:app")
    sys.path.insert(0, os.getcwd())
    loaded = getattr(_import_module(module), name, None)
    if callable(loaded) and not isinstance(loaded, Asgi):
        loaded = loaded(settings) if _takes_settings(loaded) else loaded()
    else:
        _warn_about_settings(app, settings, is_api=isinstance(loaded, Asgi))
    if not isinstance(loaded, (Runtime, Asgi)):
        raise ConfigurationError(
            f"{app} is neither an aios.Runtime nor a function that returns one"
        )
    return loaded


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Not a module that it imports, whose absence needs the traceback.
        if f"{name}.".startswith(f"{error.name}."):
            raise ConfigurationError(
                f"there is no module {name} in {os.getcwd()}, in PYTHONPATH or among the installed ones"
            ) from error
        raise


def load_settings() -> Settings:
    """The settings of ``python -m aios``. Sections and variables of the program are left unread.

    Raises:
        ConfigurationError: The configuration has faults.
    """
    return Settings.load(other_sections=True)


def report_similar_names(settings: Settings) -> None:
    """Logs which names may be misspelt. They may also be those of the program, which reads them itself."""
    for name in settings.similar_names:
        _log.info("unknown name (misspelt, or belonging to the program): %s", name)


def _takes_settings(function: Callable[..., Any]) -> bool:
    from .._types.annotations import signature_of

    parameters = signature_of(function).parameters.values()
    return any(
        it.default is it.empty and it.kind in (it.POSITIONAL_ONLY, it.POSITIONAL_OR_KEYWORD)
        for it in parameters
    )


def _warn_about_settings(app: str, settings: Settings, *, is_api: bool) -> None:
    """Settings that an object can't take are not ignored silently."""
    keys = (*_OF_RUNTIMES, *_OF_APIS) if is_api else _OF_RUNTIMES
    for key in keys:
        if (origin := settings.origin(key)) not in (None, "default"):
            _log.warning(
                "%s is set (%s), but %s is an object; write a function that takes aios.Settings and "
                "returns aios.Runtime(**settings.runtime_options(), ...)",
                key,
                origin,
                app,
            )


def serve(app: str, parent: int) -> None:
    """Runs one worker process."""
    settings = load_settings()
    configure(settings.log, f"[{os.getpid()}] ")
    Reload(settings).at_hangup()
    # Nothing else would stop this process after its supervisor died.
    asyncio.run(run_until(load(app, settings), parent))


class _Worker:
    """One of the processes, and its restarts."""

    def __init__(self, app: str) -> None:
        self._app = app
        self._failures = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._started = self._start_at = time.monotonic()

    def ensure_running(self) -> None:
        """Starts the process if it is not running and its delay has passed."""
        now = time.monotonic()
        if self._process is not None and self._process.poll() is not None:
            self._record_exit(self._process.returncode, now)
        if self._process is None and now >= self._start_at:
            self._start(now)

    def _start(self, now: float) -> None:
        # As for the processes of `multiprocessing`, which has no public function for it either.
        options = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        code = "import sys; from aios._service.worker import serve; serve(sys.argv[1], int(sys.argv[2]))"
        try:
            # The signal would end a process that does not handle it yet.
            with hangup_blocked():
                self._process = subprocess.Popen(
                    [sys.executable, *options, "-c", code, self._app, str(os.getpid())],
                    start_new_session=True,
                )
        except OSError as error:
            # The machine lacks processes or memory, which may pass.
            delay = self._back_off(now, failed=True)
            _log.error("failed to start a process: %s; trying again in %.1f s", error, delay)
            return
        self._started = now
        _log.info("started process %d", self._process.pid)

    def _record_exit(self, status: int, now: float) -> None:
        delay = self._back_off(now, failed=now - self._started < _SHORT_LIFE)
        self._process = None
        _log.warning("process exited with status %d; restarting in %.1f s", status, delay)

    def _back_off(self, now: float, *, failed: bool) -> float:
        """Sets when the process starts again. Returns the delay."""
        self._failures = self._failures + 1 if failed else 0
        first, longest = _BACKOFF
        delay = min(first * 2 ** (self._failures - 1), longest) if self._failures else 0.0
        self._start_at = now + delay
        return delay

    def stop(self) -> None:
        """Sends SIGTERM."""
        self.send(signal.SIGTERM)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the process if it is running."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def join(self, deadline: float) -> bool:
        """Waits for the process, and kills it at the deadline. Returns whether it ended by itself."""
        if self._process is None:
            return True
        try:
            status = self._process.wait(max(0.0, deadline - time.monotonic()))
            # SIGTERM kills a process that has not yet installed its handlers.
            return status in (0, -signal.SIGTERM)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False


def supervise(app: str, processes: int) -> int:
    """Keeps processes running until SIGTERM or SIGINT. Returns the exit status."""
    settings = load_settings()
    configure(settings.log, f"[{os.getpid()}] ")
    # Reports mistakes here once, instead of in every process repeatedly.
    report_similar_names(settings)
    reload = Reload(settings)
    reload.at_hangup()
    runtime = load(app, settings)
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopping.append(number))
    workers = [_Worker(app) for _ in range(processes)]
    try:
        while not stopping:
            for worker in workers:
                worker.ensure_running()
            if reload.take_count():
                for worker in workers:
                    worker.send(signal.SIGHUP)
            time.sleep(0.1)
    finally:
        _log.info("stopping %d processes", processes)
        for worker in workers:
            worker.stop()
        deadline = time.monotonic() + runtime._deadline() + 10.0
        ended_well = [worker.join(deadline) for worker in workers]
    return 0 if all(ended_well) else 1
