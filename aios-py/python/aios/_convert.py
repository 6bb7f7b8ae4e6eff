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

    def read(self, value: Any, what: str = "parameters") -> Any:
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
                f"the {what} do not fit: {text}",
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
        return sorted(value)
    if isinstance(value, Iterable):
        return list(value)
    raise TypeError(f"a {type(value).__qualname__} can't be JSON")
