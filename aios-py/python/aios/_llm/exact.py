"""Types about which a JSON Schema says everything."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

#: Types of which every value that the schema accepts can be converted. Not those of numbers: for a
#: schema, 1.0 is an integer.
_EXACT = (str, bool, None, type(None))


def is_exact(annotation: Any, known: frozenset[Any] = frozenset()) -> bool:
    """Whether every value that the schema of a type accepts can be converted to it. If in doubt, it is
    not: the type may have validators, or a form that a schema does not check."""
    # Not by hash: metadata of annotations may have none.
    if any(annotation is it for it in (*_EXACT, *known)):
        return True
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (list, typing.Union, types.UnionType):
        return all(is_exact(argument, known) for argument in arguments)
    if origin is dict and len(arguments) == 2:  # a bare ``typing.Dict`` has none
        return arguments[0] is str and is_exact(arguments[1], known)
    return isinstance(annotation, type) and _is_plain_dataclass(annotation, known | {annotation})


def _is_plain_dataclass(kind: type, known: frozenset[Any]) -> bool:
    """Whether a class is a dataclass without code of its own, and with fields of such types."""
    is_plain = (
        dataclasses.is_dataclass(kind)
        and "__dataclass_fields__" in vars(kind)
        and kind.__bases__ == (object,)
        and not {"__post_init__", "__new__", "__pydantic_validator__"} & vars(kind).keys()
        and kind.__dataclass_params__.init  # type: ignore[attr-defined]
        and all(field.init for field in dataclasses.fields(kind))
    )
    if not is_plain:
        return False
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except (NameError, TypeError):
        return False
    return all(is_exact(hint, known) for hint in hints.values())
