"""The fields of classes as they are in JSON: of dataclasses, typed dictionaries, pydantic and msgspec."""

from __future__ import annotations

import dataclasses
import datetime
import sys
import types
import typing
from typing import Any

from .annotations import annotations_of
from .generics import arguments_of, bare, is_qualified, substitute, with_self


class Field(typing.NamedTuple):
    """A field of a class.

    Attributes:
        name: Its name in JSON.
        annotation: Its type.
        required: Whether it has no default.
        is_set_later: Whether the code of the class sets it, instead of an argument.
    """

    name: str
    annotation: Any
    required: bool
    is_set_later: bool = False


def fields_of(annotation: Any) -> list[Field] | None:
    """The fields of a dataclass or ``TypedDict``, which may be generic; ``None`` for other classes.

    Raises:
        TypeError: An annotation can't be resolved.
    """
    kind = typing.get_origin(annotation) or annotation
    if dataclasses.is_dataclass(kind):
        hints = bound_hints_of(annotation)
        _check_dataclass(kind, hints)
        return [
            Field(
                field.name,
                hints[field.name],
                field.init
                and field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING,
                not field.init,
            )
            for field in dataclasses.fields(kind)
        ]
    if typing.is_typeddict(kind):
        hints = bound_hints_of(annotation)
        required: frozenset[str] = getattr(kind, "__required_keys__", frozenset())
        return [
            Field(name, hint, _is_required(hint, name in required)) for name, hint in hints.items()
        ]
    return None


def _check_dataclass(kind: Any, hints: dict[str, Any]) -> None:
    """Checks that the fields of a dataclass are all that makes it.

    Raises:
        TypeError: It requires a value that it does not keep, or has items in addition to its fields.
    """
    if issubclass(kind, (dict, list, tuple, str, int, float)):
        base = kind.__mro__[-2].__name__
        raise TypeError(
            f"{kind.__qualname__} is both a dataclass and a {base}; it would be serialised as {base} and "
            f"lose its fields. Put the {base} in a field"
        )
    for name, hint in hints.items():
        if isinstance(hint, dataclasses.InitVar) and not hasattr(kind, name):
            raise TypeError(
                f"{kind.__qualname__} has a required InitVar {name!r}, whose value is not stored on the "
                "object; make it a field, or give it a default"
            )


class Shape(typing.NamedTuple):
    """The JSON objects of a class.

    Attributes:
        fields: Its fields by their names.
        is_closed: Whether other keys are refused.
        is_partial: Whether keys are left out, for example those of default values, or added.
        is_open: Whether any other keys are written too.
        is_lax: Whether values of other JSON types are converted.
    """

    fields: dict[str, Field]
    is_closed: bool = False
    is_partial: bool = False
    is_open: bool = False
    is_lax: bool = False


def shape_of(annotation: Any) -> Shape | None:
    """The JSON objects of a class; ``None`` for types whose values are something else, or whose keys are
    not known."""
    annotation = bare(annotation)
    kind = typing.get_origin(annotation) or annotation
    if not isinstance(kind, type) or kind is types.UnionType:
        return None
    if is_pydantic(kind):
        return _pydantic_shape(kind)
    if hasattr(kind, "__struct_config__"):
        return _msgspec_shape(annotation, kind.__struct_config__)
    found = fields_of(annotation)
    if found is None:
        return None
    return Shape({field.name: field for field in found}, is_partial=typing.is_typeddict(kind))


def is_pydantic(kind: Any) -> bool:
    """Whether pydantic reads and writes the type."""
    return hasattr(kind, "__pydantic_core_schema__") or hasattr(kind, "__pydantic_validator__")


def pydantic_fields(kind: Any) -> dict[str, Any]:
    """The fields of a class of pydantic, as it describes them."""
    found: dict[str, Any] = getattr(kind, "__pydantic_fields__", None) or getattr(
        kind, "model_fields", {}
    )
    return found


def _pydantic_shape(kind: Any) -> Shape | None:
    if is_root_model(kind):
        return None
    config = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", None) or {}
    found = pydantic_fields(kind)
    fields = {
        name: Field(name, as_written(field.annotation), field.is_required())
        for name, field in found.items()
    }
    extra = config.get("extra")
    is_partial = extra == "allow" or any(map(_is_excluded, found.values()))
    return Shape(fields, extra == "forbid", is_partial, extra == "allow", is_lax=True)


