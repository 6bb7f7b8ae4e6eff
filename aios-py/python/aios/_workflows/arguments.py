"""The arguments of steps.

A step does not run in a replay, so that what it changed in an object of the workflow would be missing there.
It therefore gets copies of data: of containers, dataclasses and models. Other objects, such as clients, are
passed as they are, and so are dataclasses and models that contain such.
"""

from __future__ import annotations

import collections
import copy
import datetime
import decimal
import enum
import pathlib
import sys
import uuid
from collections.abc import Iterable
from typing import Any

from .._types.losses import is_secret

#: Types of most arguments, which nothing can change.
_ATOMS = frozenset({type(None), bool, int, float, str, bytes})
#: Others, also with subclasses.
_CONSTANTS = (
    *(bool, int, float, str, bytes, complex, range, type, enum.Enum, decimal.Decimal, uuid.UUID),
    *(datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo, pathlib.PurePath),
)
_DICTS = (dict, collections.OrderedDict, collections.defaultdict, collections.Counter)
_LISTS = (list, collections.deque)
_SETS = (set, frozenset, bytearray)


class _NotDataError(Exception):
    """An object is not data."""


def own_args(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Positional arguments with copies of data."""
    if _ATOMS.issuperset(map(type, args)):
        return args
    known: dict[int, Any] = {}
    return tuple([_own(each, known) for each in args])


def own_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by their names with copies of data."""
    known: dict[int, Any] = {}
    return {name: _own(each, known) for name, each in kwargs.items()}


def _own(value: Any, known: dict[int, Any], *, is_part: bool = False) -> Any:
    """A copy of data; other objects as they are.

    Args:
        value: An argument or a part of one.
        known: The copies so far by the identity of their originals.
        is_part: Whether it belongs to an object that is not copied unless all of it is data.

    Raises:
        _NotDataError: It is a part that is not data.
    """
    kind: Any = type(value)
    if kind in _ATOMS or isinstance(value, _CONSTANTS):
        return value
    if id(value) in known:
        return known[id(value)]
    if kind in _SETS:
        made = known[id(value)] = copy.copy(value)
        return made
    if kind in _DICTS:
        made = known[id(value)] = copy.copy(value)
        for key, part in value.items():
            made[key] = _own(part, known, is_part=is_part)
        return made
    if kind in _LISTS:
        made = known[id(value)] = copy.copy(value)
        for index, part in enumerate(value):
            made[index] = _own(part, known, is_part=is_part)
        return made
    if isinstance(value, tuple) and (kind is tuple or hasattr(kind, "_fields")):
        parts = [_own(part, known, is_part=is_part) for part in value]
        return tuple.__new__(kind, parts)
    names = _fields(value, kind)
    if names is not None:
        before = dict(known)
        try:
            return _own_object(value, kind, names, known)
        except Exception:
            # A part of it is not such an object, or cannot be copied.
            known.clear()
            known.update(before)
    if is_part and not is_secret(value):
        raise _NotDataError
    return value


def _own_object(value: Any, kind: Any, names: Iterable[str], known: dict[int, Any]) -> Any:
    """A copy of a dataclass or model, with copies of its parts.

    Raises:
        _NotDataError: A part is not data.
    """
    made = known[id(value)] = copy.copy(value)
    is_struct = hasattr(kind, "__struct_fields__")
    set_part = sys.modules["msgspec"].structs.force_setattr if is_struct else object.__setattr__
    for name in names:
        if hasattr(value, name):
            set_part(made, name, _own(getattr(value, name), known, is_part=True))
    return made


def _fields(value: Any, kind: Any) -> Iterable[str] | None:
    """The names of the fields of a dataclass or model; ``None`` for other objects."""
    if hasattr(kind, "__pydantic_fields__") and hasattr(kind, "model_copy"):
        return tuple(value.__dict__)
    if hasattr(kind, "__dataclass_fields__"):
        return tuple(field.name for field in sys.modules["dataclasses"].fields(kind))
    names: Iterable[str] | None = getattr(kind, "__struct_fields__", None)
    return names
