from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import functools
import typing
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, NewType, TypeVar

import aios
import pytest
from aios._aios import dumps, loads
from aios._types.convert import Converter
from aios.testing import WorkflowTest


class Level(enum.IntEnum):
    LOW = 1


Name = NewType("Name", str)


@dataclasses.dataclass
class Node:
    name: str
    next: Node | None = None


class Point(NamedTuple):
    x: int
    at: Level


@dataclasses.dataclass
class Checked:
    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError("must not be negative")
        if self.number == 0:
            # Raises StopIteration.
            next(iter(()))
        if self.number > 9:
            raise KeyError(self.number)


@dataclasses.dataclass
class Counted:
    count: int
    lock: ClassVar[Any] = object()


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (None, None),
        (bool, True),
        (int, 7),
        (float, 1.5),
        (str, "x"),
        (Name, "x"),
        (Annotated[int, "unit"], 3),
        (list[int], [1, 2]),
        (tuple[int, ...], (1, 2)),
        (tuple[int, str], (1, "x")),
        (set[int], {1, 2}),
        (frozenset[str], frozenset({"x"})),
        (dict[str, float], {"a": 1.0}),
        (int | None, None),
        (int | str, "x"),
        (Literal["a", 1], 1),
        (Level, Level.LOW),
        (Node, Node("a", Node("b"))),
        (Counted, Counted(1)),
        (Point, Point(1, Level.LOW)),
        (bytes, b"\x00\xff"),
        (uuid.UUID, uuid.UUID(int=7)),
        (decimal.Decimal, decimal.Decimal("1.10")),
        (Path, Path("/tmp")),
        (datetime.datetime, datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC)),
        (datetime.date, datetime.date(2024, 1, 2)),
        (datetime.time, datetime.time(1, 2)),
        (datetime.timedelta, datetime.timedelta(seconds=1.5)),
        (Any, {"a": [None]}),
    ],
)
def test_should_round_trip_through_json(annotation: Any, value: Any) -> None:
    found = Converter(annotation).read(loads(dumps(value)))
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("annotation", "value", "path"),
    [
        (int, True, ""),
        (int, 1.0, ""),
        (float, "1", ""),
        (list[int], [1, "2"], "/1"),
        (tuple[int, str], [1], ""),
        (Point, ["1", 1], "/0"),
        (Point, [1], ""),
        (dict[str, int], {"a/b": "x"}, "/a~1b"),
        (Node, {"name": "a", "next": {"name": 1}}, "/next/name"),
        (Checked, {"number": -1}, ""),
        (Checked, {"number": 0}, ""),
        (list[Checked], [{"number": 1}, {"number": 10}], "/1"),
        (Level, 9, ""),
        (uuid.UUID, "x", ""),
        (bytes, "!", ""),
    ],
)
def test_should_name_the_path_of_a_violation(annotation: Any, value: Any, path: str) -> None:
    with pytest.raises(aios.InvalidParametersError) as raised:
        Converter(annotation).read(value)
    assert [fault["path"] for fault in raised.value.details] == [path]


def test_should_refuse_values_for_which_a_flag_raises_any_exception() -> None:
    class Mode(enum.Flag):
        READ = 1

        @classmethod
        def _missing_(cls, value: object) -> Any:
            return next(iter(()))

    assert Converter(Mode).read(1) == Mode.READ
    with pytest.raises(aios.InvalidParametersError) as raised:
        Converter(Mode).read(8)
    assert raised.value.details == [{"path": "", "fault": "StopIteration"}]


async def test_should_fail_an_operation_whose_result_raises_when_it_is_read() -> None:
    @aios.workflow("reading")
    async def reading(context: aios.WorkflowContext) -> str:
        try:
            return f"got {await context.signal('checked', result=Checked)}"
        except aios.InvalidResultError as error:
            return error.message

    run = await WorkflowTest(reading).signal(1, "checked", {"number": 0}).run()
    assert run.result() == "the signal 'checked' does not match: /: StopIteration"


def test_should_generate_a_schema() -> None:
    assert Converter(Node).schema == {
        "$ref": "#/$defs/Node",
        "$defs": {
            "Node": {
                "type": "object",
                "title": "Node",
                "properties": {
                    "name": {"type": "string"},
                    "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
                },
                "required": ["name"],
            }
        },
    }


def test_should_reject_types_that_are_not_supported() -> None:
    unhashable: Any = [int]
    for annotation in (object.__class__, complex, dict[int, str], unhashable, typing.Iterable):
        with pytest.raises(TypeError, match=r"can't be read from JSON|keys of JSON objects"):
            Converter(annotation)


