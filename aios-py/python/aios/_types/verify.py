"""Checks that values of pydantic and msgspec, and of some dataclasses, are read as they were written.

These libraries write some values in a form from which they read others: without the time zone of a
``time``, without the fields of a subclass, or by a serialiser that has no counterpart. What a value was
written as is therefore read again and compared with it, field by field. Classes with fields of simple
types only are not checked, because they lose nothing. Dataclasses are if they have code that is executed
again when one is read, such as a ``__post_init__``.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import decimal
import functools
import re
import threading
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

from .._errors import InvalidDataError
from .fields import hints_of, is_pydantic, pydantic_fields
from .generics import bare, is_alias
from .readers import Read, msgspec_reader, pydantic_reader

#: Core schemas of pydantic whose values are read as they were written.
_EXACT = frozenset(
    {"model", "model-fields", "model-field", "dataclass", "dataclass-args", "dataclass-field"}
    | {"default", "nullable", "none", "bool", "int", "str", "uuid", "date", "literal", "enum"}
    | {"list", "set", "dict"}
)
#: The same for keys of dictionaries, which are texts in JSON.
_EXACT_KEYS = frozenset({"str", "int", "uuid", "date"})
#: The same for values of enums and literals.
_EXACT_VALUES = frozenset({type(None), bool, int, float, str})
#: Parts of core schemas of classes that may be read as something else all the same.
_INEXACT = re.compile(
    r"'serialization_exclude|'serialization':|'custom_init': True|'post_init': ['T]"
)
#: Types of msgspec fields that are exact.
_EXACT_TYPES = frozenset({type(None), bool, int, str, datetime.date})
_EXACT_CONTAINERS = (list, set, frozenset, tuple, dict, typing.Union, types.UnionType)

#: Containers of one row are read as whichever of them is declared.
_SEQUENCES = (list, tuple, collections.deque)
_CONTAINERS: tuple[Any, ...] = (_SEQUENCES, Mapping, Set)
#: Whether a dataclass is being checked on the thread.
_checking = threading.local()
#: Number of characters of a value in an error.
_TEXT = 100


def check_readable(value: Any, plain: Any) -> None:
    """Checks what was written for a value.

    Raises:
        TypeError: It is read as something else, or not at all.
    """
    kind: Any = type(value)
    if _is_exact(kind):
        return
    violations: list[tuple[str, str]] = []
    found = _reader(kind)(plain, "", violations)
    if violations:
        text = "; ".join(f"{path or '/'}: {message}" for path, message in violations)
        raise TypeError(f"{kind.__qualname__} can't be read from what is written for it: {text}")
    _check_same(value, found)


def _check_same(value: Any, found: Any) -> None:
    """Checks that what is read is the same value.

    Raises:
        TypeError: It is another one.
    """
    kind: Any = type(value)
    different = _difference(value, found, "", Any)
    if different is not None:
        path, part, other = different
        at = f"field {path} of " if path else ""
        raise TypeError(
            f"{at}{kind.__qualname__} would be read as {_text(other)} instead of {_text(part)}; declare "
            "the type of the value, or write and read it with functions of the class"
        )


def plain_fields(value: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Converts the fields of a dataclass whose code may change what it is made of.

    Raises:
        TypeError: It is read as another one.
    """
    if getattr(_checking, "value", False):
        # A part of one that is read as a whole.
        return fields
    from .._aios import dumps, loads

    read = _dataclass_reader(type(value))
    violations: list[tuple[str, str]] = []
    _checking.value = True
    try:
        plain: dict[str, Any] = loads(dumps(fields))
        found = None if read is None else read(plain, "", violations)
        # An iterator, say, is not what it is read as, but written the same.
        if read is not None and not violations and loads(dumps(found)) != plain:
            _check_same(value, found)
    except InvalidDataError as error:
        raise TypeError(str(error).partition("JSON: ")[2] or str(error)) from error
    finally:
        _checking.value = False
    return plain


