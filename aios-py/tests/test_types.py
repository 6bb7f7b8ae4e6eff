from __future__ import annotations

import array
import collections
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import functools
import os
import subprocess
import sys
import typing
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    TypedDict,
    TypeVar,
)

import aios
import pytest
import typing_extensions
from aios._aios import dumps, loads
from aios._types.annotations import signature_of
from aios._types.convert import Converter
from aios._types.signature import return_hint
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


def matches(schema: dict[str, Any], value: Any) -> bool:
    """Whether a JSON value matches a JSON Schema."""
    validator = pytest.importorskip("jsonschema").Draft202012Validator
    validator.check_schema(schema)
    return bool(validator(schema).is_valid(value))


def read_back(kind: Any, value: Any) -> Any:
    """Writes a value and reads it. The schema accepts what was written."""
    converter, written = Converter(kind), loads(dumps(value))
    assert matches(loads(dumps(converter.schema)), written)
    return converter.read(written)


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
    found = read_back(annotation, value)
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
    for annotation in (object.__class__, complex, dict[int, str], unhashable, typing.Callable):
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


def test_should_read_every_pydantic_model_that_it_has_written() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Settings(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        model_config = pydantic.ConfigDict(extra="forbid")
        sizes: pydantic.Json[list[int]]  # type: ignore[name-defined]

        @pydantic.computed_field  # type: ignore[prop-decorator, untyped-decorator]
        @property
        def total(self) -> int:
            return sum(self.sizes)

    @pydantic.dataclasses.dataclass(config={"extra": "forbid"})
    class Row:
        sizes: pydantic.Json[list[int]]  # type: ignore[name-defined]

        @pydantic.computed_field  # type: ignore[prop-decorator, untyped-decorator]
        @property
        def total(self) -> int:
            return sum(self.sizes)

    kind: Any
    for kind in (Settings, Row):
        value = kind(sizes="[1, 2]")
        assert value.total == 3
        assert Converter(kind).read(loads(dumps(value))) == value
        assert Converter(list[kind]).read(loads(dumps([value]))) == [value]


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


U = TypeVar("U")


@dataclasses.dataclass
class Boxes(Box[list[T]], Generic[T, U]):
    label: U | None = None


@dataclasses.dataclass
class Swapped(Boxes[U, T], Generic[T, U]):
    pass


class Row(TypedDict, Generic[T]):
    item: T


class Rows(Row[list[T]], Generic[T]):
    label: T


class Pair(NamedTuple, Generic[T]):
    first: T
    second: T


class Defaults(NamedTuple):
    first: int
    second: str = "x"


class Text(enum.StrEnum):
    RED = "red"


class Kind(enum.Enum):
    PAIR = (1, 2)
    DAY = datetime.date(2024, 1, 2)


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Access(enum.IntFlag):
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
        (Boxes[datetime.date, str], Boxes([DAY], [[DAY]], "x")),
        (Swapped[str, decimal.Decimal], Swapped([decimal.Decimal(1)], [], "x")),
        (Swapped[decimal.Decimal, str], Swapped(["x"], [], decimal.Decimal(1))),
        (Rows[datetime.date], Rows(item=[DAY], label=DAY)),
        (Pair[datetime.date], Pair(DAY, DAY)),
        (Kind, Kind.PAIR),
        (Kind, Kind.DAY),
        (Right, Right.READ | Right.WRITE),
        (Right, Right(0)),
        (Access, Access.READ | 64),
        (Shape | Circle, Circle("c", 2)),
        (Circle | Shape, Shape("s")),
        (collections.Counter[str], collections.Counter("aab")),
        (collections.OrderedDict[str, int], collections.OrderedDict(b=1, a=2)),
        (collections.deque[datetime.date], collections.deque([DAY])),
        (bytearray, bytearray(b"a")),
    ],
)
def test_should_read_what_it_has_written(kind: Any, value: Any) -> None:
    found = read_back(kind, value)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "value", "accepted"),
    [
        (Right, 3, True),
        (Right, -1, False),
        (Right, "READ", False),
        (Access, 64, True),
        (Kind, [1, 2], True),
        (Kind, "2024-01-02", True),
        (Kind, [1, 3], False),
        (decimal.Decimal, 5, True),
        (decimal.Decimal, "5", True),
        (decimal.Decimal, 1.5, False),
        (tuple[int, str], [1, "x"], True),
        (tuple[int, str], [1], False),
        (tuple[int, str], [1, "x", 2], False),
        (tuple[()], [1], False),
        (tuple[int, *tuple[str, ...]], [1], True),
        (tuple[int, *tuple[str, ...]], [], False),
        (tuple[int, *tuple[str, ...]], [1, 2], False),
        (Defaults, [1], True),
        (Defaults, [1, "x", 2], False),
        (Defaults, [], False),
        (dict[Text, int], {"red": 1}, True),
        (dict[Text, int], {"blue": 1}, False),
        (dict[Literal["a"], int], {"b": 1}, False),
    ],
)
def test_should_accept_what_its_schema_accepts(kind: Any, value: Any, accepted: bool) -> None:
    converter = Converter(kind)
    assert converter.accepts(value) == accepted
    assert matches(loads(dumps(converter.schema)), value) == accepted


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
        (typing.Iterable[datetime.date], [DAY]),
        (collections.abc.Iterator, [1]),
        (dict[Name, int], {"a": 1}),
        (dict[Annotated[str, "unit"], int], {"a": 1}),
        (dict[Literal["a", "b"], int], {"a": 1}),
        (dict[Text, Level], {Text.RED: Level.LOW}),
        (tuple[int, *tuple[str, ...]], (1, "a", "b")),
        (tuple[*tuple[int, ...], datetime.date], (1, 2, DAY)),
        (tuple[int, *tuple[str, datetime.date]], (1, "a", DAY)),
        (tuple[int, typing.Unpack[tuple[datetime.date, ...]]], (1, DAY)),  # noqa: UP044
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
    found = read_back(kind, value)
    assert (found, type(found)) == (value, type(value))


