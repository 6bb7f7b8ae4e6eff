"""Annotations of which some can't be evaluated.

Python 3.14 evaluates all annotations of a function or class when it is asked for one. One that names something
of an ``if TYPE_CHECKING`` block then raises a ``NameError``, also where only the others are needed.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a function, without the values of annotations that can't be evaluated.

    Raises:
        TypeError: It can't be called.
        ValueError: It has none.
    """
    if sys.version_info >= (3, 14):
        import annotationlib

        try:
            return inspect.signature(function)
        except NameError:
            lazy = annotationlib.Format.FORWARDREF
            return inspect.signature(function, annotation_format=lazy)
    return inspect.signature(function)


def annotations_of(value: Any) -> Mapping[str, Any] | None:
    """The annotations of a function or class itself, some perhaps as a ``ForwardRef``; ``None`` for other
    objects."""
    if sys.version_info >= (3, 14):
        import annotationlib

        try:
            found: Mapping[str, Any] | None = getattr(value, "__annotations__", None)
        except NameError:
            found = annotationlib.get_annotations(value, format=annotationlib.Format.FORWARDREF)
        return found
    if isinstance(value, type):
        # Not those of a base.
        return inspect.get_annotations(value)
    return getattr(value, "__annotations__", None)
