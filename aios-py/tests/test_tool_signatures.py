"""Signatures of tools: every kind of annotation and of function."""

import dataclasses
import enum
import functools
import types
from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar, cast

import aios
import msgspec
import pydantic
import pytest
from aios.testing import ScriptedModel

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Options(TypedDict, total=False):
    deep: bool


class Pair(NamedTuple):
    left: int
    right: str


class Inner(pydantic.BaseModel):
    words: int


class Outer(pydantic.BaseModel):
    inner: Inner
    others: list[Inner] = []


class Leaf(msgspec.Struct):
    size: int


class Tree(msgspec.Struct):
    leaf: Leaf


@dataclasses.dataclass
class Box(Generic[T]):
    content: T


@dataclasses.dataclass
class Nested:
    outer: Outer
    tree: Tree


async def call(function: Callable[..., Any], arguments: dict[str, Any]) -> tuple[str, bool]:
    """The result that the model gets for a call of a tool."""
    made = function if isinstance(function, aios.Tool) else aios.tool(function)
    calls = [aios.ToolCall(made.name, arguments)]
    model = ScriptedModel(aios.ModelResponse(tool_calls=calls), "done")
    agent = aios.LlmAgent("caller", model, tools=[made])
    async with aios.Runtime(agents=[agent]) as runtime:
        run = await runtime.start(agent, "go")
        await run.result()
    (result,) = model.requests[1]["messages"][-1]["content"]
    return result["content"], result.get("is_error", False)


@pytest.mark.parametrize(
    ("kind", "good", "expected", "bad"),
    [
        (Literal["a", 1], "a", "'a'", "b"),
        (Colour, "red", "<Colour.RED: 'red'>", "green"),
        (Point, {"x": 1}, "Point(x=1, y=0)", {"y": 1}),
        (Options, {"deep": True}, "{'deep': True}", {"deep": 1}),
        (Pair, [1, "b"], "Pair(left=1, right='b')", [1]),
        (int | None, None, "None", "x"),
        (Annotated[int, pydantic.Field(ge=1)], 1, "1", 0),
        (Annotated[int, msgspec.Meta(ge=1)], 1, "1", 0),
        (Box[int], {"content": 1}, "Box(content=1)", {"content": "x"}),
        (Box[Point], {"content": {"x": 1}}, "Box(content=Point(x=1, y=0))", {"content": 1}),
        (Outer, {"inner": {"words": 1}}, "Outer(inner=Inner(words=1), others=[])", {}),
        (list[Outer], [{"inner": {"words": 1}}], "[Outer(inner=Inner(words=1), others=[])]", [{}]),
        (dict[str, Tree], {"a": {"leaf": {"size": 1}}}, "{'a': Tree(leaf=Leaf(size=1))}", [1]),
        (
            Nested,
            {"outer": {"inner": {"words": 1}}, "tree": {"leaf": {"size": 1}}},
            "Nested(outer=Outer(inner=Inner(words=1), others=[]), tree=Tree(leaf=Leaf(size=1)))",
            {"outer": {"inner": {}}, "tree": {"leaf": {"size": 1}}},
        ),
    ],
)
async def test_should_take_every_kind_of_annotation(
    kind: Any, good: Any, expected: str, bad: Any
) -> None:
    def show(value: Any) -> str:
        return repr(value)

    show.__annotations__["value"] = kind
    assert await call(show, {"value": good}) == (expected, False)
    content, is_error = await call(show, {"value": bad})
    assert is_error
    assert "value" in content


async def test_should_tell_classes_of_the_same_name_apart() -> None:
    def item(**fields: Any) -> Any:
        return pydantic.create_model("Item", **fields)

    first = pydantic.create_model("First", item=(item(a=(int, ...)), ...))
    second = pydantic.create_model("Second", item=(item(b=(str, ...)), ...))

    def both(one: Any, two: Any) -> str:
        return f"{one.item.a} {two.item.b}"

    both.__annotations__.update(one=first, two=second)
    good = {"one": {"item": {"a": 1}}, "two": {"item": {"b": "x"}}}
    assert await call(both, good) == ("1 x", False)


