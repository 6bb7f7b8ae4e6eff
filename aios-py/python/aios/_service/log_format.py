"""The log of a process, as the settings say."""

from __future__ import annotations

import datetime
import functools
import logging
import math
import sys
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from .. import _scope
from .._errors import AiosError
from .asgi import _built
from .logging import NativeMessage, as_text, read_level

if TYPE_CHECKING:
    from .settings import LogSettings

#: Levels of settings as those of ``logging``.
LEVELS = {
    "off": logging.CRITICAL + 10,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": 5,
}
#: Attributes of every record.
_STANDARD = frozenset({*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"})
#: Fields of every line of JSON. Others with these names get an underscore.
_RESERVED = frozenset({"time", "level", "message", "target"})
#: The fields that come first, as in the lines of Rust.
_FIRST = (
    "correlation_id",
    "trace_id",
    "span_id",
    "run_id",
    "workflow",
    "operation",
    "task_id",
    "agent_type",
    "agent_id",
    "code",
)
#: Names of fields whose masks are remembered.
_NAMES = 1024


class _Lines:
    """The message and the fields of a record."""

    def __init__(self, redact: Collection[str]) -> None:
        names = list(redact)
        is_redacted: Callable[[list[str], str, bool], bool] = _built("is_redacted")
        self._is_redacted = functools.lru_cache(_NAMES)(
            lambda name, is_number: is_redacted(names, name, is_number)
        )

    def message(self, record: logging.LogRecord) -> str:
        """The message, without the fields of a native record."""
        native = record.msg
        return native.text if isinstance(native, NativeMessage) else _message(record)

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        """The fields: those of the record itself, and those of the code that writes it."""
        own = {name: it for name, it in record.__dict__.items() if name not in _STANDARD}
        native = record.msg.fields if isinstance(record.msg, NativeMessage) else {}
        found = {**_scope.fields(), **_code(record), **native, **own}
        first = [name for name in _FIRST if name in found]
        return {name: self._shown(name, found[name]) for name in (*first, *found)}

    def _shown(self, name: str, value: object) -> object:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return "***" if self._is_redacted(_text(name), is_number) else _plain(value)


def _code(record: logging.LogRecord) -> dict[str, object]:
    """The code of the error that a record reports."""
    error = record.exc_info[1] if record.exc_info else None
    return {"code": error.code} if isinstance(error, AiosError) else {}


class JsonFormatter(logging.Formatter):
    """Lines of JSON with time, level, message and target, and the fields.

    Lines within an agent, a step or a workflow name the run, the task and the trace. Use it with
    :class:`NotReplayedFilter` in a logging configuration of your own::

        handler.setFormatter(aios.JsonFormatter())
        handler.addFilter(aios.NotReplayedFilter())

    Args:
        redact: Names of fields whose values are written as ``***``, in addition to those that look like
            secrets.
    """

    def __init__(self, redact: Collection[str] = ()) -> None:
        super().__init__()
        self._lines = _Lines(redact)

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        from .._aios import dumps

        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        level = "WARN" if record.levelno == logging.WARNING else record.levelname
        line: dict[str, object] = {
            "time": f"{time:%Y-%m-%dT%H:%M:%S.%f}Z",
            "level": level,
            "message": self._lines.message(record),
            "target": record.name,
        }
        for name, value in self._lines.fields(record).items():
            line[f"_{name}" if name in _RESERVED else name] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return dumps({_text(name): _plain(value) for name, value in line.items()})


class TextFormatter(logging.Formatter):
    """Lines of text with ``name=value`` for each field."""

    def __init__(self, redact: Collection[str], prefix: str) -> None:
        super().__init__(f"%(asctime)s {prefix}%(levelname)s %(name)s %(message)s")
        self._lines = _Lines(redact)

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, and the traceback of its exception."""
        return _text(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line of a record, without the traceback of its exception."""
        record.message = self._lines.message(record)
        return f"{super().formatMessage(record)}{as_text(self._lines.fields(record))}"


class NotReplayedFilter(logging.Filter):
    """Leaves out what the code of a workflow logs again when its journal is replayed. Add it to a handler."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written."""
        return not _scope.is_silent()


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:
        # The arguments do not match the message.
        return f"{_text(record.msg)} with {_text(record.args)}: {_text(error)}"


def _plain(value: object) -> object:
    """A value that JSON can contain."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (int, float, type(None))) else _text(value)


def _text(value: object) -> str:
    """A text that UTF-8 can contain, unlike the names of some files."""
    try:
        text = str(value)
    except Exception as error:
        text = f"a {type(value).__name__} whose text raises {type(error).__name__}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def configure_logging(settings: LogSettings) -> None:
    """Writes the log of this process as ``settings.log`` says, in place of the handlers of the root logger::

        settings = aios.Settings.load()
        aios.configure_logging(settings.log)

    Lines within an agent, a step or a workflow name the run, the task and the trace, and a replay writes no
    lines. ``python -m aios`` does this by itself.

    Args:
        settings: Levels, format, output, and the fields that are not written. The format ``auto`` is text on
            a terminal and JSON otherwise.
    """
    logging.basicConfig(handlers=[], force=True)
    configure(settings)


def configure(settings: LogSettings, prefix: str = "") -> None:
    """Same as :func:`configure_logging`, unless the root logger has handlers.

    Args:
        settings: See :func:`configure_logging`.
        prefix: Text between the time and the level of a line of text.
    """
    stream = sys.stdout if settings.output == "stdout" else sys.stderr
    handler = logging.StreamHandler(stream)
    handler.addFilter(NotReplayedFilter())
    is_json = settings.format == "json" or (settings.format == "auto" and not stream.isatty())
    redact = settings.redact
    handler.setFormatter(JsonFormatter(redact) if is_json else TextFormatter(redact, prefix))
    logging.basicConfig(handlers=[handler])
    set_levels(settings)


def set_levels(settings: LogSettings, before: LogSettings | None = None) -> None:
    """Sets the levels of the log, instead of those of other settings."""
    targets = () if before is None else before.targets
    for target in targets:
        _logger(target).setLevel(logging.NOTSET)
    logging.getLogger().setLevel(LEVELS[settings.level])
    for target, level in settings.targets.items():
        _logger(target).setLevel(LEVELS[level])
    read_level()


def _logger(target: str) -> logging.Logger:
    """The logger of a target, which may be a module of aios in Rust: ``aios_agents::workflow``."""
    if target.startswith("aios_"):
        target = target.replace("aios_", "aios.", 1).replace("::", ".")
    return logging.getLogger(target)
