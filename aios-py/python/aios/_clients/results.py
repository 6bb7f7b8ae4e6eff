"""Converts results from JSON to the types that callers requested."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import CodeType
from typing import TYPE_CHECKING, Any

from .._errors import AiosError, ConfigurationError, InvalidParametersError, InvalidResultError

if TYPE_CHECKING:
    from .._types.convert import Converter

#: Converts a value; the string names the value in errors.
Reader = Callable[[Any, str], Any]

#: One reader per type, by its :func:`_key`; ``None`` for types that need no conversion.
_readers: dict[Any, Reader | None] = {Any: None}

#: Readers of step results by the ``id`` of the code object, because hashing code objects is slow, the
#: return annotation, and the ``id`` of the namespace in which it is resolved. Functions that share their
#: code, such as those of one decorator, may have different annotations. The values keep both alive.
_step_readers: dict[tuple[int, Any, int], tuple[CodeType, Any, Reader | None]] = {}

#: The latest function of each code object, by its ``id``, with its annotation and reader: most functions
#: do not share their code.
_latest: dict[int, tuple[Any, Any, Reader | None]] = {}

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
    read = _read_by_type(kind)
    return None if read is None else _named(read, _SOURCES[source], name)


def step_result_reader(name: str, function: Callable[..., Any]) -> Callable[[Any], Any] | None:
    """Returns what converts the result of a step to the return annotation of its function, or
    ``None`` if no conversion is needed."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    read = _step_reader_of(function) if code is None else _read_by_code(code, function)
    return None if read is None else _named(read, "result of step", name)


def _make_named(read: Reader, source: str, name: str) -> Callable[[Any], Any]:
    """A reader that names the value in errors."""
    what = f"the {source} {name!r}"
    return lambda value: read(value, what)


#: Keeps what :func:`_make_named` made, because the same are needed again and again, and each is four
#: objects for the garbage collector.
_named: Callable[[Reader, str, str], Callable[[Any], Any]] = functools.lru_cache(maxsize=1024)(
    _make_named
)


def _read_by_type(kind: Any) -> Reader | None:
    try:
        key = _key(kind)
        if key in _readers:
            return _readers[key]
    except TypeError:
        # Metadata of `Annotated` need not be hashable.
        return _reader_of(kind)
    read = _readers[key] = _reader_of(kind)
    return read


def _read_by_code(code: CodeType, function: Any) -> Reader | None:
    annotations = getattr(function, "__annotations__", None)
    if not annotations or "return" not in annotations:
        return None
    annotation = annotations["return"]
    latest = _latest.get(id(code))
    if latest is not None and latest[0] is function and latest[1] is annotation:
        return latest[2]
    names = _namespace(function)
    try:
        key = (id(code), _key(annotation), id(names))
        known = _step_readers.get(key)
    except TypeError:
        return _step_reader_of(function)
    if known is None:
        known = _step_readers[key] = (code, names, _step_reader_of(function))
    if getattr(function, "__closure__", code) is None:
        # A closure differs in each call: keeping the last one would keep alive what it refers to.
        _latest[id(code)] = (function, annotation, known[2])
    return known[2]


def _namespace(function: Any) -> Any:
    """The globals in which the annotations of a function are resolved."""
    while (wrapped := getattr(function, "__wrapped__", None)) is not None:
        function = wrapped
    return getattr(getattr(function, "__func__", function), "__globals__", None)


def _key(kind: Any) -> Any:
    """A key for a type: unions are equal whatever the order of their members, but read differently."""
    if type(kind) is type or type(kind) is str:
        return kind
    arguments = getattr(kind, "__args__", None)
    if not isinstance(arguments, tuple):
        return (type(kind), kind)
    members: Any = arguments
    return (kind, *(_key(argument) for argument in members))


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
    from .._types.convert import Converter

    try:
        converter = Converter(kind)
    except TypeError as error:
        raise ConfigurationError(f"result: {error}") from error
    if converter.is_trivial:
        return None

    return functools.partial(read_result, converter)


def _step_reader_of(function: Callable[..., Any]) -> Reader | None:
    from .._types.signature import hints

    try:
        return _reader_of(hints(function, {}).get("return", Any))
    except (AiosError, TypeError, AttributeError):
        # The annotations of library functions may be unreadable; their results stay JSON values.
        return None