@dataclasses.dataclass(frozen=True)
class Computed:
    number: int
    factor: dataclasses.InitVar[int] = 2
    result: int = dataclasses.field(init=False)
    changed: list[datetime.date] = dataclasses.field(init=False, default_factory=list[Any])

    def __post_init__(self, factor: int) -> None:
        object.__setattr__(self, "result", self.number * factor)


def test_should_keep_the_fields_that_a_dataclass_sets_itself() -> None:
    value = Computed(3, 5)
    value.changed.append(DAY)
    found = read_back(Computed, value)
    assert (found, found.result, found.changed) == (value, 15, [DAY])
    assert Converter(Computed).read({"number": 3}).result == 6


def test_should_refuse_dataclasses_that_do_not_keep_what_makes_them() -> None:
    @dataclasses.dataclass
    class Forgetful:
        number: int
        factor: dataclasses.InitVar[int]

    @dataclasses.dataclass
    class Mapped(dict[str, int]):
        number: int = 0

    with pytest.raises(TypeError, match="Forgetful has a required InitVar 'factor'"):
        Converter(Forgetful)
    with pytest.raises(TypeError, match="Mapped is both a dataclass and a dict"):
        Converter(Mapped)


def test_should_refuse_a_literal_whose_values_are_the_same_in_json() -> None:
    with pytest.raises(TypeError, match="can't be told apart in JSON"):
        Converter(Literal[Colour.RED, "red"])


def test_should_read_generic_models_of_msgspec() -> None:
    msgspec = pytest.importorskip("msgspec")

    class Holder(msgspec.Struct, Generic[T]):  # type: ignore[name-defined, misc]
        item: T

    assert Converter(Holder[datetime.date]).read({"item": "2024-01-02"}).item == DAY


class Frame:
    """Like a table: its items are the names of its columns."""

    def __iter__(self) -> Any:
        return iter(["price"])


