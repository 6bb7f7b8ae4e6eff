"""Forwards the logs of the native module to ``logging``: ``aios.core``, ``aios.agents`` and so on."""

from __future__ import annotations

import atexit
import json
import logging
import os
import threading
from collections.abc import Mapping
from typing import NamedTuple

from .. import _aios

_lock = threading.Lock()
_installed = False
_stopping = False


class NativeMessage(NamedTuple):
    """The message of a native record. As text, its fields follow it."""

    text: str
    fields: Mapping[str, object]

    def __str__(self) -> str:
        """The message and its fields."""
        return self.text + as_text(self.fields)


def as_text(fields: Mapping[str, object]) -> str:
    """`` name=value`` for each field."""
    return "".join(f" {name}={_shown(value)}" for name, value in fields.items())


def _shown(value: object) -> str:
    """A value in a line of text: a word without quotes, anything else as JSON has it."""
    is_word = isinstance(value, str) and value.isascii() and value.isprintable()
    if is_word and not {" ", '"'} & set(str(value)) and value:
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def install() -> None:
    """Starts forwarding, and reads the levels of the loggers of aios. Called when a runtime opens."""
    global _installed
    read_level()
    with _lock:
        if _installed:
            return
        _installed = True
        records = _aios.capture_logs()
    if records is not None:
        thread = threading.Thread(target=_forward, args=(records,), name="aios-log", daemon=True)
        thread.start()
        atexit.register(_stop, thread, os.getpid())


def _forget() -> None:
    """In a forked child, the thread does not exist, and nothing would release the lock."""
    global _lock, _installed
    _lock = threading.Lock()
    _installed = False


os.register_at_fork(after_in_child=_forget)


def _stop(thread: threading.Thread, process: int) -> None:
    """Ends the thread before the interpreter is finalised, when it could no longer run Python."""
    global _stopping
    if process == os.getpid():
        _stopping = True
        _aios.wake_log()
        thread.join(5.0)


def read_level() -> None:
    """Reads the lowest level of ``aios`` and the loggers below it. Nothing below that is forwarded."""
    level = logging.getLogger("aios").getEffectiveLevel()
    for name, logger in list(logging.root.manager.loggerDict.items()):
        # One without a level has that of its parent.
        if isinstance(logger, logging.Logger) and name.startswith("aios.") and logger.level:
            level = min(level, logger.level)
    _aios.set_log_level(min(max(level, 5), 50))


def _forward(records: _aios.LogRecords) -> None:
    while True:
        record = records.next(1.0)
        if record is None:
            read_level()
        elif record[0]:
            level, name, message, fields = record
            try:
                logging.getLogger(name).log(level, NativeMessage(message, fields))
            except Exception as error:
                # Of a filter or a handler. Without the thread, no later record would be forwarded.
                here = threading.current_thread()
                reported = (type(error), error, error.__traceback__, here)
                threading.excepthook(threading.ExceptHookArgs(reported))
        # Records that were logged before the exit are still forwarded.
        if _stopping and (record is None or not record[0]):
            return
