"""Members of a union that JSON does not tell apart.

A union is read by its members in their order, and the first that accepts a value makes it. If that is not
the member that has written it, the value comes back as something else, without an error. Such a union is
refused where it is declared.

Objects are an exception: the union tries the class first that has exactly the keys of the object. That
does not help in a list of them, which one member reads as a whole, nor if keys are left out.
"""

from __future__ import annotations

import collections
import collections.abc as abc
import datetime
import decimal
import enum
import itertools
import pathlib
import types
import typing
import uuid
from collections.abc import Iterator
from typing import Any

from .fields import (
    Shape,
    as_written,
    bound_hints_of,
    is_root_model,
    pydantic_fields,
    rows_of,
    shape_of,
)
from .generics import bare, tuple_items

#: Types that read no text of each other, except that a date is a ``datetime`` at midnight.
_GRAMMARS = (datetime.datetime, datetime.date, datetime.time, uuid.UUID)
#: JSON types of what scalar types are written as.
_WRITTEN: dict[Any, str] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    datetime.timedelta: "number",
    **dict.fromkeys((str, bytes, bytearray, decimal.Decimal, *_GRAMMARS), "string"),
}
#: JSON types that they are read from too.
_READ: dict[Any, str] = {
    float: "integer",
    datetime.timedelta: "integer",
    decimal.Decimal: "integer",
}
#: Types that pydantic reads from texts and numbers too, and the types of these.
_LAX = (
    bool,
    int,
    float,
    decimal.Decimal,
    datetime.datetime,
    datetime.date,
    datetime.time,
    datetime.timedelta,
)
_LAX_WRITTEN = (bool, int, float, decimal.Decimal, str)
_LAX_TIMES = (
    (datetime.date, datetime.datetime),
    (datetime.timedelta, datetime.time),
    (str, datetime.timedelta),
    (bytes, datetime.timedelta),
)
#: Types of lists; others are read as a list.
_CONTAINERS: tuple[Any, ...] = (set, frozenset, collections.deque)
#: How deep the fields of classes are compared.
_DEPTH = 2


def check_told_apart(args: tuple[Any, ...]) -> None:
    """Checks the members of a union.

    Raises:
        TypeError: A member would be read as another one.
    """
    for first, second in itertools.combinations(args, 2):
        form = misread(first, second) or _misread_for_keys(first, second)
        if form is not None:
            raise TypeError(
                f"{_text(first)} and {_text(second)} can't be told apart in JSON, where both are "
                f"{form}s; use one of them, or dataclasses with a field `kind: Literal[...]`"
            )


def _text(annotation: Any) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else repr(annotation)


def misread(reader: Any, written: Any, *, is_part: bool = False) -> str | None:
    """The JSON type of the values of the type ``written``, if ``reader`` reads some of them as something
    else; ``None`` if it reads none of them, or as they are.

    Args:
        reader: A member of a union.
        written: A later member.
        is_part: Whether they are parts of the members, so that the union does not see their keys.
    """
    lax = _is_lax(reader)
    reader, written = bare(reader), bare(written)
    members, others = _members(reader), _members(written)
    if len(members) > 1 or len(others) > 1:
        # What both have is read as in the union that both are.
        pairs = itertools.product(members, (it for it in others if it not in members))
        return next(filter(None, (misread(*pair, is_part=is_part) for pair in pairs)), None)
    if reader == written or not _may_read(reader, written, lax=lax):
        return None
    if is_root_model(reader) or is_root_model(written):
        # An object of the class is never what it is written as.
        pairs = itertools.product(_members(_root(reader)), _members(_root(written)))
        forms = (_forms(it) for one, it in pairs if _may_read(one, it, lax=lax))
        return min(next(forms, ()), default="value")
    values, other_values = _values(reader), _values(written)
    if values is not None or other_values is not None:
        return _misread_values(reader, values, written, other_values)
    (form,) = _forms(written)
    if form == "array":
        return _misread_items(reader, written)
    if form == "object":
        return _misread_objects(reader, written, is_part)
    return form


def _misread_values(
    reader: Any, values: dict[str, Any] | None, written: Any, others: dict[str, Any] | None
) -> str | None:
    """Compares members of enums and literals by what they are in JSON."""
    from .._aios import dumps, loads
    from .convert import Converter

    def is_same(made: Any, value: Any) -> bool:
        return bool(made == value) and isinstance(value, type(made))

    if values is not None and others is not None:
        shared = values.keys() & others.keys()
        return None if all(is_same(values[it], others[it]) for it in shared) else "value"
    texts: dict[str, Any] = (values if values is not None else others) or {}
    converter = Converter(written if values is not None else reader)
    for text, value in texts.items():
        plain = loads(text)
        if converter.accepts(plain):
            made = converter.read(plain)
            # What is read must be written so too, if it is the value of the other type.
            if not is_same(made, value) and (values is None or dumps(made) == text):
                return "value"
    return None


