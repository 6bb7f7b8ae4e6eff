"""Logs of aios in Python's ``logging``, under ``aios.core``, ``aios.agents`` and so on."""

from __future__ import annotations

import atexit
import logging
import os
import threading

from . import _aios

_lock = threading.Lock()
_installed = False
_stopping = False


def install() -> None:
    """Begins to pass logs on; called whenever a runtime is opened. Asks again which are wanted."""
    global _installed
    _aios.set_log_level(_level())
    with _lock:
        if _installed:
            return
        _installed = True
        records = _aios.log_to()
    if records is not None:
        thread = threading.Thread(target=_pass_on, args=(records,), name="aios-log", daemon=True)
        thread.start()
        atexit.register(_stop, thread, os.getpid())


def _stop(thread: threading.Thread, process: int) -> None:
    """Ends the thread before the interpreter ends, from where it could not come back."""
    global _stopping
    if process == os.getpid():
        _stopping = True
        _aios.wake_log()
        thread.join(5.0)


def _level() -> int:
    return min(max(logging.getLogger("aios").getEffectiveLevel(), 5), 50)


def _pass_on(records: _aios.Records) -> None:
    while True:
        record = records.next(1.0)
        if record is None:
            _aios.set_log_level(_level())
        elif record[0]:
            level, name, text = record
            logging.getLogger(name).log(level, "%s", text)
        # What was logged before the end is passed on.
        if _stopping and (record is None or not record[0]):
            return
