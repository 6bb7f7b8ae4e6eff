"""Converts results from JSON to the types that callers requested."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import CodeType
from typing import TYPE_CHECKING, Any

from ._errors import AiosError, ConfigurationError, InvalidParametersError, InvalidResultError

if TYPE_CHECKING:
    from ._convert import Converter

#: Converts a value; the string names the value in errors.
Reader = Callable[[Any, str], Any]

#: One reader per type; ``None`` for types that need no conversion.
_readers: dict[Any, Reader | None] = {Any: None}

#: Readers of step results by the ``id`` of the code object, because hashing code objects is slow.
_step_readers: dict[int, tuple[CodeType, Reader | None]] = {}

#: How errors name the source of a result.
_SOURCES = {"answer": "answer of agent", "signal": "signal"}


def result_reader(kind: Any, source: str, name: str) -> Callable[[Any], Any] | None:
    """Returns what converts an answer or a signal, or ``None`` if no conversion is needed.

    Args:
        kind: The requested type.
        source: ``"answer"`` or ``"signal"``.
        name: Name of the agent or the signal.

    Raises:
        ConfigurationError: The type can't be read from JSON.
    """
    try:
        read = _readers[kind]
    except KeyError:
        read = _readers[kind] = _reader_of(kind)
    if read is None:
        return None
    convert = read
    return lambda value: convert(value, f"the {_SOURCES[source]} {name!r}")


def step_result_reader(name: str, function: Callable[..., Any]) -> Callable[[Any], Any] | None:
    """Returns what converts the result of a step to the return annotation of its function, or
    ``None`` if no conversion is needed."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    known = _step_readers.get(id(code))
    if known is not None and known[0] is code:
        read = known[1]
    else:
        read = _step_reader_of(function)
        if code is not None:
            _step_readers[id(code)] = (code, read)
    if read is None:
        return None
    convert = read
    return lambda value: convert(value, f"the result of step {name!r}")


def read_result(converter: Converter, value: Any, what: str) -> Any:
    """Converts a result.

    Raises:
        InvalidResultError: It does not match the type.
    """
    try:
        return converter.read(value, what)
    except InvalidParametersError as error:
        raise InvalidResultError(error.message, details=error.details, retryable=False) from None


def _reader_of(kind: Any) -> Reader | None:
    from ._convert import Converter

    try:
        converter = Converter(kind)
    except TypeError as error:
        raise ConfigurationError(f"result: {error}") from error
    if converter.is_trivial:
        return None

    return functools.partial(read_result, converter)


def _step_reader_of(function: Callable[..., Any]) -> Reader | None:
    from ._signature import hints

    try:
        return _reader_of(hints(function, {}).get("return", Any))
    except (AiosError, TypeError, AttributeError):
        # The annotations of library functions may be unreadable; their results stay JSON values.
        return None