def is_root_model(kind: Any) -> bool:
    """Whether a model of pydantic is written as its only value."""
    return getattr(kind, "__pydantic_root_model__", False) is True


def _is_excluded(field: Any) -> bool:
    """Whether a field of pydantic is left out, perhaps depending on its value."""
    return bool(field.exclude) or getattr(field, "exclude_if", None) is not None


def _msgspec_shape(annotation: Any, config: Any) -> Shape | None:
    if config.array_like:
        return None
    found = _msgspec_fields(annotation)
    if found is None:
        return None
    fields = {
        it.encode_name: Field(it.encode_name, as_written(it.type), it.required) for it in found
    }
    if config.tag_field is not None:
        literal: Any = typing.Literal
        # It is written, but need not be there when it is read.
        fields[config.tag_field] = Field(config.tag_field, literal[config.tag], False)
    unset: Any = sys.modules["msgspec"].UnsetType
    is_partial = config.omit_defaults or any(unset in typing.get_args(it.type) for it in found)
    return Shape(fields, config.forbid_unknown_fields, is_partial)


def rows_of(annotation: Any) -> list[Field] | None:
    """The items of a class of msgspec that is written as an array; ``None`` for other types."""
    config = getattr(typing.get_origin(annotation) or annotation, "__struct_config__", None)
    if config is None or not config.array_like:
        return None
    literal: Any = typing.Literal
    tag = [] if config.tag is None else [Field("", literal[config.tag], True)]
    found = _msgspec_fields(annotation) or ()
    return [*tag, *(Field(it.encode_name, as_written(it.type), it.required) for it in found)]


def as_written(annotation: Any) -> Any:
    """The type of a field of pydantic or msgspec, with ``str`` for a ``timedelta``, which they write as a
    text. Pydantic can be told to write a number instead, and reads numbers too."""
    kind = bare(annotation)
    if kind is datetime.timedelta:
        return kind | str
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return annotation
    members = tuple(as_written(it) for it in typing.get_args(kind))
    union: Any = typing.Union
    return annotation if members == typing.get_args(kind) else union[members]


def _msgspec_fields(annotation: Any) -> Any:
    """The fields of a class of msgspec; ``None`` if an annotation can't be resolved, which is reported
    where the class is read."""
    try:
        return sys.modules["msgspec"].structs.fields(annotation)
    except Exception:
        return None


def hints_of(kind: Any) -> dict[str, Any]:
    """The annotations of a class.

    Raises:
        TypeError: One refers to an unknown name, or is not an expression.
    """
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except Exception as error:
        raise TypeError(
            f"an annotation of {kind.__qualname__} can't be resolved: {error}; define what it names at "
            "the top of a module, before it is used"
        ) from error


def bound_hints_of(annotation: Any) -> dict[str, Any]:
    """The annotations of a class, with the arguments for the type parameters of the class or base that
    declares each.

    Raises:
        TypeError: One refers to an unknown name, or is not an expression.
    """
    kind = typing.get_origin(annotation) or annotation
    arguments = arguments_of(annotation)
    # A TypedDict is not an object of its bases, and repeats what they declare.
    order = reversed(arguments) if typing.is_typeddict(kind) else kind.__mro__
    declared = [(annotations_of(it) or {}, arguments.get(it, {})) for it in order]

    def bind(name: str, hint: Any) -> Any:
        return substitute(hint, next((bound for names, bound in declared if name in names), {}))

    hints = hints_of(kind).items()
    return {name: with_self(bind(name, hint), annotation) for name, hint in hints}


def _is_required(hint: Any, otherwise: bool) -> bool:
    """Whether a key is required. ``__required_keys__`` ignores string annotations, so the hint
    decides."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _is_required(typing.get_args(hint)[0], otherwise)
    if origin in (typing.Required, typing.NotRequired):
        return origin is typing.Required
    if is_qualified(hint):
        return _is_required(typing.get_args(hint)[0], otherwise)
    return otherwise