def _misread_items(reader: Any, written: Any) -> str | None:
    if _container(reader) is not _container(written):
        return "array"
    found = (misread(*pair, is_part=True) for pair in _item_pairs(reader, written))
    return "array" if any(found) else None


def _misread_objects(reader: Any, written: Any, is_part: bool) -> str | None:
    shape, other = shape_of(reader), shape_of(written)
    if other is None and shape is not None:
        # The keys of a class are not those of any other dictionary, if there are some.
        return "object" if shape.is_partial and not _is_typed_dict(reader) else None
    if shape is None and (other is None or _is_typed_dict(written)):
        items = (
            [_item(written)] if other is None else [it.annotation for it in other.fields.values()]
        )
        return "object" if any(misread(_item(reader), it, is_part=True) for it in items) else None
    if shape is None or other is None:
        return "object" if is_part or other is None or other.is_partial else None
    if not is_part and not other.is_partial and shape.fields.keys() != other.fields.keys():
        return None
    if _is_typed_dict(reader) and _is_typed_dict(written):
        pairs = _field_pairs(shape, other)
        if is_part and not other.fields.keys() <= shape.fields.keys():
            return "object"
        return "object" if any(misread(*pair, is_part=True) for pair in pairs) else None
    return "object"


def _misread_for_keys(first: Any, second: Any) -> str | None:
    """The same for two members of which the second may be tried first, because it has exactly the keys
    of an object from which the first has left some out."""
    shape = shape_of(first)
    return misread(second, first) if shape is not None and shape.is_partial else None


def _may_read(reader: Any, written: Any, depth: int = 0, *, lax: bool = False) -> bool:
    """Whether a type reads a value of another type, as whatever.

    Args:
        reader: A type.
        written: Another type.
        depth: In how many others they are.
        lax: Whether pydantic reads the value.
    """
    lax = lax or _is_lax(reader)
    reader, written = _root(bare(reader)), _root(bare(written))
    members, others = _members(reader), _members(written)
    if len(members) > 1 or len(others) > 1:
        pairs = itertools.product(members, others)
        return any(_may_read(*pair, depth, lax=lax) for pair in pairs)
    values, other_values = _values(reader), _values(written)
    if values is not None and other_values is not None:
        return bool(values.keys() & other_values.keys())
    if depth == _DEPTH or (lax and _may_convert(reader, written, other_values)):
        return True
    forms, other_forms = _forms(reader), _forms(written)
    if not forms or not other_forms:
        return depth > 0
    if not other_forms & forms and _READ.get(reader) not in other_forms:
        return False
    if reader in _GRAMMARS and written in _GRAMMARS:
        return (reader, written) == (datetime.datetime, datetime.date)
    if values is not None or other_values is not None:
        return True
    if "array" in other_forms:
        return _may_read_items(reader, written, depth, lax)
    return "object" not in other_forms or _may_read_object(reader, written, depth, lax)


def _may_convert(reader: Any, written: Any, values: dict[str, Any] | None) -> bool:
    """Whether pydantic converts a value of a type to another one that is written otherwise."""
    if values is None:
        return (reader in _LAX and written in _LAX_WRITTEN) or (reader, written) in _LAX_TIMES
    from .._aios import loads
    from .readers import pydantic_reader

    if reader not in _LAX:
        return False
    read = pydantic_reader(reader)
    found: list[list[tuple[str, str]]] = [[] for _ in values]
    for text, violations in zip(values, found, strict=True):
        read(loads(text), "", violations)
    return not all(found)


def _may_read_items(reader: Any, written: Any, depth: int, lax: bool) -> bool:
    counts, other_counts = _fixed(reader), _fixed(written)
    if counts is None or other_counts is None:
        # An empty one.
        return True
    least, most = counts
    # Classes of msgspec ignore further items.
    if other_counts[1] < least or (other_counts[1] > most and rows_of(reader) is None):
        return False
    return all(_may_read(*pair, depth + 1, lax=lax) for pair in _item_pairs(reader, written))


def _may_read_object(reader: Any, written: Any, depth: int, lax: bool) -> bool:
    shape, other = shape_of(reader), shape_of(written)
    if other is None:
        return True
    if shape is None:
        values = (field.annotation for field in other.fields.values())
        return all(_may_read(_item(reader), it, depth + 1, lax=lax) for it in values)
    required = {name for name, field in shape.fields.items() if field.required}
    if not other.is_open and not required <= other.fields.keys():
        return False
    if shape.is_closed and not other.is_partial and not other.fields.keys() <= shape.fields.keys():
        return False
    lax = lax or shape.is_lax
    return all(_may_read(*pair, depth + 1, lax=lax) for pair in _field_pairs(shape, other))


