"""Python types from JSON and back, and JSON Schema from annotations.

Known are ``Any``, ``None``, ``bool``, ``int``, ``float``, ``str``, ``list``, ``tuple``, ``set``,
``dict``, unions, ``Literal``, enums, dataclasses, ``TypedDict``, ``NamedTuple``, ``datetime``,
``date``, ``time``, ``timedelta`` (seconds), ``UUID``, ``Decimal``, ``Path``, ``bytes`` (base64), and,
where they are installed, models of pydantic and msgspec.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from ._errors import InvalidParametersError


class Converter:
    """Reads one type from JSON.

    Attributes:
        schema: JSON Schema (2020-12) of the type.
        is_trivial: Whether every JSON value fits and stays as it is.
    """

    __slots__ = ("_read", "is_trivial", "schema")

    def __init__(self, annotation: Any) -> None:
        from ._schema import Compiler

        compiler = Compiler()
        read, schema = compiler.compile(annotation)
        if compiler.definitions:
            schema = {**schema, "$defs": compiler.definitions}
        self._read = read
        self.schema: dict[str, Any] = schema
        self.is_trivial = read is None

    def accepts(self, value: Any) -> bool:
        """Whether the value fits."""
        faults: list[tuple[str, str]] = []
        if self._read is not None:
            self._read(value, "", faults)
        return not faults

    def read(self, value: Any, what: str = "the parameters") -> Any:
        """The value as the type.

        Raises:
            InvalidParametersError: It does not fit; ``details`` name the path of every fault.
        """
        if self._read is None:
            return value
        faults: list[tuple[str, str]] = []
        made = self._read(value, "", faults)
        if faults:
            text = "; ".join(f"{path or '/'}: {fault}" for path, fault in faults)
            raise InvalidParametersError(
                f"{what} {'do' if what.endswith('s') else 'does'} not fit: {text}",
                details=[{"path": path, "fault": fault} for path, fault in faults],
                retryable=False,
            )
        return made


def to_plain(value: Any) -> Any:
    """Makes what JSON does not know of what it knows; called for everything else by Rust."""
    kind = type(value)
    fields = getattr(kind, "__dataclass_fields__", None)
    if hasattr(kind, "__pydantic_serializer__"):
        if hasattr(value, "model_dump"):
            return value.model_dump(mode="json")
        return sys.modules["pydantic"].TypeAdapter(kind).dump_python(value, mode="json")
    if fields is not None:
        return {name: getattr(value, name) for name in fields}
    if hasattr(kind, "__struct_fields__"):
        return sys.modules["msgspec"].to_builtins(value)
    return _to_plain_standard(value)


def _to_plain_standard(value: Any) -> Any:
    import base64
    import datetime
    import decimal
    import enum
    import pathlib
    import uuid

    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, (uuid.UUID, decimal.Decimal, pathlib.PurePath)):
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return _in_order(value)
    plain = _to_plain_array(value)
    if plain is not None:
        return plain
    if isinstance(value, Iterable):
        return list(value)
    raise TypeError(f"{_a(type(value).__qualname__)} can't be JSON")


def _in_order(values: Iterable[Any]) -> list[Any]:
    """The same list for equal sets, in every process."""
    try:
        return sorted(values)
    except TypeError:
        from ._aios import dumps

        return sorted(values, key=dumps)


def _to_plain_array(value: Any) -> Any:
    """Arrays and numbers of numpy and its like, which need not be installed."""
    if hasattr(value, "dtype") and callable(getattr(value, "tolist", None)):
        return value.tolist()
    if hasattr(value, "__index__"):
        return int(value)
    return None


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def digits(number: int) -> str:
    """Decimal digits of an integer of any size; Python writes at most 4,300."""
    import decimal

    return f"{decimal.Decimal(int(number)):f}"


def loads(text: str) -> Any:
    """Reads JSON that has numbers beyond 64 bits, or is nested deeper than Rust reads."""
    import json

    return json.loads(text, parse_int=_integer, parse_float=_number, parse_constant=_no_number)


def _integer(text: str) -> int:
    import decimal

    try:
        return int(text)
    except ValueError:
        # Longer than Python reads.
        return int(decimal.Decimal(text))


def _number(text: str) -> Any:
    """A ``float``, or a ``Decimal`` for what is beyond one."""
    import decimal
    import math

    number = float(text)
    if math.isfinite(number):
        return number
    try:
        return decimal.Decimal(text)
    except decimal.InvalidOperation:
        # Beyond what a Decimal knows.
        return number


def _no_number(text: str) -> Any:
    raise ValueError(f"JSON has no {text}")
