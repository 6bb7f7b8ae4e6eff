"""Values of annotations with constraints of pydantic and msgspec are read as they were written."""

from __future__ import annotations

import base64
import collections
import dataclasses
import datetime
import enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType

import aios
import msgspec
import pydantic
import pytest
from aios._aios import dumps, loads
from aios._types.convert import Converter
from pydantic import Field


class Corner(enum.Enum):
    TOP = (0, 1)


@dataclasses.dataclass
class Inner:
    data: bytes
    length: datetime.timedelta = datetime.timedelta(0)
    count: int = dataclasses.field(init=False, default=0)


@dataclasses.dataclass
class Outer:
    data: Annotated[bytes, Field(max_length=100)]
    next: Annotated[Outer | None, Field(description="The next.")] = None


@dataclasses.dataclass
class Chain:
    size: Annotated[int, Field(ge=0)]
    next: Annotated[Chain | None, Field(description="The next.")] = None


class Pair(NamedTuple):
    key: bytes
    value: int


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"


def counted() -> Inner:
    value = Inner(b"abc")
    value.count = 7
    return value


def incremented(value: int) -> int:
    return value + 1


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Annotated[bytes, Field(max_length=100)], b"abc"),
        (Annotated[bytes, Field(max_length=3)], b"abc"),
        (Annotated[bytes | None, Field(max_length=3)], b"abc"),
        (Annotated[dict[str, bytes], Field(min_length=1)], {"a": b"abc"}),
        (Annotated[list[Annotated[bytes, Field(max_length=3)]], Field(max_length=1)], [b"abc"]),
        (Annotated[Inner, Field()], counted()),
        (Annotated[Inner | None, Field(description="x")], Inner(b"abc")),
        (Annotated[Pair, Field()], Pair(b"abc", 1)),
        (Annotated[Corner, Field(description="x")], Corner.TOP),
        (Annotated[Chain, Field()], Chain(1, Chain(2))),
        (Annotated[Cat | Dog, Field(discriminator="kind")], Dog()),
        (Annotated[list[Cat], Field(min_length=1)], [Cat(lives=3)]),
        (Annotated[datetime.timedelta, Field(gt=datetime.timedelta(0))], datetime.timedelta(1)),
        (pydantic.Base64Bytes, b"abc"),
        (Outer, Outer(b"abc", Outer(b"def"))),
        (Chain, Chain(1, Chain(2))),
        (Annotated[datetime.timedelta, msgspec.Meta()], datetime.timedelta(1)),
        (Annotated[list[datetime.timedelta], msgspec.Meta(min_length=1)], [datetime.timedelta(1)]),
        (Annotated[bytes, msgspec.Meta(max_length=3)], b"abc"),
        (Annotated[Inner, msgspec.Meta()], counted()),
        (Annotated[Path, msgspec.Meta(description="x")], Path("a")),
        (Annotated[collections.deque[int], msgspec.Meta(description="x")], collections.deque([1])),
    ],
)
def test_should_read_what_was_written_for_an_annotation(kind: Any, value: Any) -> None:
    found = Converter(kind).read(loads(dumps(value)))
    assert (found, type(found)) == (value, type(value))
    if isinstance(value, Inner):
        assert found.count == value.count


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Annotated[bytes, Field(max_length=2)], b"abc"),
        # The text has as many characters as the constraint wants.
        (Annotated[bytes, Field(min_length=4)], b"abc"),
        (Annotated[dict[str, bytes], Field(min_length=1)], {}),
        (Annotated[list[Annotated[bytes, Field(max_length=2)]], Field(max_length=1)], [b"abc"]),
        (Annotated[datetime.timedelta, msgspec.Meta()], "x"),
        (Annotated[bytes, msgspec.Meta(max_length=2)], b"abc"),
        (Annotated[int, Field(ge=1)], 0),
    ],
)
def test_should_check_the_constraints_of_an_annotation(kind: Any, value: Any) -> None:
    with pytest.raises(aios.InvalidParametersError):
        Converter(kind).read(loads(dumps(value)))


def test_should_take_other_forms_that_the_library_of_an_annotation_takes() -> None:
    assert Converter(Annotated[int, Field(ge=1)]).read("5") == 5
    day = datetime.timedelta(1)
    for metadata in (Field(), msgspec.Meta()):
        assert Converter(Annotated[datetime.timedelta, metadata]).read("P1D") == day


def test_should_call_functions_of_an_annotation_once() -> None:
    items = list[Annotated[int, pydantic.AfterValidator(incremented)]]
    assert Converter(Annotated[items, Field(min_length=1)]).read([1]) == [2]
    incremental = Annotated[int, pydantic.AfterValidator(incremented)]
    name = NewType("name", incremental)  # pyright: ignore[reportGeneralTypeIssues]
    assert Converter(Annotated[list[name], Field(min_length=1)]).read([1]) == [2]
    hexadecimal = pydantic.BeforeValidator(lambda value: int(value, 16))
    assert Converter(Annotated[int, hexadecimal]).read("ff") == 255


def test_should_describe_bytes_of_an_annotation() -> None:
    schema = Converter(Annotated[bytes, Field(description="A key.", max_length=3)]).schema
    assert schema == {"type": "string", "contentEncoding": "base64", "description": "A key."}


class Hex(pydantic.EncoderProtocol):
    @classmethod
    def decode(cls, data: bytes) -> bytes:
        return bytes.fromhex(data.decode())

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value.hex().encode()

    @classmethod
    def get_json_format(cls) -> str:
        return "hex"


@pytest.mark.parametrize(
    "kind",
    [
        pydantic.Base64Str,
        Annotated[bytes, pydantic.EncodedBytes(encoder=Hex)],
        Annotated[bytes, pydantic.BeforeValidator(base64.b64decode)],
        Annotated[list[Annotated[bytes, pydantic.AfterValidator(bytes.upper)]], Field()],
    ],
)
def test_should_refuse_annotations_that_are_read_in_another_form(kind: Any) -> None:
    with pytest.raises(TypeError, match="is read in another form than it is written"):
        Converter(kind)
