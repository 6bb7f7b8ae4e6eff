"""Conversion between JSON and Python types, and JSON Schemas of annotations.

Supported are ``Any``, ``None``, ``bool``, ``int``, ``float``, ``str``, ``list``, ``tuple``, ``set``,
``dict``, ``deque``, ``OrderedDict``, ``Counter``, unions, ``Literal``, enums, dataclasses, ``TypedDict``
and ``NamedTuple``, also generic ones, ``datetime``, ``date``, ``time``, ``timedelta`` (seconds),
``UUID``, ``Decimal``, ``Path``, ``bytes`` and ``bytearray`` (base64), and models of pydantic and msgspec
if these are installed. Models are written as they are read: under the names of fields, without the computed
fields of pydantic, and a ``pydantic.Json`` as a string. A value from which only a part would be written is
refused: a secret, NaN and infinity, a ``time`` in a zone whose offset depends on the date, and a model, or a
dataclass whose ``__post_init__`` changes it, that would be read as something else. A ``datetime`` keeps its
offset from UTC, and not the name of its zone.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Awaitable, Iterable, Iterator, Mapping, MappingView, Sequence, Set
from typing import Any

from .._errors import InvalidParametersError
from .losses import SECRET_REMEDY, check_dumped, is_secret

#: Types that are written as the list of their items. Other objects may have more than these.
_LISTS: tuple[Any, ...] = (Sequence, Set, MappingView, Iterator)


class Converter:
    """Converts JSON values to one type.

    Attributes:
        schema: JSON Schema (2020-12) of the type.
        is_trivial: Whether every JSON value matches and needs no conversion.
    """

    __slots__ = ("_read", "is_trivial", "schema")

    def __init__(self, annotation: Any) -> None:
        from .schema import Compiler

        compiler = Compiler()
        try:
            read, schema = compiler.compile(annotation)
        except TypeError:
            raise
        except Exception as error:
            # Of an alias whose value can't be evaluated, say, or of the code of a class.
            raise TypeError(f"{annotation!r} can't be read from JSON: {error}") from error
        if compiler.definitions:
            schema = {**schema, "$defs": compiler.definitions}
        self._read = read
        self.schema: dict[str, Any] = schema
        self.is_trivial = read is None

    def accepts(self, value: Any) -> bool:
        """Whether the value matches the type."""
        violations: list[tuple[str, str]] = []
        if self._read is not None:
            self._read(value, "", violations)
        return not violations

    def read(self, value: Any, what: str = "the parameters") -> Any:
        """Converts a value.

        Raises:
            InvalidParametersError: It does not match the type; ``details`` lists every violation with
                its path.
        """
        if self._read is None:
            return value
        violations: list[tuple[str, str]] = []
        converted = self._read(value, "", violations)
        if violations:
            text = "; ".join(f"{path or '/'}: {message}" for path, message in violations)
            verb = "do" if what == "the parameters" else "does"
            raise InvalidParametersError(
                f"{what} {verb} not match: {text}",
                details=[{"path": path, "fault": message} for path, message in violations],
                retryable=False,
            )
        return converted


def root_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with the definition that it refers to at its root, because providers want an object
    there."""
    reference = schema.get("$ref")
    if not isinstance(reference, str):
        return schema
    definitions = schema.get("$defs", {})
    name = reference.rpartition("/")[2]
    return {**definitions[name], "$defs": definitions}


def to_plain(value: Any) -> Any:
    """Converts a value that is not a JSON type to one that is. Called by the native module."""
    kind = type(value)
    if isinstance(value, enum.Enum):
        # Also one that is a dataclass, say, as well.
        return value.value
    if hasattr(kind, "__pydantic_serializer__") and not is_secret(value):
        return _dumped(value)
    if hasattr(kind, "__dataclass_fields__"):
        from .subclasses import check_fields

        check_fields(value)
        # Without class variables, unlike that attribute.
        fields = sys.modules["dataclasses"].fields(kind)
        return _checked(value, {field.name: getattr(value, field.name) for field in fields})
    if hasattr(kind, "__struct_fields__"):
        return _built(value)
    return _to_plain_standard(value)


def _dumped(value: Any) -> Any:
    """Converts an object of pydantic."""
    from .readers import pydantic_dump
    from .verify import check_readable

    plain = pydantic_dump(value)
    check_dumped(value, plain)
    check_readable(value, plain)
    return plain


