"""The log of ``python -m aios``, as the settings say."""

from __future__ import annotations

import datetime
import logging
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .settings import LogSettings

#: Levels of settings as those of ``logging``.
_LEVELS = {
    "off": logging.CRITICAL + 10,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": 5,
}
#: Attributes of every record.
_STANDARD = frozenset({*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"})


class JsonFormatter(logging.Formatter):
    """Lines of JSON with time, level, message and target, and the extra fields of a record."""

    def __init__(self, redact: Collection[str]) -> None:
        super().__init__()
        self._redact = frozenset(redact)

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        from .._aios import dumps

        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        level = "WARN" if record.levelno == logging.WARNING else record.levelname
        line: dict[str, object] = {
            "time": f"{time:%Y-%m-%dT%H:%M:%S.%f}Z",
            "level": level,
            "message": record.getMessage(),
            "target": record.name,
        }
        for name, value in record.__dict__.items():
            if name not in _STANDARD and name not in line:
                line[name] = "***" if name in self._redact else _plain(value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return dumps(line)


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def configure(settings: LogSettings, prefix: str = "") -> None:
    """Writes the log of this process.

    Args:
        settings: Levels, format and output. The format ``auto`` is text.
        prefix: Text between the time and the level of a line of text.
    """
    stream = sys.stdout if settings.output == "stdout" else sys.stderr
    handler = logging.StreamHandler(stream)
    if settings.format == "json":
        handler.setFormatter(JsonFormatter(settings.redact))
    else:
        line = f"%(asctime)s {prefix}%(levelname)s %(name)s %(message)s"
        handler.setFormatter(logging.Formatter(line))
    logging.basicConfig(level=_LEVELS[settings.level], handlers=[handler])
    for target, level in settings.targets.items():
        logging.getLogger(target).setLevel(_LEVELS[level])
