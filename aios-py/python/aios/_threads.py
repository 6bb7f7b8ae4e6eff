"""Threads for plain functions."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._aios import ThreadPool

#: All running threads. Each ends when its runtime is closed, unless its function is still running.
_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def start_threads(pool: ThreadPool, limit: int, name: str) -> None:
    """Runs the functions of a pool in at most ``limit`` threads, which are started on demand.

    Raises:
        RuntimeError: The first thread could not be started, and no other would ever be.
    """

    def work() -> None:
        try:
            call_functions()
        except BaseException:
            # Functions report their exceptions, so this is a defect, or was raised by another thread.
            pool.release_thread()
            grow()
            raise

    def call_functions() -> None:
        while (call := pool.next()) is not None:
            function, args = call
            grow()
            try:
                function(*args)
            finally:
                # The arguments may be large: free them before waiting for the next call.
                del call, function, args

    def grow() -> None:
        try:
            start()
        except RuntimeError as error:
            logging.getLogger("aios").warning("failed to start a thread for %s: %s", name, error)

    def start() -> None:
        number = pool.reserve_thread(limit)
        if number is None:
            return
        thread = threading.Thread(target=work, name=f"aios-{name}-{number}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            pool.release_thread()
            raise
        _threads.add(thread)

    start()


def join_threads(timeout: float) -> None:
    """Waits at most ``timeout`` seconds for all threads to end."""
    deadline = time.monotonic() + timeout
    for thread in list(_threads):
        thread.join(max(0.0, deadline - time.monotonic()))
