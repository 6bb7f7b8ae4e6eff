from __future__ import annotations

import asyncio
import dataclasses
import datetime
import json
import threading
import typing
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import aios
import aios.sync
import pydantic
import pytest
from agents import results
from aios.testing import FunctionModel, ScriptedModel

FIXTURES = Path(__file__).parent.parent.parent / "tests" / "fixtures"

Call = aios.ToolCall


def calls(*made: aios.ToolCall) -> aios.ModelResponse:
    return aios.ModelResponse(tool_calls=made, input_tokens=10, output_tokens=5)


@aios.tool
async def search(words: str, limit: int = 3) -> str:
    """Searches.

    Returns the best page."""
    return f"found {words} ({limit})"


@dataclasses.dataclass
class Report:
    title: str


class Article(pydantic.BaseModel):
    title: str
    words: int


@dataclasses.dataclass
class Tagged:
    tags: typing.Dict  # type: ignore[type-arg]  # noqa: UP006


async def run_agent(agent: aios.LlmAgent[Any], prompt: Any = "go") -> Any:
    async with aios.Runtime(agents=[agent]) as runtime:
        run = await runtime.start(agent, prompt)
        return await run.result()


async def test_should_return_output_with_a_bare_dictionary() -> None:
    agent = aios.LlmAgent("writer", ScriptedModel('{"tags": {"a": 1}}'), output_type=Tagged)
    assert await run_agent(agent) == Tagged({"a": 1})


async def test_should_call_tools_and_answer() -> None:
    model = ScriptedModel(calls(Call("search", {"words": "sqlite"})), "It is a database.")
    agent = aios.LlmAgent("researcher", model, instructions="Be brief.", tools=[search])
    assert await run_agent(agent, "What is SQLite?") == "It is a database."
    model.assert_finished()
    first, second = model.requests
    assert first["instructions"] == "Be brief."
    assert first["tools"] == [
        {
            "name": "search",
            "description": "Searches.\n\nReturns the best page.",
            "parameters": {
                "type": "object",
                "properties": {
                    "words": {"type": "string"},
                    "limit": {"type": "integer", "default": 3},
                },
                "required": ["words"],
                "additionalProperties": False,
            },
        }
    ]
    assert second["messages"][2]["content"][0]["content"] == "found sqlite (3)"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(Report, Report("x")), (Article, Article(title="x", words=2)), (list[int], [1, 2])],
)
async def test_should_read_output_of_a_type(kind: Any, expected: Any) -> None:
    good = {"result": [1, 2]} if kind == list[int] else {"title": "x", "words": 2}
    if kind is Report:
        del good["words"]
    model = ScriptedModel('{"wrong": true}', json.dumps(good))
    agent = aios.LlmAgent("writer", model, output_type=kind)
    assert await run_agent(agent) == expected
    assert "does not match" in json.dumps(model.requests[1]["messages"][-1])


class Booking(pydantic.BaseModel):
    title: str

    @pydantic.field_validator("title")
    @classmethod
    def is_upper(cls, title: str) -> str:
        if not title.isupper():
            raise ValueError("the title is in capitals")
        return title


@dataclasses.dataclass
class Event:
    at: datetime.datetime
    id: uuid.UUID


UUID = "12345678-1234-5678-1234-567812345678"


@pytest.mark.parametrize("native_output", [True, False])
@pytest.mark.parametrize(
    ("kind", "wrong", "right", "fault", "expected"),
    [
        (Booking, {"title": "x"}, {"title": "X"}, "in capitals", Booking(title="X")),
        (
            Event,
            {"at": "tomorrow", "id": UUID},
            {"at": "2030-01-02T03:04:05Z", "id": UUID},
            "/at",
            Event(datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.UTC), uuid.UUID(UUID)),
        ),
        (uuid.UUID, {"result": "no id"}, {"result": UUID}, "/", uuid.UUID(UUID)),
    ],
)
async def test_should_let_the_model_repair_output_that_only_its_schema_accepts(
    native_output: bool, kind: Any, wrong: Any, right: Any, fault: str, expected: Any
) -> None:
    requests: list[dict[str, Any]] = []

    def model(request: dict[str, Any]) -> aios.ModelResponse | str:
        requests.append(request)
        output = wrong if len(requests) == 1 else right
        return json.dumps(output) if native_output else calls(Call("final_result", output))

    agent = aios.LlmAgent(
        "writer", FunctionModel(model, native_output=native_output), output_type=kind
    )
    assert await run_agent(agent) == expected
    assert len(requests) == 2
    told = json.dumps(requests[1]["messages"][-1])
    assert "not valid" in told
    assert fault in told


