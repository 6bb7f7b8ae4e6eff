"""Models of every kind as the model of an agent, and the provider for tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import aios
import pytest
from aios.testing import (
    FakeProvider,
    FakeReply,
    FakeRequest,
    FunctionModel,
    Recorded,
    SchemaModel,
    ScriptedModel,
    forbid_real_requests,
)

Protocol = Literal["openai", "openai-responses", "anthropic", "gemini", "bedrock", "ollama"]
#: The path of a request in each protocol.
PATHS: dict[Protocol, tuple[str, str]] = {
    "openai": ("/v1/chat/completions", "/v1/chat/completions"),
    "openai-responses": ("/v1/responses", "/v1/responses"),
    "anthropic": ("/v1/messages", "/v1/messages"),
    "gemini": (
        "/v1beta/models/large:generateContent",
        "/v1beta/models/large:streamGenerateContent",
    ),
    "bedrock": ("/model/large/converse", "/model/large/converse-stream"),
    "ollama": ("/v1/chat/completions", "/v1/chat/completions"),
}
SOON = aios.RetryPolicy(max_attempts=3, initial_delay=0.001, jitter=0.0)


@aios.tool
async def search(words: str) -> str:
    """Searches."""
    return f"found {words}"


def call(words: str) -> aios.ModelResponse:
    made = aios.ToolCall("search", {"words": words})
    return aios.ModelResponse(tool_calls=[made], input_tokens=10, output_tokens=5)


def provider_model(provider: FakeProvider, protocol: Protocol, **options: Any) -> aios.Provider:
    urls = {
        "anthropic": provider.anthropic_url,
        "gemini": provider.gemini_url,
        "bedrock": provider.bedrock_url,
    }
    if protocol == "bedrock":
        credentials = aios.AwsCredentials("AKID", "secret", "token")
        options = {"region": "eu-west-1", "aws_credentials": credentials, **options}
    url = urls.get(protocol, provider.openai_url)
    return aios.Provider(f"{protocol}:large", "key", url, **options)


async def run(agent: aios.LlmAgent[Any], prompt: Any = "go") -> Any:
    async with aios.Runtime(agents=[agent]) as runtime:
        return await (await runtime.start(agent, prompt)).result()


async def test_should_ask_the_next_model() -> None:
    def busy(request: dict[str, Any]) -> str:
        raise aios.ModelError("busy", code="MODEL_OVERLOADED")

    model = aios.FallbackModel(busy, ScriptedModel("from the second"))
    assert await run(aios.LlmAgent("asker", model)) == "from the second"
    only = aios.FallbackModel(busy, ScriptedModel("x"), on=["MODEL_REFUSED"])
    retry = aios.RetryPolicy(max_attempts=1)
    with pytest.raises(aios.RunFailedError) as caught:
        await run(aios.LlmAgent("asker", only, model_retry=retry))
    assert caught.value.code == "MODEL_OVERLOADED"
    assert isinstance(caught.value.__cause__, aios.ModelError)


async def test_should_share_a_circuit_breaker_between_agents() -> None:
    asked: list[str] = []

    async def broken(request: dict[str, Any]) -> str:
        asked.append(request["instructions"])
        raise aios.ModelError("down", code="MODEL_UNAVAILABLE", retry_after=0.5)

    model = aios.CircuitBreakerModel(broken, failures=1, open_for=600)
    never = aios.RetryPolicy(max_attempts=1)
    agents = [
        aios.LlmAgent(name, model, instructions=name, model_retry=never) for name in ("one", "two")
    ]
    failures: list[aios.RunFailedError] = []
    async with aios.Runtime(agents=agents) as runtime:
        for agent in agents:
            with pytest.raises(aios.RunFailedError) as caught:
                await (await runtime.start(agent, "go")).result()
            failures.append(caught.value)
    assert asked == ["one"]
    assert [it.code for it in failures] == ["MODEL_UNAVAILABLE", "MODEL_CIRCUIT_OPEN"]
    cause = failures[0].__cause__
    assert isinstance(cause, aios.ModelError)
    assert (cause.retry_after, cause.details["retryable"]) == (0.5, True)


async def test_should_answer_equal_requests_once() -> None:
    script = ScriptedModel("first")
    agent = aios.LlmAgent("cached", aios.CachedModel(script))
    async with aios.Runtime(agents=[agent]) as runtime:
        results = [await (await runtime.start(agent, "go")).result() for _ in range(2)]
    assert results == ["first", "first"]
    assert len(script.requests) == 1


async def pieces(request: dict[str, Any]) -> AsyncIterator[str | aios.ModelResponse]:
    for piece in ["Pa", "", "ris"]:
        yield piece
    yield aios.ModelResponse(input_tokens=3, output_tokens=2)


def plain_pieces(request: dict[str, Any]) -> Iterator[str]:
    yield "Pa"
    yield "ris"


@pytest.mark.parametrize("model", [pieces, plain_pieces])
async def test_should_stream_what_a_generator_yields(model: Callable[..., Any]) -> None:
    agent = aios.LlmAgent("geographer", model, streaming=True)
    async with aios.Runtime(agents=[agent]) as runtime:
        started = await runtime.start(agent, "go")
        shown = [item.value async for item in started.stream("tokens")]
        assert await started.result() == "Paris"
        spent = (await aios.Conversation.of(started)).spent
    assert [update["text"] for update in shown if update["type"] == "text"] == ["Pa", "ris"]
    assert spent["usage"]["input_tokens"] == (3 if model is pieces else 0)
    # Without a stream, the pieces are the response.
    assert await run(aios.LlmAgent("geographer", model)) == "Paris"


async def test_should_report_what_a_generator_must_not_yield() -> None:
    def wrong(request: dict[str, Any]) -> Iterator[Any]:
        yield aios.ModelResponse("done")
        yield "more"

    with pytest.raises(aios.RunFailedError, match="yields nothing after"):
        await run(aios.LlmAgent("wrong", wrong, model_retry=aios.RetryPolicy(max_attempts=1)))


async def test_should_make_valid_output_from_schemas() -> None:
    agent = aios.LlmAgent("maker", SchemaModel(), tools=[search], output_type=dict[str, int])
    assert await run(agent) == {}


async def test_should_use_the_capabilities_of_a_function() -> None:
    asked: list[dict[str, Any]] = []

    def model(request: dict[str, Any]) -> str:
        asked.append(request)
        return '{"result": [1]}'

    limited = FunctionModel(model, name="acme:small", native_output=False, tools=False)
    assert await run(aios.LlmAgent("limited", limited, output_type=list[int])) == [1]
    assert "output" not in asked[0]
    assert "tools" not in asked[0]
    assert "schema" in asked[0]["instructions"].lower()


async def test_should_replay_a_run_offline_and_begin_again_at_a_turn() -> None:
    model = ScriptedModel(call("a"), call("b"), "done", "done otherwise")
    agent = aios.LlmAgent("searcher", model, tools=[search])
    async with aios.Runtime(agents=[agent]) as runtime:
        first = await runtime.start(agent, "go")
        assert await first.result() == "done"
        journal = await first.journal()
        conversation = await aios.Conversation.of(first)
        assert [turn.response["finish_reason"] for turn in conversation.turns] == [
            "tool_calls",
            "tool_calls",
            "stop",
        ]
        assert conversation.spent["requests"] == 3
        # Turns 1 and 2 are not requested again.
        again = await runtime.start(agent, conversation.from_turn(3, "Be brief."))
        assert await again.result() == "done otherwise"
        assert len(model.requests) == 4
        assert model.requests[3]["instructions"] == "Be brief."
        assert model.requests[3]["messages"] == model.requests[2]["messages"]
    with pytest.raises(aios.ConfigurationError, match="no turn 4"):
        conversation.from_turn(4)
    replayed = aios.LlmAgent("searcher", Recorded(journal), tools=[search])
    assert await run(replayed) == "done"
    with pytest.raises(aios.RunFailedError) as caught:
        await run(replayed, conversation.continued("and now?"))
    assert caught.value.code == "MODEL_UNEXPECTED_REQUEST"


async def test_should_continue_with_the_instructions_and_the_subject_of_the_prompt() -> None:
    model = ScriptedModel("one", "two", "three")
    agent = aios.LlmAgent("searcher", model, instructions="Write much.")
    prompt = aios.Prompt("go", instructions="Write little.", subject="mary")
    async with aios.Runtime(agents=[agent]) as runtime:
        first = await runtime.start(agent, prompt)
        await first.result()
        conversation = await aios.Conversation.of(first)
        assert conversation.subject == "mary"
        for row, kept in ((conversation.continued("more"), 1), (conversation.from_turn(1), 0)):
            assert row["subject"] == "mary"
            assert row["continues"] == {"run_id": first.id, "turns": kept}
            again = await runtime.start(agent, row)
            await again.result()
            assert model.requests[-1]["instructions"] == "Write little."
            assert (await aios.Conversation.of(again)).continues == row["continues"]
    assert conversation.continued("more", "Write.")["instructions"] == "Write."
    assert conversation.from_turn(1, "Write.")["instructions"] == "Write."


async def test_should_take_why_the_response_of_a_function_ended_and_all_of_its_usage() -> None:
    responses = iter(
        [
            aios.ModelResponse("Once upon", finish_reason="length"),
            aios.ModelResponse("Once upon a", finish_reason="paused"),
            aios.ModelResponse(
                "Once.",
                reasoning="Briefly.",
                input_tokens=10,
                cached_input_tokens=8,
                output_tokens=5,
                reasoning_tokens=3,
            ),
        ]
    )

    def respond(_: dict[str, Any]) -> aios.ModelResponse:
        return next(responses)

    price = aios.Price(input=10.0, output=1.0, cached_input=1.0)
    budget = aios.Budget(prices={"python:respond": price})
    agent = aios.LlmAgent("teller", respond, budget=budget)
    async with aios.Runtime(agents=[agent]) as runtime:
        told = await runtime.start(agent, "go")
        assert await told.result() == "Once."
        conversation = await aios.Conversation.of(told)
    reasons = [turn.response["finish_reason"] for turn in conversation.turns]
    assert reasons == ["length", {"other": "paused"}, "stop"]
    assert conversation.turns[2].response["content"] == [
        {"type": "reasoning", "text": "Briefly."},
        {"type": "text", "text": "Once."},
    ]
    assert conversation.spent["usage"] == {
        "input_tokens": 10,
        "cached_input_tokens": 8,
        "output_tokens": 5,
        "reasoning_tokens": 3,
    }
    # Two tokens at 10 dollars per million, eight and five at one.
    assert conversation.spent["cost"] == 33_000


async def test_should_fail_if_a_scripted_model_refuses_or_cuts_a_call_off() -> None:
    model = ScriptedModel(aios.ModelResponse("No.", finish_reason="refusal"))
    with pytest.raises(aios.RunFailedError) as caught:
        await run(aios.LlmAgent("teller", model))
    assert caught.value.code == "MODEL_REFUSED"
    cut_off = aios.ModelResponse(
        tool_calls=[aios.ToolCall("search", '{"words": "a')], finish_reason="length"
    )
    agent = aios.LlmAgent("teller", ScriptedModel(cut_off, "done"), tools=[search])
    async with aios.Runtime(agents=[agent]) as runtime:
        told = await runtime.start(agent, "go")
        assert await told.result() == "done"
        conversation = await aios.Conversation.of(told)
    (result,) = conversation.turns[1].messages[-1]["content"]
    assert result["is_error"] and "cut off" in result["content"]


@pytest.mark.parametrize("native_output", [True, False])
async def test_should_replay_structured_output_of_any_model(native_output: bool) -> None:
    def respond(request: dict[str, Any]) -> aios.ModelResponse | str:
        if native_output:
            return '{"result": [1]}'
        made = aios.ToolCall("final_result", {"result": [1]})
        return aios.ModelResponse(tool_calls=[made])

    model = FunctionModel(respond, native_output=native_output)
    agent = aios.LlmAgent("counter", model, output_type=list[int])
    async with aios.Runtime(agents=[agent]) as runtime:
        first = await runtime.start(agent, "go")
        assert await first.result() == [1]
        journal = await first.journal()
    replayed = aios.LlmAgent("counter", Recorded(journal), output_type=list[int])
    assert await run(replayed) == [1]


@pytest.mark.parametrize("protocol", PATHS)
@pytest.mark.parametrize("streaming", [False, True])
async def test_should_run_on_a_provider_through_its_faults(
    protocol: Protocol, streaming: bool
) -> None:
    faults = [FakeReply.rate_limited(0), FakeReply.overloaded(), FakeReply.cut_off("never", 1)]
    with FakeProvider(*faults[:1], call("rust"), *faults[1:], "done") as provider:
        model = provider_model(provider, protocol)
        agent = aios.LlmAgent(
            "caller", model, tools=[search], streaming=streaming, model_retry=SOON
        )
        async with aios.Runtime(agents=[agent]) as runtime:
            started = await runtime.start(agent, "go")
            assert await started.result() == "done"
            spent = (await aios.Conversation.of(started)).spent
        provider.assert_finished()
        requests = provider.requests
    # Nothing else retries, and every request is counted.
    assert (len(requests), spent["requests"]) == (5, 5)
    assert {request.path for request in requests} == {PATHS[protocol][streaming]}


#: Every fault, its code, and whether the agent repeats the request.
FAULTS = [
    (FakeReply.rate_limited(0), "MODEL_RATE_LIMITED", True),
    (FakeReply.overloaded(), "MODEL_OVERLOADED", True),
    (FakeReply.status(500, "internal"), "MODEL_BACKEND", True),
    (FakeReply.hang(), "MODEL_TIMEOUT", True),
    (FakeReply.malformed(), "MODEL_INVALID_RESPONSE", True),
    (FakeReply.cut_off("never", 1), "MODEL_INVALID_RESPONSE", True),
    (FakeReply.context_overflow(), "MODEL_CONTEXT_OVERFLOW", False),
    (FakeReply.status(401, "wrong key"), "MODEL_UNAUTHORIZED", False),
    (FakeReply.status(404, "no such model"), "MODEL_INVALID_REQUEST", False),
]


@pytest.mark.parametrize("protocol", PATHS)
@pytest.mark.parametrize(("fault", "code", "is_repeated"), FAULTS)
async def test_should_record_every_fault_and_pay_for_nothing_twice(
    protocol: Protocol, fault: FakeReply, code: str, is_repeated: bool, tmp_path: Path
) -> None:
    store = f"sqlite://{tmp_path}/aios.db"
    spent: dict[str, Any] = {}
    journal: list[aios.Event] = []
    with FakeProvider(call("rust"), fault, "done") as provider:
        model = provider_model(provider, protocol, timeout=2 if code == "MODEL_TIMEOUT" else 60)
        agent = aios.LlmAgent("caller", model, tools=[search], model_retry=SOON)
        for _ in range(2):  # The second runtime finds everything recorded.
            async with aios.Runtime(store, agents=[agent]) as runtime:
                started = await runtime.start(agent, "go", id="run")
                if is_repeated:
                    assert await started.result() == "done"
                else:
                    with pytest.raises(aios.RunFailedError) as caught:
                        await started.result()
                    assert caught.value.code == code
                    assert isinstance(caught.value.__cause__, aios.ModelError)
                spent = (await aios.Conversation.of(started)).spent
                journal = [recorded.event for recorded in await started.journal()]
        expected = 3 if is_repeated else 2
        assert (len(provider.requests), spent["requests"], spent["tool_calls"]) == (
            expected,
            expected,
            1,
        )
    failures = [event.data["failure"]["code"] for event in journal if "_failed" in event.type]
    assert code in failures


async def test_should_answer_requests_with_a_function() -> None:
    def respond(request: FakeRequest) -> str | FakeReply:
        if request.headers["authorization"] != "Bearer key":
            return FakeReply.status(401, "wrong key")
        return f"{request.body['model']} at {request.path}"

    with FakeProvider(respond=respond) as provider:
        model = provider_model(provider, "openai")
        assert await run(aios.LlmAgent("asker", model)) == "large at /v1/chat/completions"
        other = aios.Provider("openai:large", "other", provider.openai_url)
        with pytest.raises(aios.RunFailedError) as caught:
            await run(aios.LlmAgent("asker", other))
    assert caught.value.code == "MODEL_UNAUTHORIZED"


def test_should_complain_about_replies_without_a_request() -> None:
    with FakeProvider("one") as provider:
        provider.push("two")
        with pytest.raises(AssertionError, match="2 replies"):
            provider.assert_finished()
    with pytest.raises(aios.ConfigurationError, match="closed"):
        provider.push("three")
    with pytest.raises(TypeError, match="not both"):
        FakeProvider("one", respond=lambda request: "two")


async def test_should_forbid_real_requests() -> None:
    forbid_real_requests()
    try:
        with pytest.raises(aios.RunFailedError) as caught:
            await run(aios.LlmAgent("spender", aios.Provider("openai:gpt-5", "key")))
        assert caught.value.code == "MODEL_REQUEST_FORBIDDEN"
        with FakeProvider("allowed") as provider:
            assert (
                await run(aios.LlmAgent("local", provider_model(provider, "openai"))) == "allowed"
            )
    finally:
        forbid_real_requests(False)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: aios.FallbackModel(), "at least one model"),
        (lambda: aios.FallbackModel("openai:x", on=["MODEL_ASLEEP"]), "MODEL_ASLEEP"),
        (lambda: aios.CircuitBreakerModel("openai:x", failures=0), "failures"),
        (lambda: aios.CachedModel("openai:x", capacity=0), "capacity"),
        (lambda: aios.ClientModel(json, "x"), "no client"),
        (lambda: aios.LlmAgent("a", aios.FallbackModel("acme:x")).bind(), "not a model"),
        (lambda: aios.Provider("bedrock:x", "key").bind(), "AWS_REGION"),
        (lambda: aios.Provider("gemini:x").bind(), "GEMINI_API_KEY"),
    ],
)
def test_should_refuse_invalid_models(
    make: Callable[[], Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("AWS_REGION", "GEMINI_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(aios.ConfigurationError, match=says):
        make()


async def test_should_not_confuse_models_that_are_named_by_a_text() -> None:
    def answer(request: FakeRequest) -> str:
        return str(request.body["model"])

    with FakeProvider(respond=answer) as provider:
        url = provider.openai_url
        names = [f"m{number}" for number in range(10)]
        agents = [
            aios.LlmAgent(
                f"agent_{name}", aios.CachedModel(aios.Provider(f"ollama:{name}", "k", url))
            )
            for name in names
        ]
        async with aios.Runtime(agents=agents) as runtime:
            runs = [await runtime.start(agent, "go") for agent in agents]
            assert [await run.result() for run in runs] == names
    bound = [aios.LlmAgent("a", f"ollama:{name}").bind() for name in names]
    assert len({agent.model.key for agent in bound}) == len(names)
    inner = aios.FallbackModel(*(f"ollama:{name}" for name in names)).bind().models
    assert len({model.key for model in inner}) == len(names)


def test_should_take_an_empty_variable_for_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "")
    with pytest.raises(aios.ConfigurationError, match="set ANTHROPIC_API_KEY"):
        aios.Provider("anthropic:large").bind()
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    for variable in ("AWS_BEARER_TOKEN_BEDROCK", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "")
    with pytest.raises(aios.ConfigurationError, match="set AWS_BEARER_TOKEN_BEDROCK"):
        aios.Provider("bedrock:large").bind()


@pytest.mark.parametrize(
    ("delay", "told"), [(-1.0, None), (float("nan"), None), (0.5, 0.5), (float("inf"), 3.2e10)]
)
def test_should_take_any_delay_of_a_model(delay: float, told: float | None) -> None:
    error = aios.ModelError("later", code="MODEL_RATE_LIMITED", retry_after=delay)
    assert error.retry_after == (told if told is None else pytest.approx(told, rel=0.1))


async def test_should_not_wait_for_longer_than_a_timer() -> None:
    later = aios.ModelError("later", code="MODEL_RATE_LIMITED", retry_after=float("inf"))
    agent = aios.LlmAgent("patient", ScriptedModel(later))
    async with aios.Runtime(agents=[agent]) as runtime:
        with pytest.raises(aios.RunFailedError) as caught:
            await (await runtime.start(agent, "go")).result()
    assert caught.value.code == "MODEL_RATE_LIMITED"


async def test_should_continue_after_calls_with_their_results() -> None:
    both = [aios.ToolCall("search", {"words": "one"}, "a"), aios.ToolCall("nothing", {}, "b")]
    model = ScriptedModel(aios.ModelResponse(tool_calls=both))
    agent = aios.LlmAgent("limited", model, tools=[search], budget=aios.Budget(requests=1))
    async with aios.Runtime(agents=[agent]) as runtime:
        run = await runtime.start(agent, "go")
        with pytest.raises(aios.RunFailedError):
            await run.result()
        conversation = await aios.Conversation.of(run)
    *_, calls, results, last = conversation.continued("Continue.")["messages"]
    assert [calls["role"], results["role"], last["role"]] == ["assistant", "tool", "user"]
    known, unknown = results["content"]
    assert (known["call_id"], known["content"], known["is_error"]) == ("a", "found one", False)
    assert (unknown["call_id"], unknown["is_error"]) == ("b", True)
