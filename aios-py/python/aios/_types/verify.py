"""Checks that values of pydantic and msgspec are read as they were written.

These libraries write some values in a form from which they read others: without the time zone of a
``time``, without the fields of a subclass, or by a serialiser that has no counterpart. What a value was
written as is therefore read again and compared with it, field by field. Classes with fields of simple
types only are not checked, because they lose nothing.
"""

from __future__ import annotations

import collections
import datetime
import functools
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

from .fields import hints_of, is_pydantic, pydantic_fields
from .readers import Read, msgspec_reader, pydantic_reader

#: Core schemas of pydantic whose values are read as they were written.
_EXACT = frozenset(
    {"model", "model-fields", "model-field", "dataclass", "dataclass-args", "dataclass-field"}
    | {"default", "nullable", "none", "bool", "int", "str", "uuid", "date", "literal", "enum"}
    | {"list", "set", "dict"}
)
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
    different = _difference(value, found, "")
    if different is not None:
        path, part, other = different
        at = f"field {path} of " if path else ""
        raise TypeError(
            f"{at}{kind.__qualname__} would be read as {_text(other)} instead of {_text(part)}; declare "
            "the type of the value, or write and read it with functions of the class"
        )


def _find_exact(kind: Any) -> bool:
    """Whether values of a class are read as they were written, whatever they are."""
    if not is_pydantic(kind):
        return not hasattr(kind, "__post_init__") and all(map(_is_exact_type, _hints(kind)))
    schema = repr(kind.__pydantic_core_schema__)
    parts = re.findall(r"'type': '([\w-]+)'", schema)
    classes = parts.count("model") + parts.count("dataclass")
    # A field may contain a subclass of its class.
    return classes == 1 and _EXACT.issuperset(parts) and not _INEXACT.search(schema)


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


def _difference(value: Any, found: Any, path: str) -> tuple[str, Any, Any] | None:
    """The first part that is another one: its path, the part and the other one."""
    parts = _parts(value, found)
    if parts is None:
        return None if _is_same(value, found) else (path, value, found)
    for name, part, other in parts:
        different = _difference(part, other, f"{path}.{name}" if path else name)
        if different is not None:
            return different
    return None


def _parts(value: Any, found: Any) -> Iterable[tuple[str, Any, Any]] | None:
    """The parts of two values; ``None`` if they have none, or not the same."""
    kind: Any = type(value)
    names = _fields(kind)
    if names is not None:
        if kind is not type(found):
            return None
        return [(it, getattr(value, it, None), getattr(found, it, None)) for it in names]
    if isinstance(value, Mapping) and isinstance(found, Mapping):
        if value.keys() != found.keys():
            return None
        return [(str(key), part, found[key]) for key, part in value.items()]
    if isinstance(value, _SEQUENCES) and isinstance(found, _SEQUENCES) and len(value) == len(found):
        return [(str(index), *pair) for index, pair in enumerate(zip(value, found, strict=True))]
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


def _find_fields(kind: Any) -> tuple[str, ...] | None:
    """The names of the fields of a class that declare their type; ``None`` for other types."""
    if is_pydantic(kind):
        hints = {name: field.annotation for name, field in pydantic_fields(kind).items()}
    elif hasattr(kind, "__struct_fields__") or hasattr(kind, "__dataclass_fields__"):
        names = getattr(kind, "__struct_fields__", None) or kind.__dataclass_fields__
        known = hints_of(kind)
        hints = {name: known.get(name, Any) for name in names}
    else:
        return None
    return tuple(name for name, hint in hints.items() if not _is_open(hint))


def _is_open(annotation: Any) -> bool:
    """Whether a type contains any values, which are read as they are in JSON."""
    if annotation in (Any, object) or isinstance(annotation, typing.TypeVar):
        return True
    return any(map(_is_open, typing.get_args(annotation)))


#: Keep what the functions found for a class.
_is_exact: Callable[[Any], bool] = functools.lru_cache(maxsize=1024)(_find_exact)
_reader: Callable[[Any], Read] = functools.lru_cache(maxsize=1024)(_make_reader)
_fields: Callable[[Any], tuple[str, ...] | None] = functools.lru_cache(maxsize=1024)(_find_fields)


def _text(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}…"