async def later() -> int:
    return 1


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (range(2), [0, 1]),
        ({"a": 1}.keys(), ["a"]),
        ({"a": 1}.values(), [1]),
        (array.array("i", [1]), [1]),
        ((number for number in [1]), [1]),
        (memoryview(b"ab"), "YWI="),
    ],
)
def test_should_write_sequences_of_every_kind(value: Any, written: Any) -> None:
    assert loads(dumps(value)) == written


def test_should_name_a_remedy_for_what_it_cannot_write() -> None:
    coroutine = later()
    for value, remedy in (
        (Frame(), "Frame is not JSON-serialisable: pass a list of its items"),
        (coroutine, "coroutine is not JSON-serialisable: write `await` before it, in an `async"),
        (datetime.timedelta.max, "is not exact as a float"),
    ):
        with pytest.raises(aios.InvalidDataError, match=remedy):
            dumps(value)
    coroutine.close()


def test_should_write_equal_sets_of_sets_in_the_same_order() -> None:
    program = (
        "from aios._aios import dumps\n"
        "sets = [frozenset(text) for text in ('a', 'b', 'c', 'ab', 'abc')]\n"
        "print(dumps(set(sets)), dumps({(it,) for it in sets}))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for seed in range(1, 5)
    }
    assert len(outputs) == 1


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
        return [
            repr(await context.step("step", function))
            for function in (
                a_date,
                a_path,
                a_list,
                returning(Level | int, 1),
                returning(int | Level, 1),
                returning(Annotated[Path, {"unhashable": 1}], Path("b")),
            )
        ]

    run = await WorkflowTest(share).run()
    assert run.result() == [
        "datetime.date(2024, 1, 2)",
        "PosixPath('a')",
        "[datetime.date(2024, 1, 2)]",
        "<Level.LOW: 1>",
        "1",
        "PosixPath('b')",
    ]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the statement `type` is of Python 3.12")
def test_should_read_types_that_contain_themselves() -> None:
    names: dict[str, Any] = {}
    exec(
        "type Json = dict[str, Json] | list[Json] | str | int | float | bool | None\n"
        "type Tree[T] = T | list[Tree[T]]\n"
        "type Pair[T] = tuple[T, T]",
        names,
    )
    json, dictionary = names["Json"], typing.cast(Any, dict)
    value = {"a": [1, {"b": None}], "c": "d"}
    assert Converter(json).read(value) == value
    assert Converter(dictionary[str, json]).schema == {
        "type": "object",
        "additionalProperties": {"$ref": "#/$defs/Json"},
        "$defs": {
            "Json": {
                "anyOf": [
                    {"type": "object", "additionalProperties": {"$ref": "#/$defs/Json"}},
                    {"type": "array", "items": {"$ref": "#/$defs/Json"}},
                    *({"type": it} for it in ("string", "integer", "number", "boolean", "null")),
                ]
            }
        },
    }
    tree = Converter(names["Tree"][int])
    assert tree.read([1, [2, [3]]]) == [1, [2, [3]]]
    with pytest.raises(aios.InvalidParametersError, match="/1/0: is string"):
        tree.read([1, ["2"]])
    assert Converter(names["Pair"][datetime.date]).read(["2024-01-02"] * 2) == (
        datetime.date(2024, 1, 2),
        datetime.date(2024, 1, 2),
    )
    made = dataclasses.make_dataclass("Made", [("meta", json), ("name", str)])
    assert loads(dumps(made(value, "x"))) == {"meta": value, "name": "x"}
    assert Converter(made).read({"meta": value, "name": "x"}) == made(value, "x")


def test_should_read_the_json_value_of_pydantic() -> None:
    json, dictionary = pytest.importorskip("pydantic").JsonValue, typing.cast(Any, dict)
    value = {"a": [1, {"b": None}], "c": "d"}
    for kind in (json, dictionary[str, json], json | None):
        assert Converter(kind).read(value) == value
    made = dataclasses.make_dataclass("Made", [("meta", json)])
    assert loads(dumps(made(value))) == {"meta": value}
    assert Converter(made).read({"meta": value}) == made(value)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the statement `type` is of Python 3.12")
