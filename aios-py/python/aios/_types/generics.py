"""Names and type parameters of types."""

from __future__ import annotations

import functools
import operator
import types
import typing
from collections.abc import Mapping
from typing import Any


def bare(kind: Any) -> Any:
    """A type without metadata and without the names that it has been given."""
    while True:
        if typing.get_origin(kind) is typing.Annotated or is_qualified(kind):
            kind = typing.get_args(kind)[0]
        elif kind is typing.LiteralString:
            kind = str
        elif hasattr(kind, "__supertype__"):
            kind = kind.__supertype__
        elif is_alias(kind):
            kind = value_of(kind)
        else:
            return type(None) if kind is None else kind


def is_qualified(kind: Any) -> bool:
    """Whether it says of a field that it is required, not required, read-only or final."""
    # Some are of `typing_extensions` in older versions of Python.
    name = getattr(typing.get_origin(kind), "_name", None)
    return name in ("Required", "NotRequired", "ReadOnly", "Final")


def is_alias(kind: Any) -> bool:
    """Whether it is a name that a ``type`` statement has given to a type, which may contain that name."""
    return hasattr(typing.get_origin(kind) or kind, "__value__")


def value_of(alias: Any) -> Any:
    """The type that an alias names, with the arguments of the alias."""
    named = typing.get_origin(alias) or alias
    parameters = getattr(named, "__type_params__", ())
    arguments = dict(zip(parameters, typing.get_args(alias), strict=False))
    return substitute(named.__value__, arguments)


class TupleItems(typing.NamedTuple):
    """The types of the items of a tuple.

    Attributes:
        before: Of the first items.
        rest: Of any number of items after these; ``None`` if there are none.
        after: Of the last items.
    """

    before: tuple[Any, ...]
    rest: Any = None
    after: tuple[Any, ...] = ()


def tuple_items(args: tuple[Any, ...]) -> TupleItems:
    """Reads the arguments of ``tuple[...]``, which may contain ``...`` and ``*tuple[...]``."""
    if not args:
        return TupleItems((), Any)
    if len(args) == 2 and args[1] is Ellipsis:
        return TupleItems((), args[0])
    found = TupleItems(())
    for arg in args:
        inner = TupleItems(() if arg == () else (arg,))
        if typing.get_origin(arg) is typing.Unpack:
            inner = tuple_items(typing.get_args(typing.get_args(arg)[0]))
        elif getattr(arg, "__unpacked__", False):
            inner = tuple_items(typing.get_args(arg))
        if found.rest is not None:
            found = found._replace(after=found.after + inner.before)
        else:
            found = TupleItems(found.before + inner.before, inner.rest, inner.after)
    return found


def substitute(annotation: Any, arguments: Mapping[Any, Any]) -> Any:
    """Replaces type parameters in an annotation. Unknown ones stay."""
    if isinstance(annotation, typing.TypeVar):
        return arguments.get(annotation, annotation)
    parameters = getattr(annotation, "__parameters__", ())
    if typing.get_origin(annotation) is None or not parameters:
        return annotation
    return annotation[tuple(arguments.get(parameter, parameter) for parameter in parameters)]


def with_self(annotation: Any, kind: Any) -> Any:
    """Replaces ``Self`` in an annotation of a class."""
    if annotation is typing.Self:
        return kind
    arguments = typing.get_args(annotation)
    made = tuple(with_self(it, kind) for it in arguments)
    if all(one is other for one, other in zip(made, arguments, strict=True)):
        return annotation
    origin: Any = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, made)
    if isinstance(annotation, types.GenericAlias):
        return types.GenericAlias(origin, made)
    # Of `Annotated`, it takes the type without its metadata.
    return annotation.copy_with(made[:1] if origin is typing.Annotated else made)


def arguments_of(annotation: Any) -> dict[Any, dict[Any, Any]]:
    """The arguments for the type parameters of a class and of each of its bases: of ``Box[int]``, say, or
    of a class whose base is ``Box[int]``. A class and its base may have the same parameter, with other
    arguments."""
    kind = typing.get_origin(annotation) or annotation
    parameters = getattr(kind, "__parameters__", ())
    found = {kind: dict(zip(parameters, typing.get_args(annotation), strict=False))}
    for base in vars(kind).get("__orig_bases__", kind.__bases__):
        made = typing.get_origin(base) or base
        # Neither `Generic` nor `Protocol`, whose arguments are type parameters.
        if isinstance(made, type) and made.__module__ not in ("typing", "typing_extensions"):
            for owner, arguments in arguments_of(substitute(base, found[kind])).items():
                found[owner] = {**arguments, **found.get(owner, {})}
    return found


def title_of(annotation: Any) -> str:
    """The name of a class with its arguments, such as ``Box_int``."""
    kind = typing.get_origin(annotation) or annotation
    arguments = typing.get_args(annotation)
    return "_".join(
        [kind.__name__, *(getattr(each, "__name__", "") or "any" for each in arguments)]
    )
