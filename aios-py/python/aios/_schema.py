"""Compiles Python types to converters from JSON and to JSON Schemas."""

from __future__ import annotations

import base64
import collections.abc as abc
import dataclasses
import datetime
import decimal
import enum
import pathlib
import sys
import types
import typing
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from ._secret import SECRET_SCHEMA, Secret

Violations = list[tuple[str, str]]
#: Converts the value at a path. On violations, appends them and returns :data:`INVALID`.
Read = Callable[[Any, str, Violations], Any]
Schema = dict[str, Any]
Compiled = tuple[Read | None, Schema]

INVALID: Any = object()


class _Field(typing.NamedTuple):
    name: str
    annotation: Any
    required: bool


class Compiler:
    """Compiles types. The schemas of classes with fields are collected in :attr:`definitions`."""

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {}
        self._known: dict[Any, tuple[list[Read], str]] = {}

    def compile(self, annotation: Any) -> Compiled:
        if annotation is Any or annotation is object or isinstance(annotation, typing.TypeVar):
            return None, {}
        if annotation is None or annotation is type(None):
            return _exactly(lambda value: value is None, "null"), {"type": "null"}
        if annotation in _SCALARS:
            return _SCALARS[annotation]
        if annotation is Secret:
            return _converted(str, Secret, "secret"), SECRET_SCHEMA
        origin = typing.get_origin(annotation)
        if origin is not None:
            return self._generic(annotation, origin, typing.get_args(annotation))
        if hasattr(annotation, "__supertype__"):
            return self.compile(annotation.__supertype__)
        if hasattr(annotation, "__value__"):
            return self.compile(annotation.__value__)
        if isinstance(annotation, type):
            return self._class(annotation)
        raise TypeError(f"{annotation!r} can't be read from JSON; annotate with a supported type")

    def _generic(self, annotation: Any, origin: Any, args: tuple[Any, ...]) -> Compiled:
        if origin in (typing.Union, types.UnionType):
            return self._union(args)
        if origin is typing.Literal:
            return _literal(args)
        if origin in (typing.Annotated, typing.Required, typing.NotRequired):
            return self.compile(args[0])
        if origin is tuple:
            return self._tuple(args)
        if origin in (list, set, frozenset) or (
            isinstance(origin, type)
            and issubclass(origin, abc.Collection)
            and not issubclass(origin, abc.Mapping)
        ):
            return self._list(origin if origin in (set, frozenset) else list, args[0])
        if isinstance(origin, type) and issubclass(origin, abc.Mapping):
            return self._dict(args[0], args[1])
        if _is_pydantic(annotation) or _is_pydantic(origin):
            return _pydantic(annotation)
        if isinstance(origin, type):
            return self._class(origin)
        raise TypeError(f"{annotation!r} can't be read from JSON; annotate with a supported type")

    def _class(self, kind: type) -> Compiled:
        if kind in (list, tuple, set, frozenset):
            return self._list(kind, Any)
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            return self._named_tuple(kind)
        if issubclass(kind, abc.Mapping) and not typing.is_typeddict(kind):
            return self._dict(str, Any)
        if issubclass(kind, enum.Enum):
            return _enum(kind)
        if issubclass(kind, pathlib.PurePath):
            return _converted(str, kind, "path"), {"type": "string"}
        if _is_pydantic(kind):
            return _pydantic(kind)
        if hasattr(kind, "__struct_fields__"):
            return _msgspec(kind)
        fields = _fields(kind)
        if fields is None:
            raise TypeError(
                f"{kind.__qualname__} can't be read from JSON; use a dataclass, a TypedDict, or a "
                "pydantic or msgspec model"
            )
        return self._named(kind, fields)

    def _named(self, kind: type, fields: list[_Field]) -> Compiled:
        if kind not in self._known:
            name = kind.__name__
            while name in self.definitions:
                name += "_"
            self._known[kind] = ([], name)
            self.definitions[name] = {}
            made, self.definitions[name] = self._object(kind, fields)
            self._known[kind][0].append(made)
        readers, name = self._known[kind]

        def read(value: Any, path: str, violations: Violations) -> Any:
            return readers[0](value, path, violations)

        return read, {"$ref": f"#/$defs/{name}"}

    def _object(self, kind: type, fields: list[_Field]) -> tuple[Read, Schema]:
        compiled = [(field, *self.compile(field.annotation)) for field in fields]
        required = [field.name for field in fields if field.required]
        schema: Schema = {
            "type": "object",
            "title": kind.__name__,
            "properties": {field.name: schema for field, _, schema in compiled},
        }
        if required:
            schema["required"] = required
        make: Callable[..., Any] = dict if typing.is_typeddict(kind) else kind

        def read(value: Any, path: str, violations: Violations) -> Any:
            if type(value) is not dict:
                return _mismatch(value, path, violations, "object")
            count, made = len(violations), {}
            for field, reader, _ in compiled:
                if field.name in value:
                    found = value[field.name]
                    below = f"{path}/{_escape(field.name)}"
                    made[field.name] = found if reader is None else reader(found, below, violations)
                elif field.required:
                    violations.append((f"{path}/{_escape(field.name)}", "is missing"))
            if len(violations) > count:
                return INVALID
            return _construct(make, made, path, violations)

        return read, schema

    def _union(self, args: tuple[Any, ...]) -> Compiled:
        members = [self.compile(arg) for arg in args]
        if any(reader is None for reader, _ in members):
            return None, {}
        readers = [reader for reader, _ in members if reader is not None]

        def read(value: Any, path: str, violations: Violations) -> Any:
            best: Violations | None = None
            for reader in readers:
                tried: Violations = []
                made = reader(value, path, tried)
                if not tried:
                    return made
                # Report the violations of the member that matched furthest.
                if best is None or len(tried[0][0]) > len(best[0][0]):
                    best = tried
            violations.extend(best or [])
            return INVALID

        return read, {"anyOf": [schema for _, schema in members]}

    def _list(self, make: type, item: Any) -> Compiled:
        reader, schema = self.compile(item)

        def read(value: Any, path: str, violations: Violations) -> Any:
            if type(value) is not list:
                return _mismatch(value, path, violations, "array")
            if reader is None:
                return value if make is list else _construct(make, value, path, violations)
            made = [
                reader(found, f"{path}/{index}", violations) for index, found in enumerate(value)
            ]
            return made if make is list else _construct(make, made, path, violations)

        return read, {"type": "array", "items": schema} if schema else {"type": "array"}

    def _named_tuple(self, kind: Any) -> Compiled:
        """Reads an array, because a ``NamedTuple`` is written as one."""
        hints = typing.get_type_hints(kind, include_extras=True)
        return self._tuple(tuple(hints.get(name, Any) for name in kind._fields), kind._make)

    def _tuple(
        self, args: tuple[Any, ...], make: Callable[[Iterable[Any]], Any] = tuple
    ) -> Compiled:
        if len(args) == 2 and args[1] is Ellipsis:
            return self._list(tuple, args[0])
        items = [self.compile(arg) for arg in args if arg != ()]

        def read(value: Any, path: str, violations: Violations) -> Any:
            if type(value) is not list:
                return _mismatch(value, path, violations, "array")
            if len(value) != len(items):
                violations.append((path, f"has {len(value)} items instead of {len(items)}"))
                return INVALID
            return make(
                found if reader is None else reader(found, f"{path}/{index}", violations)
                for index, (found, (reader, _)) in enumerate(zip(value, items, strict=True))
            )

        prefix = [schema for _, schema in items]
        return read, {"type": "array", "prefixItems": prefix, "items": False}

    def _dict(self, key: Any, item: Any) -> Compiled:
        if key not in (str, Any):
            raise TypeError(f"keys of JSON objects are strings, not {key!r}")
        reader, schema = self.compile(item)

        def read(value: Any, path: str, violations: Violations) -> Any:
            if type(value) is not dict:
                return _mismatch(value, path, violations, "object")
            if reader is None:
                return value
            return {
                name: reader(found, f"{path}/{_escape(name)}", violations)
                for name, found in value.items()
            }

        if not schema:
            return read, {"type": "object"}
        return read, {"type": "object", "additionalProperties": schema}