def test_should_reject_classes_whose_annotations_cannot_be_resolved() -> None:
    @dataclasses.dataclass
    class Inner:
        number: int

    @dataclasses.dataclass
    class Outer:
        inner: Inner

    class Keys(typing.TypedDict):
        inner: Inner

    class Items(NamedTuple):
        inner: Inner

    for kind in (Outer, Keys, Items, list[Outer]):
        with pytest.raises(TypeError, match="name 'Inner' is not defined; define what it names"):
            Converter(kind)


async def test_should_accept_pydantic_models() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Item(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        name: str
        sizes: list[int]

    @aios.agent("item")
    async def item(context: aios.TaskContext, parameters: Item) -> Item:
        assert isinstance(parameters, Item)
        return parameters

    async with aios.Runtime(agents=[item]) as runtime:
        assert await runtime.call("item", Item(name="a", sizes=[1]), result=Item) == Item(
            name="a", sizes=[1]
        )
        with pytest.raises(aios.InvalidParametersError) as raised:
            await runtime.call("item", {"sizes": ["x"]})
    assert {fault["path"] for fault in raised.value.details} == {"/name", "/sizes/0"}


def test_should_refuse_values_whose_validator_raises_any_exception() -> None:
    pydantic = pytest.importorskip("pydantic")

    def check(value: int) -> int:
        return next(iter(())) if value == 0 else {1: 1}[value]

    kind = Annotated[int, pydantic.AfterValidator(check)]
    assert Converter(list[kind]).read([1]) == [1]
    for value, fault in ((0, "StopIteration"), (2, "KeyError: 2")):
        with pytest.raises(aios.InvalidParametersError) as raised:
            Converter(list[kind]).read([1, value])
        assert raised.value.details == [{"path": "/1", "fault": fault}]


def test_should_read_pydantic_models_with_aliases_and_strict_ones() -> None:
    pydantic = pytest.importorskip("pydantic", "2.11")

    class User(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        user_id: int = pydantic.Field(alias="userId")
        nick: str = pydantic.Field("", validation_alias="nickname")
        age: int = pydantic.Field(0, serialization_alias="years")

    class Strict(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        model_config = pydantic.ConfigDict(strict=True)
        at: datetime.datetime
        users: tuple[User, ...]

    at = datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC)
    value = Strict(at=at, users=(User(userId=7, nickname="x", age=3),))
    assert Converter(Strict).read(loads(dumps(value))) == value
    assert Converter(User).read({"userId": 1, "nickname": "y"}).nick == "y"
    with pytest.raises(aios.InvalidParametersError) as raised:
        Converter(Strict).read({"at": "2024-01-02", "users": [{"userId": "seven"}]})
    assert [fault["path"] for fault in raised.value.details] == ["/at", "/users/0/userId"]


def test_should_reject_models_whose_annotations_cannot_be_resolved() -> None:
    pydantic, msgspec = pytest.importorskip("pydantic"), pytest.importorskip("msgspec")
    fields: Any = {"__annotations__": {"other": "Nothing"}}
    for kind in (
        type("Model", (pydantic.BaseModel,), {**fields, "__module__": __name__}),
        type("Struct", (msgspec.Struct,), {**fields, "__module__": __name__}),
    ):
        with pytest.raises(TypeError, match="can't be read from JSON"):
            Converter(kind)


async def test_should_accept_msgspec_models() -> None:
    msgspec = pytest.importorskip("msgspec")

    class Item(msgspec.Struct):  # type: ignore[name-defined, misc]
        name: str
        sizes: list[int]

    @aios.agent("item")
    async def item(context: aios.TaskContext, parameters: Item) -> Item:
        assert isinstance(parameters, Item)
        return parameters

    async with aios.Runtime(agents=[item]) as runtime:
        assert await runtime.call("item", Item("a", [1]), result=Item) == Item("a", [1])
        with pytest.raises(aios.InvalidParametersError) as raised:
            await runtime.call("item", {"name": "a", "sizes": [1, "x"]})
    assert [fault["path"] for fault in raised.value.details] == ["/sizes/1"]


T = TypeVar("T")


@dataclasses.dataclass
class Box(Generic[T]):
    item: T
    more: list[T] = dataclasses.field(default_factory=list[T])


@dataclasses.dataclass
class DateBox(Box[datetime.date]):
    label: str = ""


class Pair(NamedTuple, Generic[T]):
    first: T
    second: T


class Kind(enum.Enum):
    PAIR = (1, 2)
    DAY = datetime.date(2024, 1, 2)


class Right(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Shape:
    name: str


@dataclasses.dataclass
class Circle(Shape):
    radius: int


DAY = datetime.date(2024, 1, 2)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Box[datetime.date], Box(DAY, [DAY])),
        (Box[Box[Path]], Box(Box(Path("a")), [])),
        (DateBox, DateBox(DAY, [DAY], "x")),
        (Pair[datetime.date], Pair(DAY, DAY)),
        (Kind, Kind.PAIR),
        (Kind, Kind.DAY),
        (Right, Right.READ | Right.WRITE),
        (Shape | Circle, Circle("c", 2)),
        (Circle | Shape, Shape("s")),
        (collections.Counter[str], collections.Counter("aab")),
        (collections.OrderedDict[str, int], collections.OrderedDict(b=1, a=2)),
        (collections.deque[datetime.date], collections.deque([DAY])),
        (bytearray, bytearray(b"a")),
    ],
)
def test_should_read_what_it_has_written(kind: Any, value: Any) -> None:
    found = Converter(kind).read(loads(dumps(value)))
    assert found == value
    assert type(found) is type(value)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (typing.List, [1, "x"]),  # noqa: UP006
        (typing.Dict, {"a": 1}),  # noqa: UP006
        (typing.Set, {1}),  # noqa: UP006
        (typing.Tuple, (1, "x")),  # noqa: UP006
        (typing.Deque, collections.deque([1])),  # noqa: UP006
        (typing.Counter, collections.Counter("a")),
        (typing.Sequence, [1]),
        (typing.Mapping, {"a": 1}),
        (collections.abc.Sequence, [1]),
        (collections.abc.Mapping, {"a": 1}),
        (typing.List | None, None),  # noqa: UP006
        (list[Annotated[int, {"not": "hashable"}]], [1]),
        (tuple[()], ()),
        (Literal[Colour.RED, 1], Colour.RED),
        (Literal[Colour.RED, Level.LOW], Level.LOW),
        (Literal[b"a"], b"a"),
        (float | int, 2**60 + 1),
        (None | float | int, 2**60 + 1),
        (dict[str, float | int], {"a": 1, "b": 1.5}),
        (Level | float | int, Level.LOW),
    ],
)
def test_should_read_types_of_every_form(kind: Any, value: Any) -> None:
    found = Converter(kind).read(loads(dumps(value)))
    assert (found, type(found)) == (value, type(value))


