"""Objects of subclasses where a class is declared: in fields of dataclasses, and as inputs and results.

They are written with all their fields, but read as the class that is declared, without the others.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .fields import fields_of, shape_of
from .generics import bare, is_alias


def check_fields(value: Any) -> None:
    """Checks the fields of a dataclass.

    Raises:
        TypeError: One contains an object of a subclass of its class.
    """
    kind: Any = type(value)
    for name, classes in _declared(kind):
        what = f"field {name} of {kind.__qualname__}"
        check_classes(getattr(value, name, None), classes, what)


def check_classes(value: Any, classes: tuple[type, ...], what: str) -> None:
    """Checks a value of a type that declares some classes with fields, or a list or dictionary of such.

    Raises:
        TypeError: It contains an object of a subclass of one of them.
    """
    for part in _objects(value):
        if isinstance(part, classes) and type(part) not in classes:
            base = next(it for it in classes if isinstance(part, it))
            raise TypeError(
                f"{what} contains a {type(part).__qualname__}, which would be read as a "
                f"{base.__qualname__}; declare it as a union of both"
            )


def classes_of(annotation: Any) -> tuple[type, ...]:
    """The classes with fields that a type declares; none if an annotation can't be resolved."""
    try:
        return tuple(_classes(annotation, set()))
    except Exception:
        return ()


def _find_declared(kind: Any) -> tuple[tuple[str, tuple[type, ...]], ...]:
    """The fields of a dataclass that declare classes with fields, with these; none if an annotation can't
    be resolved, so that nothing is read as the dataclass."""
    try:
        fields = fields_of(kind) or []
        found = [(field.name, tuple(_classes(field.annotation, set()))) for field in fields]
    except Exception:
        return ()
    return tuple((name, classes) for name, classes in found if classes)


#: Keeps what :func:`_find_declared` found.
_declared: Callable[[Any], tuple[tuple[str, tuple[type, ...]], ...]]
_declared = functools.lru_cache(maxsize=1024)(_find_declared)


def _classes(annotation: Any, known: set[Any]) -> Iterator[type]:
    """The classes with fields in a type. ``known`` are the aliases around it, of which it may be a part."""
    if is_alias(annotation):
        if annotation in known:
            return
        known.add(annotation)
    annotation = bare(annotation)
    kind = typing.get_origin(annotation) or annotation
    if isinstance(kind, type) and not typing.is_typeddict(kind) and shape_of(annotation):
        yield kind
    for argument in typing.get_args(annotation):
        yield from _classes(argument, known)


def _objects(value: Any) -> Iterator[Any]:
    """The objects in lists and dictionaries; any other value itself."""
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (list, tuple, set, frozenset)):
        yield value
        return
    for part in value:
        yield from _objects(part)
