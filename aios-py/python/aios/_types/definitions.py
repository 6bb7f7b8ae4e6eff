"""Definitions of JSON Schemas, which references find only at the root of a schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PREFIX = "#/$defs/"


def hoisted(schema: Mapping[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema without its definitions, which are added to ``definitions``. They get other names if
    their names mean something else there."""
    own: Mapping[str, Any] = schema.get("$defs", {})
    rest = {name: value for name, value in schema.items() if name != "$defs"}
    suffix = ""
    while True:
        names = {_PREFIX + name: f"{_PREFIX}{name}{suffix}" for name in own}
        added = {f"{name}{suffix}": _renamed(found, names) for name, found in own.items()}
        if all(definitions.get(name, found) == found for name, found in added.items()):
            definitions.update(added)
            return {name: _renamed(value, names) for name, value in rest.items()}
        suffix += "_"


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """The value with other references."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    if isinstance(value, dict):
        return {name: _renamed(item, names) for name, item in value.items()}
    return value