def _field_pairs(shape: Shape, other: Shape) -> Iterator[tuple[Any, Any]]:
    for name in shape.fields.keys() & other.fields.keys():
        yield shape.fields[name].annotation, other.fields[name].annotation


def _members(kind: Any) -> tuple[Any, ...]:
    """The members of a union; the type itself if it is not a union."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return (kind,)
    return tuple(found for it in typing.get_args(kind) for found in _members(bare(it)))


def _root(kind: Any) -> Any:
    """The type of the only value of a root model; other types as they are."""
    while is_root_model(kind):
        kind = bare(as_written(pydantic_fields(kind)["root"].annotation))
    return kind


def _is_lax(annotation: Any) -> bool:
    """Whether pydantic reads a type by itself."""
    libraries = {type(it).__module__ for it in getattr(annotation, "__metadata__", ())}
    found = {name.partition(".")[0] for name in libraries}
    return bool(found & {"pydantic", "annotated_types"}) or is_root_model(bare(annotation))


def _is_typed_dict(kind: Any) -> bool:
    return typing.is_typeddict(typing.get_origin(kind) or kind)


def _values(kind: Any) -> dict[str, Any] | None:
    """The values of an enum or a literal, by their JSON."""
    from .._aios import dumps

    if typing.get_origin(kind) is typing.Literal:
        return {dumps(value): value for value in typing.get_args(kind)}
    if isinstance(kind, type) and issubclass(kind, enum.Enum) and not issubclass(kind, enum.Flag):
        return {dumps(member.value): member for member in kind}
    return None


def _forms(kind: Any) -> frozenset[str]:
    """The JSON types of the values of a type; none if they are not known."""
    values = _values(kind)
    if values is not None:
        from .._aios import loads
        from .readers import json_type

        return frozenset(json_type(loads(text)) for text in values)
    made = typing.get_origin(kind) or kind
    if not isinstance(made, type):
        return frozenset()
    if made in _WRITTEN:
        return frozenset({_WRITTEN[made]})
    if issubclass(made, enum.Flag):
        return frozenset({"integer"})
    if issubclass(made, pathlib.PurePath):
        return frozenset({"string"})
    if issubclass(made, abc.Mapping) or shape_of(kind) is not None:
        return frozenset({"object"})
    is_array = issubclass(made, abc.Collection) or rows_of(kind) is not None
    return frozenset({"array"} if is_array else ())


def _container(kind: Any) -> Any:
    """The class that a list is read as."""
    made = typing.get_origin(kind) or kind
    is_own = made in _CONTAINERS or issubclass(made, tuple) or rows_of(kind) is not None
    return made if is_own else list


def _fixed(kind: Any) -> tuple[int, int] | None:
    """The least and the greatest number of items of a tuple or a class; ``None`` for other types."""
    rows = rows_of(kind)
    if rows is not None:
        return sum(it.required for it in rows), len(rows)
    made: Any = typing.get_origin(kind) or kind
    if _is_named(made):
        return len(made._fields) - len(made._field_defaults), len(made._fields)
    items = tuple_items(typing.get_args(kind)) if made is tuple else None
    if items is None or items.rest is not None:
        return None
    return len(items.before), len(items.before)


def _items(kind: Any) -> list[Any]:
    """The types of the items of a list."""
    rows = rows_of(kind)
    if rows is not None:
        return [it.annotation for it in rows]
    made: Any = typing.get_origin(kind) or kind
    if _is_named(made):
        hints = bound_hints_of(kind)
        return [hints.get(name, Any) for name in made._fields]
    if made is tuple:
        items = tuple_items(typing.get_args(kind))
        return [*items.before, *([] if items.rest is None else [items.rest]), *items.after]
    return list(typing.get_args(kind))


def _is_named(made: Any) -> bool:
    """Whether it is a class of ``NamedTuple``."""
    return isinstance(made, type) and issubclass(made, tuple) and hasattr(made, "_fields")


def _item_pairs(reader: Any, written: Any) -> Iterator[tuple[Any, Any]]:
    """The types of the items that are read with each other."""
    items = _items(reader), _items(written)
    if None in (_fixed(reader), _fixed(written)):
        return itertools.product(*items)
    return zip(*items, strict=False)


def _item(kind: Any) -> Any:
    """The type of the values of a dictionary."""
    arguments = typing.get_args(kind)
    return arguments[1] if len(arguments) == 2 else Any