def _find_checked(kind: Any) -> bool:
    """Whether a dataclass has code that may change what it is made of."""
    owner = next(it for it in kind.__mro__ if "__init__" in vars(it))
    params = vars(owner).get("__dataclass_params__")
    is_made = params is not None and params.init
    return hasattr(kind, "__post_init__") or kind.__new__ is not object.__new__ or not is_made


def _make_dataclass_reader(kind: Any) -> Read | None:
    """Reads a dataclass; ``None`` if nothing can be read as it."""
    from .schema import Compiler

    try:
        return Compiler().compile(kind)[0]
    except Exception:
        return None


def _find_exact(kind: Any) -> bool:
    """Whether values of a class are read as they were written, whatever they are."""
    if not is_pydantic(kind):
        return not hasattr(kind, "__post_init__") and all(map(_is_exact_type, _hints(kind)))
    schema = repr(kind.__pydantic_core_schema__)
    parts = re.findall(r"'type': '([\w-]+)'", schema)
    classes = parts.count("model") + parts.count("dataclass")
    keys = re.findall(r"'keys_schema': \{'type': '([\w-]+)'", schema)
    is_exact = _EXACT.issuperset(parts) and _EXACT_KEYS.issuperset(keys)
    if classes != 1 or not is_exact or _INEXACT.search(schema):
        # A field may contain a subclass of its class.
        return False
    return all(type(it) in _EXACT_VALUES for it in _values(kind.__pydantic_core_schema__))


def _values(schema: Any) -> Iterable[Any]:
    """The values of enums and literals in a core schema of pydantic."""
    if isinstance(schema, list):
        parts = schema
    elif not isinstance(schema, dict):
        return
    elif schema.get("type") == "enum":
        yield from (member.value for member in schema["members"])
        return
    elif schema.get("type") == "literal":
        yield from schema["expected"]
        return
    else:
        parts = [part for name, part in schema.items() if name not in ("default", "metadata")]
    for part in parts:
        yield from _values(part)


def _hints(kind: Any) -> Iterable[Any]:
    """The annotations of a class; none if they can't be resolved, so that nothing can be read as it."""
    try:
        return hints_of(kind).values()
    except TypeError:
        return ()