def test_should_describe_parameters() -> None:
    def search(
        words: Annotated[str, "What to search for."],
        limit: Annotated[int, pydantic.Field(description="How many.")] = 3,
        point: Annotated[Point | None, "Where."] = None,
    ) -> str:
        return words

    properties = aios.tool(search).schema["properties"]
    described = {name: found["description"] for name, found in properties.items()}
    assert described == {
        "words": "What to search for.",
        "limit": "How many.",
        "point": "Where.",
    }


class Searcher:
    """Searches."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __call__(self, words: str) -> str:
        return f"{words} in {self.place}"

    async def find(self, words: str, context: aios.ToolContext | None = None) -> str:
        """Finds."""
        assert context is not None
        return f"{words} at {self.place}"

    @classmethod
    def kinds(cls, words: str) -> str:
        return f"{words} of {cls.__name__}"

    @staticmethod
    def shout(words: str) -> str:
        return words.upper()


class AsyncSearcher:
    async def __call__(self, words: str) -> str:
        """Searches later."""
        return f"{words} later"


def keyed(words: str, key: str, limit: int = 1) -> str:
    """Needs a key."""
    return f"{words} {key} {limit}"


async def later(words: str, key: str) -> str:
    return f"{words} {key}"


@pytest.mark.parametrize(
    ("function", "name", "description", "expected"),
    [
        (Searcher("x"), "Searcher", "Searches.", "w in x"),
        (AsyncSearcher(), "AsyncSearcher", "Searches later.", "w later"),
        (Searcher("x").find, "find", "Finds.", "w at x"),
        (Searcher.kinds, "kinds", "", "w of Searcher"),
        (Searcher.shout, "shout", "", "W"),
        (functools.partial(keyed, key="secret"), "keyed", "Needs a key.", "w secret 1"),
        (functools.partial(later, key="secret"), "later", "", "w secret"),
    ],
)
async def test_should_take_every_kind_of_function(
    function: Callable[..., Any], name: str, description: str, expected: str
) -> None:
    made = aios.tool(function)
    assert (made.name, made.description) == (name, description)
    assert "secret" not in str(made.schema), "the model does not see what is set"
    assert made.schema["required"] == ["words"]
    assert await call(made, {"words": "w"}) == (expected, False)


async def test_should_refuse_a_value_for_a_parameter_that_is_set() -> None:
    made = aios.tool(functools.partial(keyed, key="secret"))
    _, is_error = await call(made, {"words": "w", "key": "other"})
    assert is_error


def test_should_refuse_functions_that_no_model_can_call() -> None:
    def many(*words: str) -> str:
        return ""

    def named(**words: str) -> str:
        return ""

    def by_place(words: str, /) -> str:
        return ""

    async def pieces(words: str) -> Any:
        yield words

    def strange(words: types.ModuleType) -> str:
        return ""

    def no_json(words: str = object()) -> str:  # type: ignore[assignment]
        return ""

    for function in (many, named, by_place, pieces, strange, no_json):
        with pytest.raises(aios.ConfigurationError, match=f"tool {function.__name__}"):
            aios.tool(function)


def test_should_name_options_of_another_type() -> None:
    def tested() -> None: ...

    options: list[tuple[str, Any]] = [
        ("name", 5),
        ("description", 5),
        ("approval", "no"),
        ("timeout", "5"),
        ("max_result_bytes", "5"),
        ("retry", 3),
    ]
    for name, value in options:
        with pytest.raises(TypeError, match=rf"{name}( of .*)? must be"):
            aios.tool(**{name: value})(tested)
    with pytest.raises(aios.ConfigurationError, match="timeout of tool tested must be"):
        aios.tool(timeout=-1)(tested)
    with pytest.raises(TypeError, match="description of a tool must be a str"):
        aios.Tool.agent("helper", cast("Any", None), "agent")


def test_should_call_a_tool_with_keyword_arguments_of_any_name() -> None:
    def search(self: str) -> str:
        return self

    assert aios.tool(search)(self="words") == "words"