async def test_should_fail_when_output_never_matches_its_type() -> None:
    model = FunctionModel(lambda request: '{"title": "x"}')
    agent = aios.LlmAgent("writer", model, output_type=Booking, max_faults=2)
    with pytest.raises(aios.RunFailedError) as failed:
        await run_agent(agent)
    assert failed.value.code == "MODEL_FAULTS"


async def test_should_refuse_an_edit_that_only_the_schema_accepts() -> None:
    at: list[datetime.datetime] = []

    @aios.tool(approval=True)
    async def book(when: datetime.datetime) -> str:
        at.append(when)
        return "booked"

    first = calls(Call("book", {"when": "2030-01-02T03:04:05Z"}))
    agent = aios.LlmAgent("clerk", ScriptedModel(first, "done"), tools=[book])
    async with aios.Runtime(agents=[agent]) as runtime:
        run = await runtime.start(agent, "go")
        while not (pending := aios.pending_decisions(await run.status())):
            await asyncio.sleep(0.01)
        await run.signal(pending[0].signal, pending[0].edit({"when": "tomorrow"}))
        while not any(it.refused for it in aios.pending_decisions(await run.status())):
            await asyncio.sleep(0.01)
        await run.signal(pending[0].signal, pending[0].edit({"when": "2031-01-02T03:04:05Z"}))
        assert await run.result() == "done"
    assert [it.year for it in at] == [2031]


async def test_should_doubt_a_write_that_was_interrupted() -> None:
    @aios.tool(effect="write")
    async def pay(words: str) -> str:
        raise asyncio.CancelledError

    model = ScriptedModel(calls(Call("pay", {"words": "ten"})), "done")
    agent = aios.LlmAgent("clerk", model, tools=[pay])
    async with aios.Runtime(agents=[agent], store="memory://") as runtime:
        run = await runtime.start(agent, "go")
        while not (pending := aios.pending_decisions(await run.status())):
            await asyncio.sleep(0.01)
        assert pending[0].in_doubt is not None
        assert pending[0].in_doubt["code"] == "INTERRUPTED"
        await run.signal(pending[0].signal, pending[0].done("paid by hand"))
        assert await run.result() == "done"
    assert results(model, 1) == [("paid by hand", False)]


@pytest.mark.parametrize(("strategy", "found"), [("exhaustive", ["b"]), ("early", [])])
async def test_should_decide_about_calls_beside_a_result(
    strategy: Literal["exhaustive", "early"], found: list[str]
) -> None:
    searched: list[str] = []

    @aios.tool
    async def look(words: str) -> str:
        searched.append(words)
        return words

    def model(request: dict[str, Any]) -> aios.ModelResponse:
        assert any(it["name"] == "final_result" for it in request["tools"])
        return calls(Call("final_result", {"title": "x"}, "a"), Call("look", {"words": "b"}, "b"))

    only_tools = FunctionModel(model, native_output=False)
    agent = aios.LlmAgent(
        "writer", only_tools, tools=[look], output_type=Report, end_strategy=strategy
    )
    assert await run_agent(agent) == Report("x")
    assert searched == found
    with pytest.raises(aios.ConfigurationError, match="end_strategy"):
        aios.LlmAgent("writer", model, end_strategy="later")  # type: ignore[call-overload]


