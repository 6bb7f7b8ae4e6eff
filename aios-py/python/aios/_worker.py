"""Worker processes: one runtime each, supervised by one parent."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import subprocess
import sys
import time

from ._client import Runtime
from ._errors import ConfigurationError
from ._serve import serve_until

_log = logging.getLogger("aios.worker")

#: A process that lived shorter than this, in seconds, is started again only after a while.
_SHORT = 5.0
#: How long to wait then, in seconds, at first and at most.
_BACK_OFF = (0.2, 10.0)


def load(app: str) -> Runtime:
    """The runtime that ``module:app`` names.

    Raises:
        ConfigurationError: It names none.
    """
    module, _, name = app.partition(":")
    if not module or not name:
        raise ConfigurationError(f"{app!r} is not of the form module:app")
    sys.path.insert(0, os.getcwd())
    found = getattr(importlib.import_module(module), name, None)
    if callable(found):
        found = found()
    if not isinstance(found, Runtime):
        raise ConfigurationError(f"{app} is no aios.Runtime, and makes none")
    return found


def serve(app: str, parent: int) -> None:
    """What one worker process does."""
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s [{os.getpid()}] %(levelname)s %(name)s %(message)s"
    )
    # Without its supervisor nobody would stop this process.
    asyncio.run(serve_until(load(app), parent))


class _Worker:
    """A place among the processes, and the process in it."""

    def __init__(self, app: str) -> None:
        self._app = app
        self._failures = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._started = self._start_at = time.monotonic()

    def tend(self) -> None:
        """Starts the process if there is none, when its time has come."""
        now = time.monotonic()
        if self._process is not None and self._process.poll() is not None:
            self._note_death(self._process.returncode, now)
        if self._process is None and now >= self._start_at:
            code = (
                "import sys; from aios._worker import serve; serve(sys.argv[1], int(sys.argv[2]))"
            )
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, self._app, str(os.getpid())], start_new_session=True
            )
            self._started = now
            _log.info("process %d works", self._process.pid)

    def _note_death(self, status: int, now: float) -> None:
        self._failures = self._failures + 1 if now - self._started < _SHORT else 0
        first, longest = _BACK_OFF
        delay = min(first * 2 ** (self._failures - 1), longest) if self._failures else 0.0
        self._start_at = now + delay
        self._process = None
        _log.warning("a process died with status %d; another starts in %.1f s", status, delay)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def join(self, deadline: float) -> bool:
        """Waits for the end; kills what does not end. Whether it ended by itself."""
        if self._process is None:
            return True
        try:
            status = self._process.wait(max(0.0, deadline - time.monotonic()))
            # One that had only just started does not know yet how to stop.
            return status in (0, -signal.SIGTERM)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False


def supervise(app: str, processes: int) -> int:
    """Keeps processes running until SIGTERM or SIGINT; the exit status."""
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s [{os.getpid()}] %(levelname)s %(name)s %(message)s"
    )
    # Told here what is wrong, not by every process again and again.
    runtime = load(app)
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopping.append(number))
    workers = [_Worker(app) for _ in range(processes)]
    while not stopping:
        for worker in workers:
            worker.tend()
        time.sleep(0.1)
    _log.info("stopping %d processes", processes)
    for worker in workers:
        worker.stop()
    deadline = time.monotonic() + runtime._deadline() + 10.0
    ended_well = [worker.join(deadline) for worker in workers]
    return 0 if all(ended_well) else 1