def test_should_name_the_values_of_a_literal_as_they_are_in_json() -> None:
    converter = Converter(Literal[Colour.RED, b"a", 1])
    assert converter.schema == {"enum": ["red", "YQ==", 1]}
    for wrong in ("blue", 1.0, True, ["red"]):
        with pytest.raises(aios.InvalidParametersError, match=r"instead of one of \['red', 'YQ=='"):
            converter.read(wrong)


@pytest.mark.parametrize("kind", [float, float | None, float | str])
@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("text", ["1" + "0" * 400, "1e400"])
def test_should_refuse_numbers_beyond_the_range_of_a_float(kind: Any, sign: str, text: str) -> None:
    with pytest.raises(aios.InvalidParametersError) as raised:
        Converter(list[kind]).read(loads(f"[1, {sign}{text}]"))
    fault = raised.value.details[0]
    assert fault["path"] == "/1" and "is " in fault["fault"]


def test_should_check_the_arguments_of_generic_classes() -> None:
    converter = Converter(Box[int] | Box[Box[int]])
    assert converter.accepts({"item": 1, "more": []})
    assert not converter.accepts({"item": "1"})
    assert not converter.accepts({"item": {"item": "1"}})
    assert set(converter.schema["$defs"]) == {"Box_int", "Box_Box"}


def passed_on(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator: all functions that it decorates share the code of the wrapper."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


@passed_on
def a_date() -> datetime.date:
    return datetime.date(2024, 1, 2)


@passed_on
def a_path() -> Path:
    return Path("a")


@passed_on
def a_list() -> list[datetime.date]:
    return [datetime.date(2024, 1, 2)]


async def test_should_read_results_of_steps_that_share_their_code() -> None:
    def returning(kind: Any, value: Any) -> Callable[[], Any]:
        def function() -> Any:
            return value

        function.__annotations__["return"] = kind
        return function

    @aios.workflow("share")
    async def share(context: aios.WorkflowContext) -> list[str]:
        time = "2024-01-02T00:00:00"
        return [
            repr(await context.step("step", function))
            for function in (
                a_date,
                a_path,
                a_list,
                returning(datetime.datetime | str, time),
                returning(str | datetime.datetime, time),
                returning(Annotated[Path, {"unhashable": 1}], Path("b")),
            )
        ]

    run = await WorkflowTest(share).run()
    assert run.result() == [
        "datetime.date(2024, 1, 2)",
        "PosixPath('a')",
        "[datetime.date(2024, 1, 2)]",
        "datetime.datetime(2024, 1, 2, 0, 0)",
        "'2024-01-02T00:00:00'",
        "PosixPath('b')",
    ]
