"""Converts results from JSON to the types that callers requested."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import CodeType
from typing import TYPE_CHECKING, Any, TypeVar

from .._errors import (
    ConfigurationError,
    InvalidParametersError,
    InvalidResultError,
    WorkflowCodeError,
)

if TYPE_CHECKING:
    from .._types.convert import Converter

T = TypeVar("T")

#: Converts a value; the string names the value in errors.
Reader = Callable[[Any, str], Any]

#: Number of entries that each of the caches below keeps. A type that each run defines itself
#: would fill them.
_LIMIT = 1024

#: One reader per type, by its :func:`_key`; ``None`` for types that need no conversion.
_readers: dict[Any, Reader | None] = {}

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
    ``None`` if no conversion is needed. Called by the method that the workflow calls.

    Raises:
        WorkflowCodeError: The annotation can't be read from JSON.
    """
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    try:
        read = _step_reader_of(function, {}) if code is None else _read_by_code(code, function)
    except NameError:
        read = _local_reader_of(name, function)
    except TypeError as error:
        raise _unreadable(name, error) from error
    return None if read is None else _named(read, "result of step", name)


def _local_reader_of(name: str, function: Callable[..., Any]) -> Reader | None:
    """The reader of an annotation with a name that is local where the function is defined or used. It
    means something else in each call."""
    from .._types.signature import caller_namespace, closure_of

    try:
        return _step_reader_of(function, {**caller_namespace(3), **closure_of(function)})
    except (NameError, TypeError) as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> WorkflowCodeError:
    return WorkflowCodeError(
        f"the result of step {name!r} can't be read: {error}; annotate its function with the type that it "
        "returns, or with Any to get the value as it is in JSON"
    )


def _make_named(read: Reader, source: str, name: str) -> Callable[[Any], Any]:
    """A reader that names the value in errors."""
    what = f"the {source} {name!r}"
    return lambda value: read(value, what)


#: Caches the results of :func:`_make_named`. The same ones are needed often, and each costs the garbage
#: collector four objects.
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
    return _keep(_readers, key, _reader_of(kind))


def _read_by_code(code: CodeType, function: Any) -> Reader | None:
    from .._types.annotations import annotations_of

    annotations = annotations_of(function)
    if not annotations or "return" not in annotations:
        return None
    annotation = annotations["return"]
    latest = _latest.get(id(code))
    if latest is not None and latest[0] is function and latest[1] is annotation:
        return latest[2]
    from .._types.signature import namespace_of

    names = namespace_of(function)
    try:
        key = (id(code), _key(annotation), id(names))
        known = _step_readers.get(key)
    except TypeError:
        return _step_reader_of(function, {})
    if known is None:
        known = _keep(_step_readers, key, (code, names, _step_reader_of(function, {})))
    if getattr(function, "__closure__", code) is None:
        # A closure differs in each call: keeping the last one would keep alive what it refers to.
        _keep(_latest, id(code), (function, annotation, known[2]))
    return known[2]


def _keep(cache: dict[Any, T], key: Any, value: T) -> T:
    """Adds an entry to a cache; a full one is emptied before."""
    if len(cache) >= _LIMIT:
        cache.clear()
    cache[key] = value
    return value


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
    try:
        return _converting(kind)
    except TypeError as error:
        raise ConfigurationError(f"result: {error}") from error


def _converting(kind: Any) -> Reader | None:
    from .._types.convert import Converter

    converter = Converter(kind)
    return None if converter.is_trivial else functools.partial(read_result, converter)


def _step_reader_of(function: Callable[..., Any], names: dict[str, Any]) -> Reader | None:
    """The reader of the return annotation of a function.

    Raises:
        NameError: The annotation has an unknown name.
        TypeError: It can't be read from JSON.
    """
    from .._types.signature import return_hint

    return _converting(return_hint(function, names))
