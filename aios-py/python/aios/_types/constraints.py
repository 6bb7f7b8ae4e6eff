"""Annotations with constraints that pydantic or msgspec checks.

What is written for a value depends on its type alone, and these libraries read some types from another
form: pydantic reads ``bytes`` from their text, and msgspec a ``timedelta`` from ISO 8601. So a value is
read by the converter of its type, and the library checks what that has made. What the converter refuses
is left to the library, which takes more forms.
"""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Iterator
from typing import Any

from .fields import hints_of, is_pydantic
from .generics import bare, is_alias, value_of
from .readers import Read, Violations


def libraries_of(annotation: Any) -> set[str]:
    """The packages of the metadata of a type."""
    metadata = getattr(annotation, "__metadata__", ())
    return {type(found).__module__.partition(".")[0] for found in metadata}


def is_of_pydantic(annotation: Any) -> bool:
    """Whether pydantic reads a type because of its metadata."""
    libraries = libraries_of(annotation)
    return bool(libraries & {"pydantic", "annotated_types"}) and "pydantic" in sys.modules


def check_metadata(annotation: Any, metadata: tuple[Any, ...]) -> None:
    """Checks that pydantic reads what is written for an annotation.

    Raises:
        TypeError: Its metadata reads bytes, or encodes a text, in a form of its own.
    """
    own = [it for it in metadata if _is_raw(it)]
    if not own and not (holds_bytes(annotation) and has_functions(annotation)):
        return
    is_base64 = all(_is_base64(it) for it in own) and bare(annotation) is bytes
    is_encoded = any(hasattr(it, "encoder") for it in own)
    if not is_base64 and (is_encoded or holds_bytes(annotation)):
        raise TypeError(
            f"{annotation!r} is read in another form than it is written; use a field of a pydantic model"
        )


def is_left_to_library(annotation: Any, metadata: tuple[Any, ...]) -> bool:
    """Whether functions of the annotation take JSON, or would be called twice."""
    return any(map(_is_raw, metadata)) or has_functions(annotation)


def holds_bytes(annotation: Any) -> bool:
    """Whether a type contains bytes, which are base64 in JSON."""
    return any(it in (bytes, bytearray) for it, _ in _nested(annotation, set()))


def has_functions(annotation: Any) -> bool:
    """Whether the metadata of parts of a type have functions of pydantic."""
    inner = typing.get_args(annotation)[0]
    found = (it for _, metadata in _nested(inner, set()) for it in metadata)
    return any(hasattr(it, "func") or hasattr(it, "encoder") for it in found)


def described(schema: dict[str, Any], metadata: tuple[Any, ...]) -> dict[str, Any]:
    """A schema with the last description of the metadata."""
    texts = [getattr(it, "description", None) for it in metadata]
    texts = [text for text in texts if isinstance(text, str)]
    return {**schema, "description": texts[-1]} if texts else schema


def checked(read: Read, check: Read, otherwise: Read | None) -> Read:
    """Reads a value and checks it. ``otherwise`` reads what ``read`` refuses."""

    def read_checked(value: Any, path: str, violations: Violations) -> Any:
        found: Violations = []
        made = read(value, path, found)
        if not found:
            return check(made, path, violations)
        if otherwise is not None:
            return otherwise(value, path, violations)
        violations.extend(found)
        return made

    return read_checked


def _is_raw(metadata: Any) -> bool:
    """Whether it takes a value before pydantic has converted it."""
    pydantic = sys.modules["pydantic"]
    kinds = (pydantic.BeforeValidator, pydantic.PlainValidator, pydantic.WrapValidator)
    return isinstance(metadata, kinds) or hasattr(metadata, "encoder")


def _is_base64(metadata: Any) -> bool:
    """Whether it reads bytes as they are written."""
    pydantic = sys.modules["pydantic"]
    encoder = getattr(metadata, "encoder", None)
    return encoder in (pydantic.types.Base64Encoder, pydantic.types.Base64UrlEncoder)


def _nested(annotation: Any, known: set[Any]) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """The types of which a type consists, and their metadata. Models write their parts themselves."""
    yield annotation, getattr(annotation, "__metadata__", ())
    if hasattr(annotation, "__supertype__"):
        yield from _nested(annotation.__supertype__, known)
    if is_alias(annotation):
        if annotation not in known:
            known.add(annotation)
            yield from _nested(value_of(annotation), known)
        return
    for part in typing.get_args(annotation):
        yield from _nested(part, known)
    kind = typing.get_origin(annotation) or annotation
    is_plain = isinstance(kind, type) and (
        (dataclasses.is_dataclass(kind) and not is_pydantic(kind))
        or typing.is_typeddict(kind)
        or hasattr(kind, "_fields")
    )
    if is_plain and kind not in known:
        known.add(kind)
        for part in hints_of(kind).values():
            yield from _nested(part, known)