def _is_exact_type(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    if origin is None:
        return annotation in _EXACT_TYPES
    members = [it for it in typing.get_args(annotation) if it is not Ellipsis]
    is_union = origin in (typing.Union, types.UnionType)
    if is_union and (len(members) > 2 or type(None) not in members):
        return False
    return origin in _EXACT_CONTAINERS and all(map(_is_exact_type, members))


def _make_reader(kind: Any) -> Read:
    return pydantic_reader(kind) if is_pydantic(kind) else msgspec_reader(kind)


def _difference(value: Any, found: Any, path: str, hint: Any) -> tuple[str, Any, Any] | None:
    """The first part that is another one: its path, the part and the other one. ``hint`` is the type of
    the field that contains the value."""
    parts = _parts(value, found, hint)
    if parts is None:
        is_same = _is_same(value, found) or _is_converted(value, found, hint)
        return None if is_same else (path, value, found)
    for name, part, other, of_part in parts:
        different = _difference(part, other, f"{path}.{name}" if path else name, of_part)
        if different is not None:
            return different
    return None


def _parts(value: Any, found: Any, hint: Any) -> Iterable[tuple[str, Any, Any, Any]] | None:
    """The parts of two values, and the types of their fields; ``None`` if they have none, or not the
    same."""
    kind: Any = type(value)
    fields = _fields(kind)
    if fields is not None:
        if kind is not type(found):
            return None
        pairs = fields.items()
        return [(it, getattr(value, it, None), getattr(found, it, None), of) for it, of in pairs]
    if isinstance(value, Mapping) and isinstance(found, Mapping):
        if value.keys() != found.keys():
            return None
        return [(str(key), part, found[key], hint) for key, part in value.items()]
    if isinstance(value, _SEQUENCES) and isinstance(found, _SEQUENCES) and len(value) == len(found):
        found_parts = zip(value, found, strict=True)
        return [(str(index), *pair, hint) for index, pair in enumerate(found_parts)]
    return None


def _is_same(value: Any, found: Any) -> bool:
    if isinstance(value, (datetime.datetime, datetime.time)) and type(value) is type(found):
        zones = value.tzinfo is None, found.tzinfo is None, value.utcoffset(), found.utcoffset()
        local = value.replace(tzinfo=None, fold=0), found.replace(tzinfo=None, fold=0)
        return zones[0] == zones[1] and zones[2] == zones[3] and local[0] == local[1]
    is_kind = isinstance(value, type(found)) or any(
        isinstance(value, kind) and isinstance(found, kind) for kind in _CONTAINERS
    )
    if not is_kind:
        return False
    compare: Any = type(value).__eq__
    try:
        return bool(value == found) or value != value or compare is object.__eq__
    except Exception:
        return repr(value) == repr(found)


def _is_converted(value: Any, found: Any, hint: Any) -> bool:
    """Whether a value that nothing has validated is read as the same value of the type of its field. The
    libraries do not validate defaults and assignments."""
    if (
        type(value) in (int, float)
        and isinstance(found, (int, float, decimal.Decimal))
        and type(found) is not bool
    ):
        # Neither the type of a number nor the binary digits of a float are in JSON.
        return bool(value == found) or _is_rounded(value, found)
    if type(value) not in (int, float, str, list) or _declares(hint, type(value)):
        return False
    from .._aios import dumps

    with contextlib.suppress(Exception):
        if type(found)(value) == found:
            return True
    with contextlib.suppress(Exception):
        return dumps(found) == dumps(value)
    return False


def _is_rounded(value: float, found: Any) -> bool:
    return isinstance(found, decimal.Decimal) and type(value) is float and value == float(found)


def _declares(annotation: Any, kind: type, known: frozenset[Any] = frozenset()) -> bool:
    """Whether values of a class may be parts of a type, other than keys. ``known`` are the aliases around
    it, of which it may be a part."""
    if is_alias(annotation):
        if annotation in known:
            return False
        known |= {annotation}
    annotation = bare(annotation)
    origin = typing.get_origin(annotation) or annotation
    arguments = typing.get_args(annotation)
    if origin is typing.Literal:
        return any(isinstance(it, kind) for it in arguments)
    if origin in kind.__mro__:
        return True
    if isinstance(origin, type) and issubclass(origin, Mapping):
        arguments = arguments[1:]
    return _is_open(annotation) or any(_declares(it, kind, known) for it in arguments)


def _find_fields(kind: Any) -> dict[str, Any] | None:
    """The types of the fields of a class that declare one, by name; ``None`` for other types."""
    if is_pydantic(kind):
        hints = {name: field.annotation for name, field in pydantic_fields(kind).items()}
    elif hasattr(kind, "__struct_fields__") or hasattr(kind, "__dataclass_fields__"):
        names = getattr(kind, "__struct_fields__", None) or kind.__dataclass_fields__
        known = hints_of(kind)
        hints = {name: known.get(name, Any) for name in names}
    else:
        return None
    return {name: hint for name, hint in hints.items() if not _is_open(hint)}


def _is_open(annotation: Any) -> bool:
    """Whether a type contains any values, which are read as they are in JSON."""
    if annotation in (Any, object) or isinstance(annotation, typing.TypeVar):
        return True
    return any(map(_is_open, typing.get_args(annotation)))


#: Keep what the functions found for a class.
is_checked: Callable[[Any], bool] = functools.lru_cache(maxsize=1024)(_find_checked)
_dataclass_reader: Callable[[Any], Read | None]
_dataclass_reader = functools.lru_cache(maxsize=1024)(_make_dataclass_reader)
_is_exact: Callable[[Any], bool] = functools.lru_cache(maxsize=1024)(_find_exact)
_reader: Callable[[Any], Read] = functools.lru_cache(maxsize=1024)(_make_reader)
_fields: Callable[[Any], dict[str, Any] | None] = functools.lru_cache(maxsize=1024)(_find_fields)


def _text(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}…"