def _checked(value: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass, checked if its code may change what it is made of."""
    from .verify import is_checked, plain_fields

    return plain_fields(value, fields) if is_checked(type(value)) else fields


def _built(value: Any) -> Any:
    """Converts an object of msgspec."""
    from .verify import check_readable

    plain = sys.modules["msgspec"].to_builtins(value, str_keys=True)
    check_readable(value, plain)
    return plain


def _to_plain_standard(value: Any) -> Any:
    import base64
    import datetime
    import decimal
    import pathlib
    import uuid

    if isinstance(value, datetime.time) and value.tzinfo is not None and value.utcoffset() is None:
        raise TypeError(f"the time zone {value.tzinfo} of a time has no fixed offset from UTC")
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return _seconds(value)
    if isinstance(value, (uuid.UUID, decimal.Decimal, pathlib.PurePath)):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return _in_order(value)
    plain = _to_plain_array(value)
    if plain is not None:
        return plain
    # An awaitable is also an iterator if it is awaited natively.
    if isinstance(value, _LISTS) and not isinstance(value, Awaitable):
        return list(value)
    remedy = _remedy(value)
    raise TypeError(
        f"{type(value).__qualname__} is not JSON-serialisable{remedy and f': {remedy}'}"
    )


def _remedy(value: Any) -> str:
    """The remedy for a value that is not JSON-serialisable."""
    if is_secret(value):
        return SECRET_REMEDY
    if getattr(value, "code", None) == "CONTINUED_AS_NEW":
        return "write `raise` instead of `return`"
    if isinstance(value, Awaitable):
        return "write `await` before it, in an `async def`"
    if isinstance(value, Iterable):
        return "pass a list of its items, or a dict of its parts"
    return ""


def _seconds(delta: Any) -> float:
    """The length of a ``timedelta``, if it is read again from a float."""
    seconds: float = delta.total_seconds()
    try:
        is_exact = type(delta)(seconds=seconds) == delta
    except OverflowError:
        # Rounded up to more than the greatest one.
        is_exact = False
    if not is_exact:
        raise TypeError(
            "a timedelta of more than 270 years with microseconds is not exact as a float"
        )
    return seconds


def _in_order(values: Iterable[Any]) -> list[Any]:
    """Sorts a set: equal sets give equal lists in every process. Others than numbers and texts are sorted
    as JSON, because they may have no order, or a partial one such as that of sets."""
    if {type(value) for value in values} in ({int}, {float}, {str}):
        return sorted(values)
    from .._aios import dumps

    return sorted(values, key=dumps)


def _to_plain_array(value: Any) -> Any:
    """Converts arrays and numbers of numpy and similar libraries, without importing them."""
    if isinstance(value, type):
        # Its attributes are those of its objects.
        return None
    if hasattr(value, "dtype") and callable(getattr(value, "tolist", None)):
        return value.tolist()
    if hasattr(value, "__index__"):
        return int(value)
    return None


def digits(number: int) -> str:
    """Decimal digits of an integer of any size; ``str`` is limited to 4,300."""
    import decimal

    number = int(number)
    with decimal.localcontext() as context:
        context.prec, context.Emax, context.Emin = (
            decimal.MAX_PREC,
            decimal.MAX_EMAX,
            decimal.MIN_EMIN,
        )
        made = _decimal(abs(number), {})
    return f"-{made:f}" if number < 0 else f"{made:f}"


#: Number of bits and digits of an integer that are converted at once, in quadratic time. ``int`` can't be
#: limited to fewer digits.
_BITS, _DIGITS = 8192, 512


def _decimal(number: int, powers: dict[int, Any]) -> Any:
    """A ``Decimal``, of two halves whose product takes less than quadratic time. ``powers`` keeps the
    powers of two."""
    import decimal

    if number.bit_length() <= _BITS:
        return decimal.Decimal(number)
    half = _BITS
    while 2 * half < number.bit_length():
        half *= 2
    if half not in powers:
        powers[half] = decimal.Decimal(2) ** half
    high, low = number >> half, number & ((1 << half) - 1)
    return _decimal(high, powers) * powers[half] + _decimal(low, powers)


def loads(text: str) -> Any:
    """Reads JSON with numbers beyond 64 bits, or that is nested too deeply for the native reader."""
    import json

    return json.loads(text, parse_int=_integer, parse_float=_number, parse_constant=_no_number)


def _integer(text: str) -> int:
    if len(text) <= _DIGITS:
        return int(text)
    # Longer than `int` may accept.
    if text.startswith("-"):
        return -_natural(text[1:], {})
    return _natural(text, {})


def _natural(text: str, powers: dict[int, int]) -> int:
    """An integer, of two halves whose product takes less than quadratic time. ``powers`` keeps the powers of
    ten."""
    if len(text) <= _DIGITS:
        return int(text)
    half = _DIGITS
    while 2 * half < len(text):
        half *= 2
    if half not in powers:
        powers[half] = 10**half
    return _natural(text[:-half], powers) * powers[half] + _natural(text[-half:], powers)


def _number(text: str) -> Any:
    """A ``float``, or a ``Decimal`` if a float would overflow."""
    import decimal
    import math

    number = float(text)
    if math.isfinite(number):
        return number
    try:
        return decimal.Decimal(text)
    except decimal.InvalidOperation:
        # Out of range for a Decimal too.
        return number


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not valid JSON")
