"""Unions whose members JSON does not tell apart are refused; the others are read as they were written."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import uuid
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar

import aios
import msgspec
import pydantic
import pytest
from aios._aios import dumps, loads
from aios._types.convert import Converter


class Colour(enum.Enum):
    RED = "red"


class Text(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Right(enum.Flag):
    READ = 1


class Pair(NamedTuple):
    a: int
    b: str


T = TypeVar("T")


class Single(NamedTuple, Generic[T]):
    a: T


@dataclasses.dataclass
class Base:
    a: int


@dataclasses.dataclass
class Sub(Base):
    b: int = 0


@dataclasses.dataclass
class Same:
    a: int


@dataclasses.dataclass
class Real:
    a: float


@dataclasses.dataclass
class Named:
    a: str


@dataclasses.dataclass
class First:
    kind: Literal["first"]
    a: int


@dataclasses.dataclass
class Second:
    kind: Literal["second"]
    a: int


class Keys(TypedDict):
    a: int


class MoreKeys(TypedDict):
    a: int
    b: int


class Model(pydantic.BaseModel):
    a: int


class Twin(pydantic.BaseModel):
    a: int


class SubModel(Model):
    b: int = 0


class Struct(msgspec.Struct):
    a: int


class TwinStruct(msgspec.Struct):
    a: int


class Tagged(msgspec.Struct, tag=True):
    a: int


class OtherTagged(msgspec.Struct, tag=True):
    a: int


class Sparse(msgspec.Struct, omit_defaults=True):
    a: int
    b: int = 0


class Rows(msgspec.Struct, array_like=True):
    a: int
    b: str


class TaggedRows(msgspec.Struct, array_like=True, tag=True):
    a: int


class OtherTaggedRows(msgspec.Struct, array_like=True, tag=True):
    a: int


class Whole(pydantic.BaseModel):
    a: int


class Label(pydantic.BaseModel):
    a: str


class Time(pydantic.BaseModel):
    a: datetime.datetime


class Day(pydantic.BaseModel):
    a: datetime.date


class Digits(pydantic.BaseModel):
    a: Literal["1", "b"]


class Letters(pydantic.BaseModel):
    a: Literal["b"]


class TwoKeys(TypedDict, total=False):
    a: int
    b: int


class More(pydantic.BaseModel):
    a: int
    b: int


class Unset(msgspec.Struct):
    a: int | msgspec.UnsetType = msgspec.UNSET


class SomeKeys(TypedDict, total=False):
    a: int


class Extra(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    a: int = 0


class Hidden(pydantic.BaseModel):
    a: int = 0
    hidden: int = pydantic.Field(0, exclude=True)


class Uid(pydantic.RootModel[str]):
    pass


class Number(pydantic.RootModel[int | None]):
    pass


class Names(pydantic.RootModel[dict[str, str]]):
    pass


class Delay(pydantic.RootModel[datetime.timedelta]):
    pass


class Length(pydantic.BaseModel):
    a: datetime.timedelta


class MaybeLength(pydantic.BaseModel):
    a: datetime.timedelta | None = None


class LengthStruct(msgspec.Struct):
    a: datetime.timedelta


class LengthRows(msgspec.Struct, array_like=True):
    a: datetime.timedelta


DAY = datetime.date(2024, 1, 2)
DateName = NewType("DateName", datetime.date)


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        (str | datetime.date, "strings"),
        (datetime.date | str, "strings"),
        (datetime.datetime | datetime.date, "strings"),
        (str | uuid.UUID, "strings"),
        (bytes | str, "strings"),
        (Path | str, "strings"),
        (decimal.Decimal | str, "strings"),
        (DateName | str, "strings"),
        (datetime.date | None | str, "strings"),
        (list[str] | list[Annotated[datetime.date, "day"]], "arrays"),
        (list[str | datetime.date], "strings"),
        (float | datetime.timedelta, "numbers"),
        (Right | int, "integers"),
        (Colour | str, "values"),
        (str | Colour, "values"),
        (Colour | Text, "values"),
        (float | Level, "values"),
        (Literal[Colour.RED] | Literal["red"], "values"),
        (Literal["2024-01-02"] | datetime.date, "values"),
        (list[int] | set[int], "arrays"),
        (set[int] | frozenset[int], "arrays"),
        (list[int] | tuple[int, ...], "arrays"),
        (Pair | tuple[int, str], "arrays"),
        (Single[str] | Single[datetime.date], "arrays"),
        (list[str] | list[datetime.date], "arrays"),
        (list[float] | list[int], "arrays"),
        (list[Base] | list[Sub], "arrays"),
        (list[Keys] | list[MoreKeys], "arrays"),
        (dict[str, str] | dict[str, uuid.UUID], "objects"),
        (Base | Same, "objects"),
        (Real | Base, "objects"),
        (Base | None | Same, "objects"),
        (Model | Twin, "objects"),
        (Struct | TwinStruct, "objects"),
        (Struct | Sparse, "objects"),
        (Tagged | Sparse, "objects"),
        (Tagged | SomeKeys, "objects"),
        (list[Tagged] | list[Struct], "arrays"),
        (Sparse | dict[str, int], "objects"),
        (dict[str, int] | Sparse, "objects"),
        (Struct | Unset, "objects"),
        (Extra | dict[str, int], "objects"),
        (dict[str, int] | Extra, "objects"),
        (SomeKeys | Extra, "objects"),
        (Annotated[int, pydantic.Field(ge=1)] | str, "strings"),
        (list[Annotated[int, pydantic.Field(ge=1)]] | list[str], "arrays"),
        (Hidden | Struct, "objects"),
        (Sparse | Struct, "objects"),
        (TwoKeys | Struct, "objects"),
        (Extra | More, "objects"),
        (Whole | Label, "objects"),
        (list[Whole] | list[Label], "arrays"),
        (Time | Whole, "objects"),
        (Whole | Digits, "objects"),
        (Struct | Hidden, "objects"),
        (Uid | str, "strings"),
        (str | Uid, "strings"),
        (list[str] | list[Uid], "arrays"),
        (int | Number, "integers"),
        (None | Number, "nulls"),
        (Names | dict[str, str], "objects"),
        (Model | Names, "objects"),
        (str | Delay, "strings"),
        (Delay | float, "numbers"),
        (Named | Length, "objects"),
        (Named | MaybeLength, "objects"),
        (Named | LengthStruct, "objects"),
        (LengthStruct | Named, "objects"),
        (list[dict[str, str]] | list[Length], "arrays"),
        (LengthRows | tuple[str], "arrays"),
        (tuple[str] | LengthRows, "arrays"),
        (Rows | tuple[int, str], "arrays"),
        (tuple[int, str] | Rows, "arrays"),
        (Rows | Pair, "arrays"),
        (list[int] | Rows, "arrays"),
        (TaggedRows | list[int], "arrays"),
    ],
)
def test_should_refuse_members_that_json_does_not_tell_apart(kind: Any, form: str) -> None:
    with pytest.raises(TypeError, match=f"can't be told apart in JSON, where both are {form}; use"):
        Converter(kind)


def test_should_name_the_members_where_the_union_is_declared() -> None:
    with pytest.raises(aios.ConfigurationError) as raised:

        @aios.workflow("reads")
        async def read(context: aios.WorkflowContext, value: str | datetime.date) -> None: ...

    assert "str and date can't be told apart in JSON" in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int | decimal.Decimal, decimal.Decimal(5)),
        (decimal.Decimal | int, 5),
        (datetime.timedelta | int, 5),
        (float | int, 2**60 + 1),
        (Level | float | int, Level.LOW),
        (Text | str, Text.RED),
        (Colour | int, Colour.RED),
        (Literal["a"] | datetime.date, "a"),
        (Literal["a"] | datetime.date, DAY),
        (datetime.date | uuid.UUID, uuid.UUID(int=1)),
        (datetime.date | datetime.datetime, datetime.datetime(2024, 1, 2)),
        (list[int] | list[str], ["a"]),
        (tuple[int] | tuple[int, int], (1, 2)),
        (tuple[int, str] | tuple[str, datetime.date], ("a", DAY)),
        (dict[str, int] | dict[str, str], {"a": "b"}),
        (dict[str, Any] | Base, Base(1)),
        (Base | dict[str, Any], {"c": 1}),
        (Sub | Base, Base(1)),
        (Base | Sub, Sub(1, 0)),
        (Named | Base, Base(1)),
        (First | Second, Second("second", 1)),
        (list[First] | list[Second], [Second("second", 1)]),
        (list[Sub | Base] | list[Base], [Base(1)]),
        (Keys | MoreKeys, {"a": 1, "b": 2}),
        (MoreKeys | Keys, {"a": 1}),
        (Model | SubModel, SubModel(a=1, b=2)),
        (SubModel | Model, Model(a=1)),
        (Tagged | OtherTagged, OtherTagged(1)),
        (Struct | Tagged, Tagged(1)),
        (Tagged | Struct, Struct(1)),
        (Uid | int, 5),
        (int | Uid, Uid("a")),
        (Base | Uid, Uid("a")),
        (Rows | str, Rows(1, "a")),
        (Rows | dict[str, int], {"a": 1}),
        (TaggedRows | OtherTaggedRows, OtherTaggedRows(1)),
        (Whole | Day, Day(a=DAY)),
        (Base | Length, Length(a=datetime.timedelta(3))),
        (Base | LengthStruct, LengthStruct(datetime.timedelta(3))),
        (tuple[int] | LengthRows, LengthRows(datetime.timedelta(3))),
        (str | Annotated[int, pydantic.Field(ge=1)], "5"),
        (Annotated[int, msgspec.Meta(ge=1)] | str, "5"),
        (Annotated[int, pydantic.Field(ge=1)] | None, 5),  # pyright: ignore[reportOperatorIssue]
        (Label | Whole, Whole(a=1)),
        (Whole | Letters, Letters(a="b")),
        (dict[str, int] | SomeKeys, {"a": 1}),
        (SomeKeys | dict[str, int], {"a": 1}),
    ],
)
def test_should_read_the_member_that_was_written(kind: Any, value: Any) -> None:
    found = Converter(kind).read(loads(dumps(value)))
    assert (found, type(found)) == (value, type(value))


def test_should_register_a_union_of_types_that_contain_themselves() -> None:
    @dataclasses.dataclass
    class Leaf:
        text: str

    assert Converter(Tree | list[Tree] | Leaf).read({"left": None}) == Tree(None)


@dataclasses.dataclass
class Tree:
    left: Tree | list[Tree] | None