def _fields(kind: type) -> list[_Field] | None:
    """The fields of a dataclass or ``TypedDict``; ``None`` for other classes."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return [
            _Field(
                field.name,
                hints[field.name],
                field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING,
            )
            for field in dataclasses.fields(kind)
            if field.init
        ]
    if typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        required: frozenset[str] = getattr(kind, "__required_keys__", frozenset())
        return [
            _Field(name, hint, _is_required(hint, name in required)) for name, hint in hints.items()
        ]
    return None


def _is_required(hint: Any, otherwise: bool) -> bool:
    """Whether a key is required. ``__required_keys__`` ignores string annotations, so the hint
    decides."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _is_required(typing.get_args(hint)[0], otherwise)
    if origin in (typing.Required, typing.NotRequired):
        return origin is typing.Required
    return otherwise


def _escape(name: str) -> str:
    """Escapes a segment of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer"}
    return "null" if value is None else names.get(type(value), "number")


def _mismatch(value: Any, path: str, violations: Violations, expected: str) -> Any:
    violations.append((path, f"is {_json_type(value)} instead of {expected}"))
    return INVALID


def _construct(make: Callable[..., Any], value: Any, path: str, violations: Violations) -> Any:
    """Calls a constructor. An exception is a violation."""
    try:
        return make(**value) if isinstance(value, dict) else make(value)
    except (TypeError, ValueError) as error:
        violations.append((path, str(error) or type(error).__name__))
        return INVALID


def _exactly(fits: Callable[[Any], bool], expected: str) -> Read:
    def read(value: Any, path: str, violations: Violations) -> Any:
        return value if fits(value) else _mismatch(value, path, violations, expected)

    return read


def _float(value: Any, path: str, violations: Violations) -> Any:
    if type(value) is float:
        return value
    return float(value) if type(value) is int else _mismatch(value, path, violations, "number")


def _converted(takes: type | tuple[type, ...], make: Callable[[Any], Any], name: str) -> Read:
    """Reads a value that is constructed from a string or a number."""

    def read(value: Any, path: str, violations: Violations) -> Any:
        if not isinstance(value, takes) or isinstance(value, bool):
            return _mismatch(value, path, violations, name)
        try:
            return make(value)
        except (ValueError, TypeError, ArithmeticError):
            violations.append((path, f"is not a valid {name}: {value!r}"))
            return INVALID

    return read


def _literal(values: tuple[Any, ...]) -> Compiled:
    def read(value: Any, path: str, violations: Violations) -> Any:
        for known in values:
            if value == known and type(value) is type(known):
                return known
        violations.append((path, f"is {value!r} instead of one of {list(values)!r}"))
        return INVALID

    return read, {"enum": list(values)}


def _enum(kind: type[enum.Enum]) -> Compiled:
    members = {(type(member.value), member.value): member for member in kind}

    def read(value: Any, path: str, violations: Violations) -> Any:
        try:
            return members[type(value), value]
        except (KeyError, TypeError):
            known = [member.value for member in kind]
            violations.append((path, f"is {value!r} instead of one of {known!r}"))
            return INVALID

    return read, {"title": kind.__name__, "enum": [member.value for member in kind]}


def _is_pydantic(kind: Any) -> bool:
    return hasattr(kind, "__pydantic_core_schema__") or hasattr(kind, "__pydantic_validator__")


def _pydantic(kind: Any) -> Compiled:
    pydantic = sys.modules["pydantic"]
    adapter = pydantic.TypeAdapter(kind)

    def read(value: Any, path: str, violations: Violations) -> Any:
        try:
            return adapter.validate_python(value)
        except pydantic.ValidationError as error:
            for problem in error.errors(include_url=False):
                below = "".join(f"/{_escape(str(part))}" for part in problem["loc"])
                missing = problem["type"] == "missing"
                violations.append((path + below, "is missing" if missing else problem["msg"]))
            return INVALID

    return read, adapter.json_schema()


def _msgspec(kind: type) -> Compiled:
    msgspec = sys.modules["msgspec"]

    def read(value: Any, path: str, violations: Violations) -> Any:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            text, _, where = str(error).partition(" - at `$")
            below = where.rstrip("`").replace("[", "/").replace("]", "").replace(".", "/")
            violations.append((path + below, text))
            return INVALID

    return read, msgspec.json.schema(kind)


def _text(form: str) -> Schema:
    return {"type": "string", "format": form}


_SCALARS: dict[Any, Compiled] = {
    bool: (_exactly(lambda value: type(value) is bool, "boolean"), {"type": "boolean"}),
    int: (_exactly(lambda value: type(value) is int, "integer"), {"type": "integer"}),
    float: (_float, {"type": "number"}),
    str: (_exactly(lambda value: type(value) is str, "string"), {"type": "string"}),
    datetime.datetime: (
        _converted(str, datetime.datetime.fromisoformat, "date-time"),
        _text("date-time"),
    ),
    datetime.date: (_converted(str, datetime.date.fromisoformat, "date"), _text("date")),
    datetime.time: (_converted(str, datetime.time.fromisoformat, "time"), _text("time")),
    datetime.timedelta: (
        _converted((int, float), lambda value: datetime.timedelta(seconds=value), "seconds"),
        {"type": "number"},
    ),
    uuid.UUID: (_converted(str, uuid.UUID, "uuid"), _text("uuid")),
    decimal.Decimal: (_converted((str, int), decimal.Decimal, "decimal"), {"type": "string"}),
    bytes: (
        _converted(str, lambda value: base64.b64decode(value, validate=True), "base64"),
        {"type": "string", "contentEncoding": "base64"},
    ),
}