async def test_should_run_plain_tools_in_threads_and_plain_models() -> None:
    here, places = threading.get_ident(), []

    @aios.tool(name="place-of", description="Tells the thread.")
    def place(context: aios.ToolContext) -> dict[str, int]:
        places.append(threading.get_ident())
        assert context.attempt == 1
        assert context.idempotency_key
        return {"one": 1}

    seen: list[dict[str, Any]] = []

    def model(request: dict[str, Any]) -> aios.ModelResponse | str:
        seen.append(request)
        return calls(Call("place-of")) if len(seen) == 1 else "done"

    assert await run_agent(aios.LlmAgent("placer", model, tools=[place])) == "done"
    assert places
    assert here not in places
    assert seen[1]["messages"][2]["content"][0]["content"] == '{"one":1}'


async def test_should_tell_the_model_about_faults() -> None:
    @aios.tool
    async def fail(words: str) -> str:
        raise ValueError("no such page")

    wrong = calls(Call("search", {"words": 7}), Call("lookup", {}, "b"))
    model = ScriptedModel(wrong, calls(Call("fail", {"words": "x"})), "sorry")
    retry = aios.RetryPolicy(max_attempts=1)
    tools = [search, aios.tool(name="fail", retry=retry)(fail.function)]
    assert await run_agent(aios.LlmAgent("faulty", model, tools=tools)) == "sorry"
    told = [part["content"] for part in model.requests[1]["messages"][2]["content"]]
    assert "/words" in told[0]
    assert "There is no tool" in told[1]
    assert "no such page" in model.requests[2]["messages"][4]["content"][0]["content"]


async def test_should_wait_for_approval() -> None:
    paid: list[int] = []

    @aios.tool(effect="write", approval=True)
    async def pay(amount: int) -> str:
        """Pays."""
        paid.append(amount)
        return "paid"

    model = ScriptedModel(calls(Call("pay", {"amount": 500})), "It is done.")
    agent = aios.LlmAgent("clerk", model, tools=[pay])
    async with aios.Runtime(agents=[agent]) as runtime:
        run = await runtime.start(agent, "Pay.")
        while not (pending := aios.pending_decisions(await run.status())):
            await asyncio.sleep(0.01)
        assert (pending[0].tool, pending[0].arguments) == ("pay", {"amount": 500})
        assert not paid
        await run.signal(pending[0].signal, pending[0].edit({"amount": 400}))
        assert await run.result() == "It is done."
    assert paid == [400]


@pytest.mark.parametrize("is_async", [True, False])
async def test_should_not_report_a_write_as_failed_whose_result_has_no_json(is_async: bool) -> None:
    @aios.tool(effect="write", name="pay")
    async def pay_async(amount: int) -> Any:
        """Pays."""
        return object()

    @aios.tool(effect="write", name="pay")
    def pay(amount: int) -> Any:
        """Pays."""
        return object()

    model = ScriptedModel(calls(Call("pay", {"amount": 500})), "It is done.")
    agent = aios.LlmAgent("clerk", model, tools=[pay_async if is_async else pay])
    assert await run_agent(agent) == "It is done."
    [(content, is_error)] = results(model, 1)
    assert not is_error
    assert content.startswith("The call succeeded")


@pytest.mark.parametrize("effect", ["read", "idempotent", "write"])
@pytest.mark.parametrize("is_async", [True, False])
async def test_should_show_the_items_of_an_iterator_that_a_tool_returned(
    effect: Any, is_async: bool
) -> None:
    @aios.tool(effect=effect, name="pay")
    async def pay_async(amount: int) -> Any:
        """Pays."""
        return {"paid": map(str, [amount]), "rest": 2**70}

    @aios.tool(effect=effect, name="pay")
    def pay(amount: int) -> Any:
        """Pays."""
        return {"paid": map(str, [amount]), "rest": 2**70}

    model = ScriptedModel(calls(Call("pay", {"amount": 500})), "It is done.")
    agent = aios.LlmAgent("clerk", model, tools=[pay_async if is_async else pay])
    assert await run_agent(agent) == "It is done."
    assert results(model, 1) == [('{"paid":["500"],"rest":1180591620717411303424}', False)]


