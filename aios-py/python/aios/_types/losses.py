"""Values that their own libraries write as something else, from which they could not be read again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from .._secret import Secret

#: The remedy for a secret in a value.
SECRET_REMEDY = (
    "secrets are never serialised: pass the secret's name and read the secret where it is needed, for "
    "example from aios.Settings, or use str if it may be stored"
)


def is_secret(value: Any) -> bool:
    """Whether a value is a secret of this package or of pydantic."""
    return isinstance(value, Secret) or hasattr(type(value), "get_secret_value")


def check_dumped(value: Any, plain: Any) -> None:
    """Checks what pydantic has made of a value.

    Raises:
        TypeError: A secret has become stars, or a number ``null``.
    """
    kind: Any = type(value)
    if _may_lose(kind):
        for path, reason in _losses(value, plain, ""):
            at = f"field {path} of " if path else ""
            raise TypeError(f"{at}{kind.__qualname__} {reason}")


#: Whether a part of a class may be a secret or anything.
_lossy: WeakKeyDictionary[type, bool] = WeakKeyDictionary()


def _may_lose(kind: Any) -> bool:
    """Whether a part of a class may be a secret or anything."""
    found = _lossy.get(kind)
    if found is None:
        schema = repr(kind.__pydantic_core_schema__).lower()
        found = _lossy[kind] = "secret" in schema or "'any'" in schema
    return found


def _losses(value: Any, plain: Any, path: str) -> Iterator[tuple[str, str]]:
    """The parts that are written as something else: their paths, and why they are refused."""
    while getattr(type(value), "__pydantic_root_model__", False):
        value = value.root
    if is_secret(value):
        if _is_masked(value, plain):
            yield path, f"is a secret, of which only {plain!r} would be serialised; {SECRET_REMEDY}"
    elif isinstance(value, float):
        if plain is None and not math.isfinite(value):
            yield path, f"is {value}, which is not valid JSON and would be serialised as null"
    else:
        for name, part, written in _parts(value, plain):
            yield from _losses(part, written, f"{path}.{name}" if path else name)


def _is_masked(secret: Any, plain: Any) -> bool:
    """Whether what is written for a secret is what is printed for it. An empty one is written as it is."""
    if not isinstance(plain, str) or not plain:
        return False
    exposed = secret.expose() if isinstance(secret, Secret) else secret.get_secret_value()
    return plain != exposed and (plain == str(secret) or not plain.strip("*"))


def _parts(value: Any, plain: Any) -> Iterable[tuple[str, Any, Any]]:
    """The parts of a value with what is written for them."""
    if isinstance(plain, dict):
        if isinstance(value, Mapping):
            return _same(plain, value.values(), plain.values())
        fields: dict[str, Any] = getattr(type(value), "model_fields", {})
        names = {field.serialization_alias: name for name, field in fields.items()}
        found = [(str(names.get(key, key)), written) for key, written in plain.items()]
        return [(name, getattr(value, name), it) for name, it in found if hasattr(value, name)]
    if isinstance(plain, list) and isinstance(value, Iterable):
        return _same(range(len(plain)), value, plain)
    return ()


def _same(
    names: Iterable[Any], values: Iterable[Any], plain: Iterable[Any]
) -> list[tuple[str, Any, Any]]:
    """Parts by their order; none if the serialiser has changed their number."""
    found, written = list(values), list(plain)
    if len(found) != len(written):
        return []
    return [(str(name), *pair) for name, *pair in zip(names, found, written, strict=True)]
