"""Faults of models and tools: each is returned to the model, or ends the run with a code."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import sys
from collections.abc import Callable
from typing import Any

import aios
import pytest
from agents import results
from aios.testing import FunctionModel, ScriptedModel

Call = aios.ToolCall

ONCE = aios.RetryPolicy(max_attempts=1)


def call(tool: str = "work", **arguments: Any) -> aios.ModelResponse:
    return aios.ModelResponse(tool_calls=[Call(tool, arguments, "c")], input_tokens=10)


def fail() -> Any:
    raise ValueError("broken")


def leave() -> Any:
    sys.exit(3)


def recurse() -> Any:
    return recurse()


def flood() -> Any:
    return "x" * 50_000_000


def deep() -> Any:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    return value


def cyclic() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def no_json() -> Any:
    return object()


def lone_surrogate() -> Any:
    return "\ud800"


BAD: list[tuple[Callable[[], Any], str]] = [
    (fail, "broken"),
    (leave, "3"),
    (recurse, "recursion"),
    (flood, "TOOL_RESULT_TOO_LARGE"),
    (deep, ""),
    (cyclic, ""),
    (no_json, "object"),
    (lone_surrogate, ""),
]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(("bad", "says"), BAD, ids=lambda it: getattr(it, "__name__", ""))
async def test_should_tell_the_model_what_a_tool_did_wrong(
    bad: Callable[[], Any], says: str, is_async: bool
) -> None:
    async def work_async() -> Any:
        """Works."""
        return bad()

    def work() -> Any:
        """Works."""
        return bad()

    model = ScriptedModel(call(), "sorry")
    tool = aios.tool(name="work", retry=ONCE)(work_async if is_async else work)
    agent = aios.LlmAgent("agent", model, tools=[tool])
    async with aios.Runtime(agents=[agent]) as runtime:
        run = await runtime.start(agent, "go")
        assert await asyncio.wait_for(run.result(), 60) == "sorry"
    [(content, is_error)] = results(model, 1)
    assert is_error
    assert says in content
    assert len(content) < 10_000


@pytest.mark.parametrize("is_async", [False, True])
async def test_should_tell_the_model_about_a_tool_that_hangs(is_async: bool) -> None:
    hanging = asyncio.Event()

    async def work_async() -> Any:
        """Works."""
        await hanging.wait()

    def work() -> Any:
        """Works."""
        import time

        time.sleep(2)

    model = ScriptedModel(call(), "sorry")
    tool = aios.tool(name="work", retry=ONCE, timeout=0.1)(work_async if is_async else work)
    agent = aios.LlmAgent("agent", model, tools=[tool])
    async with aios.Runtime(agents=[agent]) as runtime:
        run = await runtime.start(agent, "go")
        assert await asyncio.wait_for(run.result(), 60) == "sorry"
    [(content, is_error)] = results(model, 1)
    assert is_error
    assert "TASK_TIMEOUT" in content


async def failure_of(model: Any, **options: Any) -> aios.RunFailedError:
    async def work(words: str) -> str:
        """Works."""
        return words

    agent = aios.LlmAgent("agent", model, tools=[aios.tool(work)], model_retry=ONCE, **options)
    async with aios.Runtime(agents=[agent]) as runtime:
        run = await runtime.start(agent, "go")
        with pytest.raises(aios.RunFailedError) as caught:
            await asyncio.wait_for(run.result(), 60)
    return caught.value


def answer(response: aios.ModelResponse, request: dict[str, Any]) -> aios.ModelResponse:
    return response


async def test_should_end_a_model_that_never_calls_a_tool_as_it_should() -> None:
    deep = {"words": json.loads("[" * 100 + "]" * 100)}
    wrong: list[dict[str, Any]] = [{"words": 7}, {}, deep, {"words": "x" * 300_000}]
    for arguments in wrong:
        response = call(**arguments)
        error = await failure_of(FunctionModel(functools.partial(answer, response)))
        assert error.code == "MODEL_FAULTS", arguments
    error = await failure_of(FunctionModel(lambda _: call("unknown")))
    assert error.code == "MODEL_FAULTS"
    assert (await failure_of(FunctionModel(lambda _: call(words="x")))).code == "MODEL_FAULTS"


@pytest.mark.parametrize("bad", [fail, leave, recurse, deep, cyclic, no_json])
async def test_should_fail_when_a_model_breaks(bad: Callable[[], Any]) -> None:
    error = await failure_of(FunctionModel(lambda _: bad()))
    assert error.code.startswith(("MODEL_", "AGENT_", "INVALID_")), error


async def test_should_fail_when_a_response_is_larger_than_an_event() -> None:
    error = await failure_of(FunctionModel(lambda _: flood()))
    assert error.code in ("EVENT_TOO_LARGE", "MODEL_RESPONSE_TOO_LARGE"), error


async def test_should_settle_a_stream_that_exceeds_the_budget_before_it_fails() -> None:
    long = aios.ModelResponse(
        tool_calls=[Call("work", {"words": "x"}, "c")], input_tokens=10, output_tokens=5_000
    )
    agent = aios.LlmAgent(
        "agent",
        ScriptedModel(long, "never"),
        tools=[aios.tool(name="work")(lambda words: str(words))],
        budget=aios.Budget(output_tokens=100),
        streaming=True,
    )
    async with aios.Runtime(agents=[agent]) as runtime:
        run = await runtime.start(agent, "go")
        with pytest.raises(aios.RunFailedError) as caught:
            await asyncio.wait_for(run.result(), 60)
        spent = (await aios.Conversation.of(run)).spent
    assert caught.value.code == "BUDGET_EXCEEDED"
    assert (spent["requests"], spent["usage"]["output_tokens"]) == (1, 5_000)


async def test_should_log_no_secret_of_a_prompt(caplog: pytest.LogCaptureFixture) -> None:
    def work(words: str) -> str:
        """Works."""
        raise ValueError(words)

    secret = "sk-very-secret"
    model = ScriptedModel(call(words=secret), "sorry")
    agent = aios.LlmAgent("agent", model, tools=[aios.tool(retry=ONCE)(work)])
    with caplog.at_level(logging.DEBUG):
        async with aios.Runtime(agents=[agent]) as runtime:
            run = await runtime.start(agent, f"My key is {secret}.")
            assert await asyncio.wait_for(run.result(), 60) == "sorry"
    assert secret not in caplog.text