async def test_should_round_no_number_of_arguments_edits_and_results() -> None:
    large = 2**70

    @aios.tool(approval=True)
    async def add(amount: int) -> int:
        """Adds one."""
        return amount + 1

    model = ScriptedModel(calls(Call("add", {"amount": large})), "It is done.")
    agent = aios.LlmAgent("clerk", model, tools=[add])
    async with aios.Runtime(agents=[agent]) as runtime:
        run = await runtime.start(agent, "Add.")
        while not (pending := aios.pending_decisions(await run.status())):
            await asyncio.sleep(0.01)
        assert pending[0].arguments == {"amount": large}
        await run.signal(pending[0].signal, pending[0].edit({"amount": large + 10}))
        assert await run.result() == "It is done."
    [(told, is_error)] = results(model, 1)
    assert told.endswith(f"\n{large + 11}")
    assert f'{{"amount":{large + 10}}}' in told
    assert not is_error


async def test_should_name_the_store_that_a_write_tool_needs() -> None:
    @aios.tool(effect="write")
    async def pay(amount: int) -> str:
        """Pays."""
        return "paid"

    agent = aios.LlmAgent("clerk", ScriptedModel(), tools=[pay])
    with pytest.raises(aios.ConfigurationError, match="pass `store` to the runtime"):
        async with aios.Runtime(store=None, agents=[agent]):
            pass


async def test_should_stop_at_the_budget() -> None:
    model = ScriptedModel(*[calls(Call("search", {"words": str(n)})) for n in range(5)])
    agent = aios.LlmAgent("spender", model, tools=[search], budget=aios.Budget(requests=2))
    with pytest.raises(aios.RunFailedError) as caught:
        await run_agent(agent)
    assert caught.value.code == "BUDGET_EXCEEDED"
    assert len(model.requests) == 2


async def test_should_stream_what_the_agent_does() -> None:
    @aios.tool
    async def work(context: aios.ToolContext) -> str:
        context.progress({"bytes": 12345678901234567890123})
        return "worked"

    model = ScriptedModel(calls(Call("work")), "Well done.")
    agent = aios.LlmAgent("worker", model, tools=[work], streaming=True)
    async with aios.Runtime(agents=[agent]) as runtime:
        run = await runtime.start(agent, "Work.")
        items = [item async for item in run.stream("tokens")]
        assert [item.value["type"] for item in items] == [
            "tool_call",
            "tool_started",
            "tool_progress",
            "tool_ended",
            "text",
        ]
        assert items[2].value["progress"] == {"bytes": 12345678901234567890123}
        # A reader that comes back continues after what it has seen.
        again = [item async for item in run.stream("tokens", items[3].offset)]
        assert [item.value for item in again if not item.is_reset] == [items[4].value]
        assert await run.result() == "Well done."


@aios.agent("counter")
async def counter(context: aios.TaskContext, most: int) -> int:
    numbers = context.stream("numbers")
    for number in range(most):
        numbers.write(number)
    return most


@aios.agent("plain_counter")
def plain_counter(context: aios.TaskContext, most: int) -> int:
    numbers = context.stream("numbers")
    for number in range(most):
        numbers.write({"n": number})
    numbers.end()
    return most


async def test_should_write_and_read_output_streams() -> None:
    async with aios.Runtime(agents=[counter, plain_counter]) as runtime:
        run = await runtime.task("counter", 1200)
        assert [item.value async for item in run.stream("numbers")] == list(range(1200))
        run = await runtime.task("plain_counter", 3)
        assert [item.value async for item in run.stream("numbers")] == [
            {"n": 0},
            {"n": 1},
            {"n": 2},
        ]
        with pytest.raises(aios.InvalidDataError, match="output stream"):
            [item async for item in run.stream("Bad name")]


def test_should_stream_in_blocking_code() -> None:
    with aios.sync.Runtime(agents=[counter]) as runtime:
        run = runtime.task("counter", 2)
        assert [item.value for item in run.stream("numbers")] == [0, 1]


