"""Type parameters of generic classes."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any


def substitute(annotation: Any, arguments: Mapping[Any, Any]) -> Any:
    """Replaces type parameters in an annotation. Unknown ones stay."""
    if isinstance(annotation, typing.TypeVar):
        return arguments.get(annotation, annotation)
    parameters = getattr(annotation, "__parameters__", ())
    if typing.get_origin(annotation) is None or not parameters:
        return annotation
    return annotation[tuple(arguments.get(parameter, parameter) for parameter in parameters)]


def arguments_of(annotation: Any) -> dict[Any, Any]:
    """The arguments for the type parameters of a class and of its bases: of ``Box[int]``, say, or of a
    class whose base is ``Box[int]``."""
    kind = typing.get_origin(annotation) or annotation
    parameters = getattr(kind, "__parameters__", ())
    given = dict(zip(parameters, typing.get_args(annotation), strict=False))
    found = dict(given)
    for base in getattr(kind, "__orig_bases__", ()):
        if typing.get_origin(base) is not typing.Generic:
            found = {**arguments_of(substitute(base, given)), **found}
    return found


def title_of(annotation: Any) -> str:
    """The name of a class with its arguments, such as ``Box_int``."""
    kind = typing.get_origin(annotation) or annotation
    arguments = typing.get_args(annotation)
    return "_".join(
        [kind.__name__, *(getattr(each, "__name__", "") or "any" for each in arguments)]
    )
