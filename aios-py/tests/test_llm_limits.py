"""Guardrails, rates, budgets of subjects, cheaper models and compaction."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable
from typing import Any, cast

import aios
import aios.sync
import pytest
from agents import call, children, failed, search, spent, text
from aios.testing import FunctionModel, ScriptedModel

#: Long enough that no test meets the end of a window.
WINDOW = 100 * 365 * 86_400


@dataclasses.dataclass
class Report:
    title: str


@aios.input_guardrail
def no_keys(messages: list[dict[str, Any]]) -> str | None:
    """Plain checks run in threads."""
    assert threading.current_thread() is not threading.main_thread()
    has_key = "sk-" in messages[-1]["content"][0]["text"]
    return "the prompt has a key" if has_key else None


async def test_should_stop_a_run_before_its_first_request() -> None:
    model = ScriptedModel(text("done"))
    agent = aios.LlmAgent("agent", model, guardrails=[no_keys])
    async with aios.Runtime(agents=[agent]) as runtime:
        run = await runtime.start(agent, "use sk-1")
        failure = (await failed(run)).__cause__
        assert isinstance(failure, aios.TaskError)
        assert failure.code == "GUARDRAIL_TRIPPED"
        assert failure.details == {
            "guardrail": "no_keys",
            "stage": "input",
            "reason": "the prompt has a key",
        }
        assert not model.requests
        types = [recorded.event.type for recorded in await run.journal()]
        assert "llm.guardrail.tripped" in types
        assert await (await runtime.start(agent, "use your own")).result() == "done"


async def test_should_refuse_two_guardrails_with_one_name() -> None:
    @aios.output_guardrail(name="no_keys")
    def check(output: str) -> str | None:
        return None

    agent = aios.LlmAgent("agent", ScriptedModel(), guardrails=[no_keys, check])
    with pytest.raises(aios.ConfigurationError, match='"no_keys": the name is used twice'):
        async with aios.Runtime(agents=[agent]):
            pass


async def test_should_check_the_output_as_its_type() -> None:
    seen: list[Report] = []

    @aios.output_guardrail(name="polite")
    async def check(report: Report) -> str | None:
        seen.append(report)
        if report.title == "odd":
            raise aios.TaskError("it is odd", code="NO_IDEA", retryable=False)
        return "it is rude" if report.title == "rude" else None

    for title, code in (("rude", "GUARDRAIL_TRIPPED"), ("odd", "NO_IDEA"), ("fine", None)):
        model = ScriptedModel(f'{{"title": "{title}"}}')
        agent = aios.LlmAgent("agent", model, output_type=Report, guardrails=[check])
        async with aios.Runtime(agents=[agent]) as runtime:
            run = await runtime.start(agent, "go")
            if code is None:
                assert await run.result() == Report("fine")
            else:
                assert (await failed(run)).code == code
    assert seen == [Report("rude"), Report("odd"), Report("fine")]
    assert await check(Report("fine")) is None


async def test_should_say_what_a_guardrail_returns() -> None:
    @aios.output_guardrail
    async def wrong(output: str) -> bool:
        return True

    agent = aios.LlmAgent("agent", ScriptedModel(text("x")), guardrails=[wrong])
    async with aios.Runtime(agents=[agent]) as runtime:
        error = await failed(await runtime.start(agent, "go"))
    assert "guardrail wrong returns None, or a str" in str(error)


async def test_should_run_at_most_as_many_calls_of_a_tool_as_allowed() -> None:
    running = most = 0
    both = asyncio.Barrier(2)

    @aios.tool(concurrency=2)
    async def work(number: int) -> int:
        """Works."""
        nonlocal running, most
        running += 1
        most = max(most, running)
        # Two at a time, however fast the calls come.
        await both.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        running -= 1
        return number

    calls = [aios.ToolCall("work", {"number": number}, str(number)) for number in range(12)]
    model = ScriptedModel(aios.ModelResponse(tool_calls=calls), text("done"))
    agent = aios.LlmAgent("agent", model, tools=[work])
    async with aios.Runtime(agents=[agent]) as runtime:
        assert await (await runtime.start(agent, "go")).result() == "done"
    assert most == 2


async def test_should_share_a_rate_and_ask_another_model_when_it_is_reached() -> None:
    rate = aios.Rate(2, per=3600)
    first, second = ScriptedModel(text("1")), ScriptedModel(text("2"))
    other = ScriptedModel(text("3"))
    limited = [aios.RateLimitModel(model, rate, longest_wait=0) for model in (first, second, first)]
    agents = [
        aios.LlmAgent(f"agent_{number}", aios.FallbackModel(model, other))
        for number, model in enumerate(limited)
    ]
    async with aios.Runtime(agents=agents) as runtime:
        found = [await (await runtime.start(agent, "go")).result() for agent in agents]
    assert found == ["1", "2", "3"]


async def test_should_share_a_circuit_and_ask_another_model_while_it_is_open() -> None:
    circuit = aios.Circuit(1, open_for=3600)
    down = FunctionModel(overloaded)
    never_asked = ScriptedModel(text("unused"))
    guarded = [aios.CircuitBreakerModel(it, circuit=circuit) for it in (down, never_asked)]
    other = ScriptedModel(text("1"), text("2"))
    agents = [
        aios.LlmAgent(f"agent_{number}", aios.FallbackModel(model, other))
        for number, model in enumerate(guarded)
    ]
    async with aios.Runtime(agents=agents) as runtime:
        found = [await (await runtime.start(agent, "go")).result() for agent in agents]
    assert found == ["1", "2"]
    assert not never_asked.requests
    with pytest.raises(aios.ConfigurationError, match="those of the circuit"):
        aios.CircuitBreakerModel(down, failures=2, circuit=circuit)


def overloaded(request: dict[str, Any]) -> str:
    raise aios.ModelError("busy", code="MODEL_OVERLOADED")


def subject_agent(*responses: aios.ModelResponse, **options: Any) -> aios.LlmAgent[str]:
    return aios.LlmAgent("agent", ScriptedModel(*responses), tools=[search], **options)


async def test_should_limit_all_runs_of_a_subject_together() -> None:
    budget = aios.SubjectBudget(WINDOW, aios.Limits(requests=3))
    responses = [call("search", words="a"), text("one"), text("two"), text("of paul")]
    agent = subject_agent(*responses, subject_budget=budget)
    async with aios.Runtime(agents=[agent]) as runtime:

        async def run_of(subject: str) -> aios.RunHandle[str]:
            return await runtime.start(agent, aios.Prompt("go", subject=subject))

        assert await (await run_of("mary")).result() == "one"
        assert await (await run_of("mary")).result() == "two"
        error = await failed(await run_of("mary"))
        assert isinstance(error.__cause__, aios.TaskError)
        assert error.__cause__.details["scope"] == "subject"
        assert await (await run_of("paul")).result() == "of paul"
        sums = await budget.spent(runtime, "mary")
        assert (sums["requests"], sums["tool_calls"]) == (3, 1)
        assert sums["usage"]["input_tokens"] == 30
        assert (await failed(await runtime.start(agent, "go"))).code == "INVALID_PARAMETERS"


def test_should_read_conversations_and_sums_of_subjects_in_blocking_code() -> None:
    budget = aios.SubjectBudget(WINDOW, aios.Limits(requests=3))
    agent = subject_agent(call("search", words="a"), text("one"), subject_budget=budget)
    with aios.sync.Runtime(agents=[agent]) as runtime:
        run = runtime.start(agent, aios.Prompt("go", subject="mary"))
        assert run.result() == "one"
        sums = aios.sync.spent_of(budget, runtime, "mary")
        assert (sums["requests"], sums["tool_calls"]) == (2, 1)
        conversation = aios.sync.conversation_of(run)
        assert (len(conversation.turns), conversation.spent) == (2, sums)


def test_should_list_the_runs_of_a_conversation_in_blocking_code() -> None:
    agent = aios.LlmAgent("agent", ScriptedModel(text("one"), text("two")))
    with aios.sync.Runtime(agents=[agent]) as runtime:
        first = runtime.start(agent, "go")
        assert first.result() == "one"
        second = runtime.start(agent, aios.sync.conversation_of(first).continued("and?"))
        assert second.result() == "two"
        runs = aios.sync.conversation_runs(runtime, second.id)
        assert [it.run.id for it in runs] == [first.id, second.id]


async def test_should_charge_a_subject_for_the_agents_that_its_runs_call() -> None:
    budget = aios.SubjectBudget(WINDOW, aios.Limits(requests=10))
    other = aios.LlmAgent(
        "searcher",
        ScriptedModel(call("search", words="a"), text("found")),
        tools=[search],
        subject_budget=budget,
    )
    tools = [aios.Tool.agent("ask", "Asks.", other)]
    model = ScriptedModel(call("ask", task="find"), text("done"))
    agent = aios.LlmAgent("agent", model, tools=tools, subject_budget=budget)
    async with aios.Runtime(agents=[agent, other]) as runtime:
        run = await runtime.start(agent, aios.Prompt("go", subject="mary"))
        assert await run.result() == "done"
        sums = await budget.spent(runtime, "mary")
        assert sums == await spent(run)
    assert (sums["requests"], sums["tool_calls"]) == (4, 2)


async def test_should_ask_a_person_to_raise_a_limit() -> None:
    raised = aios.BudgetDecision.raise_to(aios.Limits(requests=3))
    limits: list[dict[str, Any]] = [
        {"budget": aios.Budget(requests=1, at_limit="ask")},
        {
            "budget": aios.Budget(at_limit="ask"),
            "subject_budget": aios.SubjectBudget(WINDOW, aios.Limits(requests=1)),
        },
    ]
    for options in limits:
        agent = subject_agent(call("search", words="a"), text("done"), **options)
        async with aios.Runtime(agents=[agent]) as runtime:
            run = await runtime.start(agent, aios.Prompt("go", subject="mary"))
            await run.signal(aios.BUDGET_SIGNAL, raised)
            assert await run.result() == "done"
    agent = subject_agent(call("search", words="a"), budget=limits[0]["budget"])
    async with aios.Runtime(agents=[agent]) as runtime:
        run = await runtime.start(agent, "go")
        await run.signal(aios.BUDGET_SIGNAL, aios.BudgetDecision.stop())
        assert (await failed(run)).code == "BUDGET_EXCEEDED"


async def test_should_continue_with_a_cheaper_model() -> None:
    dear = ScriptedModel(call("search", words="a"), call("search", words="b"), name="test:dear")
    cheap = ScriptedModel(call("search", words="c"), text("done"), name="test:cheap")
    # A whole response of the dear model costs at most $ 0.1, and those it gives half a cent.
    budget = aios.Budget(
        cost=0.109,
        at_limit="cheaper_model",
        prices={"test:dear": aios.Price(0, 1000), "test:cheap": aios.Price(0, 1)},
    )
    agent = aios.LlmAgent(
        "agent", dear, tools=[search], max_output_tokens=100, cheaper_model=cheap, budget=budget
    )
    async with aios.Runtime(agents=[agent]) as runtime:
        run = await runtime.start(agent, "go")
        assert await run.result() == "done"
        assert (await spent(run))["cost"] == 10_000_000 + 10_000
    dear.assert_finished()
    cheap.assert_finished()
    assert len(cheap.requests[0]["messages"]) == 5
    without = aios.LlmAgent("agent", dear, budget=budget)
    with pytest.raises(aios.ConfigurationError, match="cheaper_model"):
        async with aios.Runtime(agents=[without]):
            pass


async def test_should_assume_a_price() -> None:
    budgets: list[tuple[Any, Any]] = [
        ("fail", "UNKNOWN_PRICE"),
        ("free", 0),
        (aios.Price(1, 10), 60_000),
    ]
    for unknown, expected in budgets:
        budget = aios.Budget(cost=1, unknown_price=unknown)
        agent = aios.LlmAgent("agent", ScriptedModel(text("done")), budget=budget)
        async with aios.Runtime(agents=[agent]) as runtime:
            run = await runtime.start(agent, "go")
            if isinstance(expected, str):
                assert (await failed(run)).code == expected
            else:
                assert await run.result() == "done"
                assert (await spent(run))["cost"] == expected


async def test_should_replace_earlier_messages_with_a_summary_and_keep_them_in_the_journal() -> (
    None
):
    long = aios.ModelResponse(
        tool_calls=[aios.ToolCall("search", {"words": "two"})], input_tokens=1000
    )
    summary = "they searched for one and two"
    model = ScriptedModel(call("search", words="one"), long, text(summary), text("done"))
    compaction = aios.Compaction(above=500, keep_messages=2)
    agent = aios.LlmAgent("agent", model, tools=[search], compaction=compaction)
    async with aios.Runtime(agents=[agent]) as runtime:
        run = await runtime.start(agent, "go")
        assert await run.result() == "done"
        conversation = await aios.Conversation.of(run)
        types = [recorded.event.type for recorded in await run.journal()]
    assert [len(request["messages"]) for request in model.requests] == [1, 3, 4, 3]
    assert model.requests[3]["messages"][0]["content"][0]["text"].endswith(summary)
    assert types.count("llm.conversation.compacted") == 1
    assert (len(conversation.turns), conversation.spent["requests"]) == (3, 4)
    roles = [message["role"] for message in conversation.transcript]
    assert roles == ["user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert summary not in str(conversation.transcript)


async def test_should_cancel_a_child_whose_call_is_dropped() -> None:
    @aios.workflow("waits")
    async def waits(context: aios.WorkflowContext) -> None:
        await context.signal("never")

    @aios.workflow("impatient")
    async def impatient(context: aios.WorkflowContext, cancel: bool) -> int:
        child = context.child(waits, cancel_when_dropped=cancel)
        sleep = context.sleep(0.01)
        calls = [child, sleep]
        del child, sleep
        raced = context.race(*calls)
        calls.clear()
        place, _ = await raced
        del raced
        return place

    async with aios.Runtime(workflows=[waits, impatient]) as runtime:
        run = await runtime.start(impatient, True)
        assert await run.result() == 1
        child = await runtime.handle((await children(run))[0])
        with pytest.raises(aios.RunCancelledError):
            await child.result()


async def test_should_ask_any_function_as_a_model() -> None:
    async def model(request: dict[str, Any]) -> str:
        return "async"

    fallback = aios.FallbackModel(FunctionModel(lambda request: "function"), model)
    agent = aios.LlmAgent("agent", fallback)
    async with aios.Runtime(agents=[agent]) as runtime:
        assert await (await runtime.start(agent, "go")).result() == "function"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: aios.Limits(requests=-1), "requests must be at least 0"),
        (lambda: aios.Budget(cost=float("nan")), "cost must be at least 0"),
        (lambda: aios.Budget(at_limit="maybe"), "at_limit"),  # type: ignore[arg-type]
        (lambda: aios.Budget(unknown_price="maybe"), "unknown_price"),  # type: ignore[arg-type]
        (lambda: aios.Budget(soft_percent=0), "soft_percent"),
        (lambda: aios.SubjectBudget(0.5, aios.Limits()), "window"),
        (lambda: aios.Compaction(above=-1), "above"),
        (lambda: aios.Rate(0, 1), "requests"),
        (lambda: aios.Rate(1, 0), "per"),
        (lambda: aios.RateLimitModel("openai:x", 7), "aios.Rate"),  # type: ignore[arg-type]
        (lambda: aios.tool(concurrency=0)(search.function), "concurrency"),
    ],
)
def test_should_refuse_invalid_limits(make: Any, says: str) -> None:
    with pytest.raises(aios.ConfigurationError, match=says):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_turns": -1}, "max_turns must be 1 to"),
        ({"max_turns": 1.5}, "max_turns must be an int"),
        ({"max_output_tokens": 2**32}, "max_output_tokens must be 1 to"),
        ({"instructions": 5}, "instructions must be a str"),
        ({"budget": 5}, "budget must be an aios.Budget"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"temperature": float("nan")}, "temperature must be a finite number"),
        ({"model_timeout": -1}, "model_timeout must be a number of seconds"),
        ({"model_retry": 3}, "retry must be an aios.RetryPolicy"),
        ({"streaming": "no"}, "streaming must be a bool"),
        ({"compaction": 5}, "compaction must be an aios.Compaction"),
        ({"tools": [5]}, "a tool is an aios.Tool or a function, not 5"),
        ({"cheaper_model": ScriptedModel}, r"pass ScriptedModel\(...\) instead of ScriptedModel"),
    ],
)
def test_should_check_the_options_of_an_agent(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, aios.ConfigurationError), match=message):
        aios.LlmAgent("agent", ScriptedModel(text("done")), **options)


def test_should_check_limits_and_prices() -> None:
    of_other_types: list[tuple[Callable[[], Any], str]] = [
        (lambda: aios.Budget(requests=cast("Any", 1.5)), "requests must be an int"),
        (lambda: aios.Budget(cost=cast("Any", "1")), "cost must be a number"),
        (lambda: aios.Budget(wall_time=cast("Any", "1")), "wall_time must be a number"),
        (lambda: aios.Budget(soft_percent=cast("Any", "1")), "soft_percent must be an int"),
        (lambda: aios.Budget(prices=cast("Any", 5)), "prices must be a mapping"),
        (lambda: aios.Budget(prices=cast("Any", {"a": 5})), "the price of model 'a' must be"),
        (lambda: aios.Price(cast("Any", "1"), 1), "input must be a number"),
        (lambda: aios.Price(1, cast("Any", None)), "output must be a number"),
        (lambda: aios.SubjectBudget(cast("Any", "60"), aios.Limits()), "window must be a number"),
        (lambda: aios.SubjectBudget(60, cast("Any", 5)), "limits must be an aios.Limits"),
    ]
    for make, says in of_other_types:
        with pytest.raises(TypeError, match=says):
            make()
    with pytest.raises(aios.ConfigurationError, match="output must be at least 0"):
        aios.Price(input=1, output=-1)


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("requests", True, TypeError),
        ("tool_calls", 2**64, aios.ConfigurationError),
        ("depth", 2**32, aios.ConfigurationError),
    ],
)
def test_should_name_a_limit_that_is_not_a_count(
    option: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=option):
        aios.Limits(**{option: value})


async def test_should_take_limits_that_no_run_reaches() -> None:
    budget = aios.Budget(cost=1e300, wall_time=1e300, unknown_price="free")
    agent = aios.LlmAgent("free", ScriptedModel("done"), budget=budget)
    async with aios.Runtime(agents=[agent]) as runtime:
        assert await (await runtime.start(agent, "go")).result() == "done"


async def test_should_leave_out_what_a_prompt_does_not_have() -> None:
    agent = aios.LlmAgent("agent", ScriptedModel("done", "done"))
    message = {"role": "user", "content": [{"type": "text", "text": "go"}]}
    async with aios.Runtime(agents=[agent]) as runtime:
        for number, prompt in enumerate([aios.Prompt("go"), aios.Prompt("go", subject="mary")]):
            run = await runtime.start(agent, prompt, id=f"run-{number}")
            await run.result()
            first, *_ = await run.journal()
            expected = {"messages": [message], "subject": prompt.subject}
            if prompt.subject is None:
                del expected["subject"]
            assert first.event.data["input"] == expected