async def test_should_use_a_model_of_a_provider() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        asked = json.loads(await reader.readexactly(length))
        keys.append(b"x-api-key: secret" in head.lower())
        body = {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "model": asked["model"],
            "content": [{"type": "text", "text": "Paris"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 3, "output_tokens": 1},
        }
        text = json.dumps(body).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
            + f"content-length: {len(text)}\r\n\r\n".encode()
            + text
        )
        await writer.drain()
        writer.close()

    keys: list[bool] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    model = aios.Provider("anthropic:claude", "secret", f"http://127.0.0.1:{port}")
    assert await run_agent(aios.LlmAgent("geographer", model)) == "Paris"
    assert keys == [True]
    assert "secret" not in repr(model)
    server.close()


def test_should_refuse_unknown_options() -> None:
    with pytest.raises(TypeError, match="no option budgets"):
        aios.LlmAgent("a", "openai:x", budgets=7)  # type: ignore[call-overload]


def test_should_refuse_invalid_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def many(*words: str) -> str:
        return ""

    refused: list[tuple[Callable[[], Any], str]] = [
        (lambda: aios.LlmAgent("No", "openai:x"), "name"),
        (lambda: aios.LlmAgent("a", 7), "model"),  # type: ignore[call-overload]
        (lambda: aios.tool(effect="maybe")(many), "effect"),  # type: ignore[call-overload]
        (lambda: aios.tool(many), "by name"),
        (lambda: aios.LlmAgent("a", "acme:x").bind(), "not a model"),
        (lambda: aios.LlmAgent("a", "openai:x").bind(), "OPENAI_API_KEY"),
    ]
    for make, says in refused:
        with pytest.raises(aios.ConfigurationError, match=says):
            make()


async def test_should_report_an_invalid_tool_when_it_opens() -> None:
    twice = aios.LlmAgent("twice", ScriptedModel(), tools=[search, search])
    with pytest.raises(aios.ConfigurationError, match="twice"):
        async with aios.Runtime(agents=[twice]):
            pass


async def test_should_have_the_journal_that_other_languages_have() -> None:
    @aios.tool(name="search", description="Searches.")
    async def find(words: str) -> str:
        return f"found {words}"

    responses: list[str | aios.ModelResponse] = [
        calls(Call("search", {"words": "a"}, "a"), Call("search", {"words": "b"}, "b")),
        '{"title": 7}',
        '{"title": "done"}',
    ]
    agent = aios.LlmAgent(
        "agent",
        ScriptedModel(*responses),
        instructions="Search, then report.",
        tools=[find],
        output_type=Report,
        budget=aios.Budget(requests=9),
    )

    async with aios.Runtime(agents=[agent]) as runtime:
        run = await runtime.start(agent, "go")
        assert await run.result() == Report("done")
        shape = await journal_shape(run)
    assert shape == json.loads((FIXTURES / "llm_journal.json").read_text())


async def test_should_have_the_journal_of_an_approval_that_other_languages_have() -> None:
    @aios.tool(effect="write", approval=True, description="Pays.")
    async def pay(words: str) -> str:
        return f"paid {words}"

    model = ScriptedModel(calls(Call("pay", {"words": "a"}, "a")), "done")
    agent = aios.LlmAgent("agent", model, tools=[pay])
    async with aios.Runtime(agents=[agent]) as runtime:
        run = await runtime.start(agent, "go")
        while not (pending := aios.pending_decisions(await run.status())):
            await asyncio.sleep(0.01)
        await run.signal(pending[0].signal, pending[0].approve())
        assert await run.result() == "done"
        shape = await journal_shape(run)
    assert shape == json.loads((FIXTURES / "llm_approval_journal.json").read_text())


async def journal_shape(run: aios.RunHandle[Any]) -> list[Any]:
    """The type of each event of a journal, with the keys of its data, and of the parameters and
    output of tasks."""

    def keys(value: Any) -> list[str]:
        return sorted(value) if isinstance(value, dict) else []

    events = [recorded.event for recorded in await run.journal()]
    return [
        [
            event.type,
            keys(event.data),
            keys((event.data or {}).get("parameters")),
            keys((event.data or {}).get("output")),
        ]
        for event in events
    ]
