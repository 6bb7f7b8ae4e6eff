"""Converters from JSON to types without parts, and to models of other libraries."""

from __future__ import annotations

import base64
import contextlib
import datetime
import decimal
import enum
import math
import sys
import typing
import uuid
from collections.abc import Callable
from typing import Any

Violations = list[tuple[str, str]]
#: Converts the value at a path. On violations, appends them and returns :data:`INVALID`.
Read = Callable[[Any, str, Violations], Any]
Schema = dict[str, Any]
Compiled = tuple[Read | None, Schema]

INVALID: Any = object()


def escape(name: str) -> str:
    """Escapes a segment of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def json_type(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer"}
    return "null" if value is None else names.get(type(value), "number")


def mismatch(value: Any, path: str, violations: Violations, expected: str) -> Any:
    violations.append((path, f"is {json_type(value)} instead of {expected}"))
    return INVALID


def construct(make: Callable[..., Any], value: Any, path: str, violations: Violations) -> Any:
    """Calls a constructor. An exception is a violation."""
    try:
        return make(**value) if isinstance(value, dict) else make(value)
    except (TypeError, ValueError) as error:
        violations.append((path, str(error) or type(error).__name__))
        return INVALID
    except Exception as error:
        return raised(error, path, violations)


def raised(error: Exception, path: str, violations: Violations) -> Any:
    """Notes an exception of the code of a class. It may have no text, or only a key. A ``StopIteration``
    would end the ``await`` of an operation as if that had no result."""
    violations.append((path, f"{type(error).__name__}: {error}".removesuffix(": ")))
    return INVALID


def exactly(fits: Callable[[Any], bool], expected: str) -> Read:
    def read(value: Any, path: str, violations: Violations) -> Any:
        return value if fits(value) else mismatch(value, path, violations, expected)

    return read


def read_float(value: Any, path: str, violations: Violations) -> Any:
    if type(value) is float:
        return value
    if type(value) not in (int, decimal.Decimal):
        return mismatch(value, path, violations, "number")
    with contextlib.suppress(OverflowError):
        number = float(value)
        if math.isfinite(number):
            return number
    violations.append((path, "is out of the range of a float"))
    return INVALID


def converted(takes: type | tuple[type, ...], make: Callable[[Any], Any], name: str) -> Read:
    """Reads a value that is constructed from a string or a number."""

    def read(value: Any, path: str, violations: Violations) -> Any:
        if not isinstance(value, takes) or isinstance(value, bool):
            return mismatch(value, path, violations, name)
        try:
            return make(value)
        except (ValueError, TypeError, ArithmeticError):
            violations.append((path, f"is not a valid {name}: {value!r}"))
            return INVALID

    return read


def literal(values: tuple[Any, ...]) -> Compiled:
    from .._aios import dumps, loads

    # Values may be members of an enum or bytes, which are other values in JSON.
    members = {dumps(value): value for value in values}
    plain = [loads(text) for text in members]
    if len(members) < len(values):
        raise TypeError(f"values of Literal{list(values)!r} can't be told apart in JSON")

    def read(value: Any, path: str, violations: Violations) -> Any:
        text = dumps(value)
        if text in members:
            return members[text]
        violations.append((path, f"is {value!r} instead of one of {plain!r}"))
        return INVALID

    return read, {"enum": plain}


def enumeration(kind: type[enum.Enum]) -> Compiled:
    from .._aios import dumps, loads

    # Values may be tuples or times, say, which are arrays and strings in JSON.
    members = {dumps(member.value): member for member in kind}
    is_flag = issubclass(kind, enum.Flag)
    plain = [loads(text) for text in members]

    def read(value: Any, path: str, violations: Violations) -> Any:
        member = members.get(dumps(value))
        if member is not None:
            return member
        try:
            # A negative integer would be the complement of a flag, which is never written.
            if not is_flag or type(value) is not int or value < 0:
                raise ValueError
            return kind(value)
        except ValueError:
            violations.append((path, f"is {value!r} instead of one of {plain!r}"))
            return INVALID
        except Exception as error:
            # Of its `_missing_`.
            return raised(error, path, violations)

    # The members of a flag can be combined.
    schema = {"type": "integer", "minimum": 0} if is_flag else {"enum": plain}
    return read, {"title": kind.__name__, **schema}


def pydantic_model(kind: Any) -> Compiled:
    pydantic = sys.modules["pydantic"]
    try:
        read = pydantic_reader(kind)
        # The names of fields, as they are written.
        schema = pydantic.TypeAdapter(kind).json_schema(by_alias=not _knows_names())
    except Exception as error:
        message = getattr(error, "message", error)
        raise TypeError(f"{kind!r} can't be read from JSON: {message}") from error
    return read, schema


def _knows_names() -> bool:
    """Whether pydantic can read fields by their names, although they have aliases: from 2.11 on."""
    return "by_name" in (sys.modules["pydantic"].TypeAdapter.validate_python.__kwdefaults__ or {})


def pydantic_dump(value: Any) -> Any:
    """JSON that pydantic makes of a value: without aliases, if it can read that."""
    options = {"mode": "json", "round_trip": True, "by_alias": not _knows_names()}
    if hasattr(value, "model_dump"):
        return value.model_dump(**options)
    return sys.modules["pydantic"].TypeAdapter(type(value)).dump_python(value, **options)


def pydantic_reader(kind: Any) -> Read:
    """Reads values by the names of their fields, as they are written, and else by their aliases too, as
    other programs write them."""
    from .._aios import dumps

    pydantic = sys.modules["pydantic"]
    adapter = pydantic.TypeAdapter(kind)
    known: Any = adapter.validate_python.__kwdefaults__ or {}
    options = {"by_name": True, "by_alias": True} if "by_name" in known else {}
    # The name of a field may be the alias of another one.
    written = {"by_name": True, "by_alias": False, "extra": "forbid"}

    def read(value: Any, path: str, violations: Violations) -> Any:
        if "extra" in known:
            with contextlib.suppress(Exception):
                return adapter.validate_python(value, **written)
        with contextlib.suppress(Exception):
            return adapter.validate_python(value, **options)
        try:
            # A strict type reads a time, say, from a string of JSON only.
            return adapter.validate_json(dumps(value), **options)
        except Exception as error:
            return _refused(error, path, violations)

    return read


def pydantic_check(annotation: Any) -> Read:
    """Checks a value that has been read."""
    adapter = sys.modules["pydantic"].TypeAdapter(annotation)
    options = {"by_name": True, "by_alias": True} if _knows_names() else {}

    def check(value: Any, path: str, violations: Violations) -> Any:
        try:
            return adapter.validate_python(value, **options)
        except Exception as error:
            return _refused(error, path, violations)

    return check


def _refused(error: Any, path: str, violations: Violations) -> Any:
    """Notes what pydantic has raised."""
    if not isinstance(error, sys.modules["pydantic"].ValidationError):
        return raised(error, path, violations)
    for problem in error.errors(include_url=False):
        below = "".join(f"/{escape(str(part))}" for part in problem["loc"])
        missing = problem["type"] == "missing"
        violations.append((path + below, "is missing" if missing else problem["msg"]))
    return INVALID


def msgspec_struct(kind: Any) -> Compiled:
    msgspec = sys.modules["msgspec"]
    try:
        schema = msgspec.json.schema(kind)
    except Exception as error:
        raise TypeError(f"{kind!r} can't be read from JSON: {error}") from error
    return msgspec_reader(kind), schema


def msgspec_reader(kind: Any) -> Read:
    msgspec = sys.modules["msgspec"]

    def read(value: Any, path: str, violations: Violations) -> Any:
        try:
            return msgspec.convert(value, kind, str_keys=True)
        except msgspec.ValidationError as error:
            text, _, where = str(error).partition(" - at `$")
            below = where.rstrip("`").replace("[", "/").replace("]", "").replace(".", "/")
            violations.append((path + below, text))
            return INVALID
        except Exception as error:
            return raised(error, path, violations)

    return read


def text_of(form: str) -> Schema:
    return {"type": "string", "format": form}


SCALARS: dict[Any, Compiled] = {
    bool: (exactly(lambda value: type(value) is bool, "boolean"), {"type": "boolean"}),
    int: (exactly(lambda value: type(value) is int, "integer"), {"type": "integer"}),
    float: (read_float, {"type": "number"}),
    str: (exactly(lambda value: type(value) is str, "string"), {"type": "string"}),
    datetime.datetime: (
        converted(str, datetime.datetime.fromisoformat, "date-time"),
        text_of("date-time"),
    ),
    datetime.date: (converted(str, datetime.date.fromisoformat, "date"), text_of("date")),
    datetime.time: (converted(str, datetime.time.fromisoformat, "time"), text_of("time")),
    datetime.timedelta: (
        converted((int, float), lambda value: datetime.timedelta(seconds=value), "seconds"),
        {"type": "number"},
    ),
    uuid.UUID: (converted(str, uuid.UUID, "uuid"), text_of("uuid")),
    decimal.Decimal: (
        converted((str, int), decimal.Decimal, "decimal"),
        {"anyOf": [{"type": "string"}, {"type": "integer"}]},
    ),
    bytearray: (
        converted(str, lambda value: bytearray(base64.b64decode(value, validate=True)), "base64"),
        {"type": "string", "contentEncoding": "base64"},
    ),
    bytes: (
        converted(str, lambda value: base64.b64decode(value, validate=True), "base64"),
        {"type": "string", "contentEncoding": "base64"},
    ),
}
SCALARS[typing.LiteralString] = SCALARS[str]
