"""Values of pydantic and msgspec that would be read as something else are refused where they are passed."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import typing
import uuid
import zoneinfo
from typing import Any, Generic, Literal, TypeVar

import aios
import msgspec
import pydantic
import pytest
from aios._aios import dumps, loads
from aios._types.convert import Converter
from pydantic import ConfigDict, Field

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
ODD = datetime.timezone(datetime.timedelta(seconds=3333))
DAY = datetime.date(2024, 1, 2)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.Enum):
    LOW = 1


@dataclasses.dataclass
class Base:
    a: int


@dataclasses.dataclass
class Sub(Base):
    b: int = 0


class Model(pydantic.BaseModel):
    a: int


class SubModel(Model):
    b: int = 0


class Mixed(pydantic.BaseModel):
    value: str | datetime.date | Colour | set[int] | list[int] | None = None


class Numbers(pydantic.BaseModel):
    value: int | decimal.Decimal


class Times(pydantic.BaseModel):
    time: datetime.time = datetime.time(0)
    at: datetime.datetime = datetime.datetime(2024, 1, 2)


class Length(pydantic.BaseModel):
    model_config = ConfigDict(ser_json_timedelta="float")
    length: datetime.timedelta


class Holder(pydantic.BaseModel):
    model: Model | None = None
    models: list[Model] = []
    base: Base | None = None


class Excluded(pydantic.BaseModel):
    a: int = 0
    left_out: int = Field(default=0, exclude=True)


class ByLevel(pydantic.BaseModel):
    models: dict[str, dict[Level, int]] = {}


class Corner(enum.Enum):
    TOP = (0, 1)


class Corners(pydantic.BaseModel):
    corner: Corner | None = None
    key: Literal[b"a"] | None = None
    level: Literal[Level.LOW] | None = None


class ByNumber(pydantic.BaseModel):
    numbers: dict[int | None, int] = {}


class ByLiteral(pydantic.BaseModel):
    numbers: dict[Literal[1, "1"], int] = {}


class ByText(pydantic.BaseModel):
    texts: dict[Colour, dict[uuid.UUID, int]] = {}


class Raising(pydantic.BaseModel):
    a: int

    @pydantic.field_validator("a")
    @classmethod
    def raise_it(cls, value: int) -> int:
        return value + 1


class FirstOf(pydantic.BaseModel):
    value: datetime.date | str = Field(union_mode="left_to_right")


class Printed(pydantic.BaseModel):
    day: datetime.date

    @pydantic.field_serializer("day")
    def print_it(self, day: datetime.date) -> str:
        return day.strftime("%d.%m.%Y")


class Struct(msgspec.Struct):
    time: datetime.time = datetime.time(0)
    part: Part | None = None


class Part(msgspec.Struct):
    a: int


class Price(msgspec.Struct):
    price: float


class SubPart(Part):
    b: int = 0


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (
            Mixed(value=DAY),
            "field value of Mixed would be read as '2024-01-02' instead of datetime",
        ),
        (Mixed(value=Colour.RED), "field value of Mixed would be read as 'red' instead of <Colour"),
        (Mixed(value={1}), "field value of Mixed would be read as [1] instead of {1}"),
        (Numbers(value=decimal.Decimal(5)), "field value of Numbers would be read as 5 instead of"),
        (Times(time=datetime.time(1, tzinfo=BERLIN)), "field time of Times would be read as"),
        (Times(at=datetime.datetime(1900, 1, 1, tzinfo=ODD)), "field at of Times would be read as"),
        (Length(length=datetime.timedelta(days=200_000, microseconds=1)), "field length of Length"),
        (Holder(model=SubModel(a=1)), "field model of Holder would be read as Model(a=1)"),
        (Holder(models=[SubModel(a=1)]), "field models.0 of Holder would be read as Model(a=1)"),
        (Holder(base=Sub(1, 2)), "field base of Holder would be read as Base(a=1)"),
        (
            ByLevel(models={"a": {Level.LOW: 1}}),
            "ByLevel can't be read from what is written for it",
        ),
        (Corners(corner=Corner.TOP), "Corners can't be read from what is written for it"),
        (Corners(key=b"a"), "Corners can't be read from what is written for it"),
        (Corners(level=Level.LOW), "Corners can't be read from what is written for it"),
        (ByNumber(numbers={None: 1}), "ByNumber can't be read from what is written for it"),
        (ByLiteral(numbers={1: 1}), "field numbers of ByLiteral would be read as {'1': 1}"),
        (Excluded(left_out=5), "field left_out of Excluded would be read as 0 instead of 5"),
        (FirstOf.model_construct(value="2024-01-02"), "field value of FirstOf would be read as"),
        (Raising.model_construct(a="1"), "field a of Raising would be read as 2 instead of '1'"),
        (Price(2**60 + 1), "field price of Price would be read as 1.15"),
        (Price(True), "Price can't be read from what is written for it"),
        (Raising(a=1), "field a of Raising would be read as 3 instead of 2"),
        (
            Printed(day=datetime.date(2024, 3, 2)),
            "Printed can't be read from what is written for it",
        ),
        (Struct(datetime.time(1, tzinfo=BERLIN)), "field time of Struct would be read as"),
        (Struct(part=SubPart(1, 2)), "field part of Struct would be read as Part(a=1)"),
    ],
)
def test_should_refuse_a_value_that_is_read_as_something_else(value: Any, fault: str) -> None:
    with pytest.raises(aios.InvalidDataError) as raised:
        dumps([value])
    assert fault in str(raised.value)


@dataclasses.dataclass
class Scaled:
    cents: int

    def __post_init__(self) -> None:
        self.cents *= 100


@dataclasses.dataclass(init=False)
class Counted:
    number: int

    def __init__(self, number: int) -> None:
        self.number = number + 1


@dataclasses.dataclass
class Normal:
    name: str
    tags: tuple[str, ...] = ()
    paths: list[str] = dataclasses.field(default_factory=list[str])
    count: float = 1
    call: Any = None
    inner: Normal | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name")
        self.name = self.name.strip().lower()
        self.tags = tuple(sorted(self.tags))


@dataclasses.dataclass
class Unread:
    lock: typing.Callable[[], int] | str

    def __post_init__(self) -> None:
        self.lock = "x"


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (Scaled(1), "field cents of Scaled would be read as 10000 instead of 100"),
        (Counted(1), "field number of Counted would be read as 3 instead of 2"),
    ],
)
def test_should_refuse_a_dataclass_that_its_code_changes_again(value: Any, fault: str) -> None:
    for data in (value, [value], {"a": value}):
        with pytest.raises(aios.InvalidDataError, match=fault):
            dumps(data)


def test_should_write_a_dataclass_that_its_code_makes_again() -> None:
    value = Normal(" A ", ("c", "b"), inner=Normal("B"), call=2**70)
    assert Converter(Normal).read(loads(dumps(value))) == value
    assert loads(dumps(Normal("a", paths=(it for it in "ab"))))["paths"] == ["a", "b"]  # type: ignore[arg-type]
    # Of a type that nothing can be read as.
    assert loads(dumps(Unread("a"))) == {"lock": "x"}
    with pytest.raises(aios.InvalidDataError, match="/0: /call: object is not JSON-serialisable"):
        dumps([Normal("a", call=object())])
    value.inner = value
    with pytest.raises(aios.InvalidDataError, match="nested too deeply"):
        dumps(value)


@dataclasses.dataclass
class Parts:
    part: Base
    more: dict[str, list[Base | None]] = dataclasses.field(default_factory=dict[str, Any])
    both: Base | Sub | None = None
    model: Model | None = None


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (Parts(Sub(1)), "field part of Parts contains a Sub, which would be read as a Base"),
        (Parts(Base(1), {"a": [None, Sub(1)]}), "field more of Parts contains a Sub"),
        (Parts(Base(1), model=SubModel(a=1)), "field model of Parts contains a SubModel"),
    ],
)
def test_should_refuse_a_dataclass_with_objects_of_subclasses(value: Any, fault: str) -> None:
    with pytest.raises(aios.InvalidDataError, match=fault):
        dumps([value])


async def test_should_refuse_inputs_and_results_of_a_subclass() -> None:
    @aios.workflow("base")
    async def base(context: aios.WorkflowContext, values: list[Base] | None) -> Base | None:
        return Sub(1, 2) if values is None else values[0]

    @aios.workflow("model")
    async def model(context: aios.WorkflowContext, value: Model) -> None: ...

    @aios.workflow("both")
    async def both(context: aios.WorkflowContext, value: Base | Sub) -> Base | Sub:
        return value

    @aios.workflow("parent")
    async def parent(context: aios.WorkflowContext) -> None:
        values: list[Base] = [Sub(1)]
        await context.child(base, values)

    async with aios.Runtime(workflows=[base, model, both, parent]) as runtime:
        refused = "the input of workflow base contains a Sub, which would be read as a Base"
        with pytest.raises(aios.InvalidDataError, match=refused):
            await runtime.start(base, [Base(1), Sub(1)])
        with pytest.raises(aios.InvalidDataError, match="contains a SubModel"):
            await runtime.start(model, SubModel(a=1))
        with pytest.raises(aios.RunFailedError, match=refused):
            await (await runtime.start(parent)).result()
        with pytest.raises(aios.RunFailedError, match="the result of workflow base contains a Sub"):
            await (await runtime.start(base, None)).result()
        assert await (await runtime.start(base, [Base(1)])).result() == Base(1)
        assert await (await runtime.start(both, Sub(1, 2))).result() == Sub(1, 2)


def test_should_write_a_subclass_that_is_declared() -> None:
    value = Parts(Base(1), both=Sub(1, 2))
    assert Converter(Parts).read(loads(dumps(value))) == value


T = TypeVar("T")


class Generics(pydantic.BaseModel, Generic[T]):
    value: T


class Anything(pydantic.BaseModel):
    value: Any


class Tree(pydantic.BaseModel):
    name: Literal["tree"] = "tree"
    parts: dict[str, Tree] = {}


class Keyed(msgspec.Struct):
    numbers: dict[int, str]
    days: dict[datetime.date, int] = {}


class Unvalidated(pydantic.BaseModel):
    """Pydantic does not validate the defaults of fields."""

    whole: float = 0
    exact: decimal.Decimal = 0  # type: ignore[assignment]
    rounded: decimal.Decimal = 0.1  # type: ignore[assignment]
    level: Level = 1  # type: ignore[assignment]
    colour: Colour = "red"  # type: ignore[assignment]
    day: datetime.date = "2024-01-02"  # type: ignore[assignment]
    url: pydantic.HttpUrl = "https://example.com"  # type: ignore[assignment]
    urls: dict[str, list[pydantic.HttpUrl]] = {"a": ["https://example.com/b"]}  # type: ignore[list-item]
    tags: set[str] = ["b", "a"]  # type: ignore[assignment]
    pair: tuple[int, float] = (1, 2)


class Line(msgspec.Struct):
    price: float = 0
    prices: list[float] = []
    per_day: dict[datetime.date, float] = {}


@pydantic.dataclasses.dataclass
class Weighted:
    weight: float = 0


@pytest.mark.parametrize("value", [Line(), Line(5, [1, 2], {DAY: 2**60}), Weighted()])
def test_should_write_whole_numbers_of_fields_for_any_number(value: Any) -> None:
    assert Converter(type(value)).read(loads(dumps(value))) == value


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_should_write_values_that_nothing_has_validated() -> None:
    value = Unvalidated()
    value.whole = 3
    validated = Unvalidated.model_validate(value.model_dump())
    assert validated.tags == {"a", "b"}
    assert Converter(Unvalidated).read(loads(dumps(value))) == validated


@pytest.mark.parametrize(
    "value",
    [
        Mixed(value="2024-01-02"),
        Numbers(value=decimal.Decimal("1.50")),
        Times(time=datetime.time(1, tzinfo=datetime.UTC)),
        Times(at=datetime.datetime(2024, 6, 1, 2, 30, tzinfo=BERLIN)),
        Holder(model=Model(a=1), models=[Model(a=2)], base=Base(3)),
        Excluded(a=5),
        Generics[datetime.date](value=DAY),
        Anything(value={"a": [1]}),
        Tree(parts={"a": Tree(parts={"b": Tree()})}),
        Struct(datetime.time(1), Part(1)),
        Keyed({1: "a"}, {DAY: 3}),
        Corners(),
        ByNumber(numbers={1: 2}),
        ByText(texts={Colour.RED: {uuid.UUID(int=1): 2}}),
    ],
)
def test_should_read_what_it_has_written(value: Any) -> None:
    assert Converter(type(value)).read(loads(dumps(value))) == value


def test_should_write_values_of_fields_that_take_any_value() -> None:
    for value in (Anything(value=(1,)), Generics(value=DAY)):
        assert Converter(type(value)).accepts(loads(dumps(value)))


class User(pydantic.BaseModel):
    model_config = ConfigDict(serialize_by_alias=True, extra="forbid")
    user_id: int = Field(0, alias="userId")
    age: int = Field(0, serialization_alias="years")


class Crossed(pydantic.BaseModel):
    first: int = Field(0, alias="second")
    second: int = Field(0, alias="first")


class ByAlias(pydantic.BaseModel):
    model_config = ConfigDict(validate_by_name=False, validate_by_alias=True)
    users: list[User] = Field(alias="people")


def test_should_write_the_names_of_fields_and_read_aliases_too() -> None:
    pytest.importorskip("pydantic", "2.12")
    user = User(userId=7, age=3)
    assert loads(dumps(user)) == {"user_id": 7, "age": 3}
    assert set(Converter(User).schema["properties"]) == {"user_id", "age"}
    for value in (user, Crossed(first=1, second=2), ByAlias(people=[user])):
        assert Converter(type(value)).read(loads(dumps(value))) == value
    assert Converter(User).read({"userId": 7, "age": 3}) == user
    foreign = {"people": [{"userId": 7, "age": 3}]}
    assert Converter(ByAlias).read(foreign) == ByAlias(people=[user])
