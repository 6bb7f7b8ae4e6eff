from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType

import aios
import pytest
from aios._aios import dumps, loads
from aios._convert import Converter


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
        (Level, 9, ""),
        (uuid.UUID, "x", ""),
        (bytes, "!", ""),
    ],
)
def test_should_name_the_path_of_a_violation(annotation: Any, value: Any, path: str) -> None:
    with pytest.raises(aios.InvalidParametersError) as raised:
        Converter(annotation).read(value)
    assert [fault["path"] for fault in raised.value.details] == [path]


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
    for annotation in (object.__class__, complex, dict[int, str]):
        with pytest.raises(TypeError):
            Converter(annotation)


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