def test_should_refuse_an_alias_that_cannot_be_evaluated() -> None:
    names: dict[str, Any] = {}
    exec("type Unknown = Missing\ntype Growing[T] = list[Growing[list[T]]]", names)
    for kind in (names["Unknown"], names["Growing"][int]):
        with pytest.raises(TypeError, match="can't be read from JSON"):
            Converter(kind)


class Code(int, enum.Enum):
    A = (1, "one")

    def __new__(cls, number: int, label: str) -> typing.Self:
        member = int.__new__(cls, number)
        member._value_ = label
        return member


class Word(str, enum.Enum):  # noqa: UP042
    A = ("a", "one")

    def __new__(cls, text: str, label: str) -> typing.Self:
        member = str.__new__(cls, text)
        member._value_ = label
        return member


class Amount(float, enum.Enum):
    A = (1.5, 7)

    def __new__(cls, number: float, value: int) -> typing.Self:
        member = float.__new__(cls, number)
        member._value_ = value
        return member


@pytest.mark.parametrize(("member", "plain"), [(Code.A, "one"), (Word.A, "one"), (Amount.A, 7)])
def test_should_write_the_value_of_an_enum_of_numbers_or_texts(
    member: enum.Enum, plain: object
) -> None:
    assert loads(dumps([member, {"a": member}])) == [plain, {"a": plain}]
    for kind in (type(member), Literal[member]):
        assert Converter(kind).read(loads(dumps(member))) is member


def test_should_write_the_value_of_an_enum_as_a_key() -> None:
    assert dumps({Word.A: 1}) == '{"one":1}'
    assert Converter(dict[Word, int]).read({"one": 1}) == {Word.A: 1}
    with pytest.raises(aios.InvalidDataError, match="keys must be strings, not int"):
        dumps({Amount.A: 1})


class Marked(TypedDict, total=False):
    a: typing_extensions.ReadOnly[typing.Required[int]]
    b: typing_extensions.ReadOnly[list[str]]


@dataclasses.dataclass
class Branch:
    name: typing.LiteralString
    children: list[typing.Self] = dataclasses.field(default_factory=list[Any])
    named: dict[str, typing.Self | None] = dataclasses.field(default_factory=dict[str, Any])
    parent: typing.Optional[Annotated[typing.Self, "the parent"]] = None  # noqa: UP045
    size: typing.Final[int] = 1
    rest: typing.Final = 1


@dataclasses.dataclass
class Leaf(Branch):
    colour: str = ""


def test_should_read_types_with_qualifiers() -> None:
    converter = Converter(Marked)
    assert converter.read({"a": 1, "b": ["c"]}) == {"a": 1, "b": ["c"]}
    assert converter.schema["$defs"]["Marked"]["required"] == ["a"]


@pytest.mark.parametrize("kind", [Branch, Leaf])
def test_should_read_the_class_itself_for_self(kind: type[Branch]) -> None:
    child = kind("b", [kind("c")])
    value = kind("a", [child], {"x": child, "y": None}, child, 2)
    assert Converter(kind).read(loads(dumps(value))) == value
    assert isinstance(Converter(kind).read(loads(dumps(value))).named["x"], kind)
    with pytest.raises(aios.InvalidParametersError, match="/name: is integer"):
        Converter(kind).read({"name": 1})


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated before")
def test_should_not_evaluate_annotations_that_are_not_needed() -> None:
    names: dict[str, Any] = {"dataclasses": dataclasses}
    exec(
        "def charge(order: Missing) -> str: ...\n"
        "@dataclasses.dataclass\n"
        "class Order:\n"
        "    item: Missing",
        names,
    )
    signature_of(names["charge"]).bind(1)
    assert return_hint(names["charge"], {}) is str
    assert loads(dumps(names["Order"]("a"))) == {"item": "a"}
    with pytest.raises(TypeError, match="can't be resolved"):
        Converter(names["Order"])
