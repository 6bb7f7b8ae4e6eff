"""Agents that call, follow and race each other."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, TypedDict

import aios
import pytest
from agents import call, children, failed, first_child, one_pending, results, search, spent, text
from aios.testing import ScriptedModel

FIXTURES = Path(__file__).parent.parent.parent / "tests" / "fixtures"


def ask(**options: Any) -> aios.Tool:
    return aios.Tool.agent("ask", "Asks the searcher.", "searcher", **options)


def searcher(*responses: aios.ModelResponse, **options: Any) -> aios.LlmAgent[str]:
    return aios.LlmAgent("searcher", ScriptedModel(*responses), **options)


async def test_should_run_an_agent_as_a_child_and_sum_what_it_spends() -> None:
    model = ScriptedModel(call("ask", task="find rust"), text("done"))
    found = ScriptedModel(call("search", words="rust"), text("a language"))
    other = aios.LlmAgent("searcher", found, tools=[search])
    tools = [aios.Tool.agent("ask", "Asks the searcher.", other)]
    agent = aios.LlmAgent("planner", model, tools=tools, budget=aios.Budget(requests=12))
    async with aios.Runtime(agents=[agent, other]) as runtime:
        run = await runtime.start(agent, "go")
        assert await run.result() == "done"
        assert found.requests[0]["messages"][0]["content"][0]["text"] == "find rust"
        assert results(model, 1) == [("a language", False)]
        sums = await spent(run)
    assert (sums["requests"], sums["tool_calls"]) == (4, 2)
    assert (sums["usage"]["input_tokens"], sums["usage"]["output_tokens"]) == (40, 20)


async def test_should_limit_how_many_children_run_at_once() -> None:
    tasks = [aios.ToolCall("ask", {"task": str(number)}, str(number)) for number in range(4)]
    model = ScriptedModel(aios.ModelResponse(tool_calls=tasks), text("done"))
    agent = aios.LlmAgent("planner", model, tools=[ask(concurrency=1)])
    other = searcher(*[text("found")] * 4)
    async with aios.Runtime(agents=[agent, other]) as runtime:
        run = await runtime.start(agent, "go")
        assert await run.result() == "done"
        actions = [recorded.event.type.split(".")[-1] for recorded in await run.journal()]
    of_children = [action for action in actions if action in ("child_started", "child_ended")]
    assert of_children == ["child_started", "child_ended"] * 4


async def test_should_limit_each_call_of_an_agent_and_its_levels() -> None:
    model = ScriptedModel(call("ask", task="find"), text("done"))
    tools = [ask(limits=aios.Limits(requests=1))]
    agent = aios.LlmAgent("planner", model, tools=tools)
    other = searcher(call("search", words="x"), tools=[search])
    async with aios.Runtime(agents=[agent, other]) as runtime:
        run = await runtime.start(agent, "go")
        assert await run.result() == "done"
        assert "requests of 1" in results(model, 1)[0][0]
        assert (await spent(run))["requests"] == 3

    model = ScriptedModel(call("ask", task="find"), text("done"))
    agent = aios.LlmAgent("planner", model, tools=[ask()], budget=aios.Budget(depth=0))
    async with aios.Runtime(agents=[agent, searcher()]) as runtime:
        assert await (await runtime.start(agent, "go")).result() == "done"
    assert results(model, 1)[0][1]


async def test_should_fail_with_a_child_if_the_policy_says_so() -> None:
    for on_failure, code in (("tell_model", None), ("fail", "MODEL_FAULTS")):
        model = ScriptedModel(call("ask", task="find"), text("done"))
        agent = aios.LlmAgent("planner", model, tools=[ask(on_failure=on_failure)])
        async with aios.Runtime(agents=[agent, searcher(text(""), max_faults=0)]) as runtime:
            run = await runtime.start(agent, "go")
            if code is None:
                assert await run.result() == "done"
            else:
                assert (await failed(run)).code == code


async def test_should_cancel_an_agent_with_its_caller() -> None:
    approved = aios.tool(name="search", approval=True)(search.function)
    agent = aios.LlmAgent("planner", ScriptedModel(call("ask", task="find")), tools=[ask()])
    other = searcher(call("search", words="x"), tools=[approved])
    async with aios.Runtime(agents=[agent, other]) as runtime:
        run = await runtime.start(agent, "go")
        child = await first_child(runtime, run)
        await one_pending(child)
        await run.cancel("no longer needed")
        for ended in (run, child):
            with pytest.raises(aios.RunCancelledError):
                await ended.result()


async def test_should_continue_a_child_after_a_restart_with_the_same_sums(tmp_path: Path) -> None:
    store = f"sqlite://{tmp_path}/aios.db"
    model = ScriptedModel(call("ask", task="find"), text("done"))
    found = ScriptedModel(call("search", words="rust"), text("x"))
    approved = aios.tool(name="search", approval=True)(search.function)
    agents = [
        aios.LlmAgent("planner", model, tools=[ask()]),
        aios.LlmAgent("searcher", found, tools=[approved]),
    ]
    async with aios.Runtime(store, agents=agents) as runtime:
        run = await runtime.start("planner", "go", id="run")
        child = await first_child(runtime, run)
        pending = await one_pending(child)
    async with aios.Runtime(store, agents=agents) as runtime:
        child = await runtime.handle(child.id)
        await child.signal(pending.signal, pending.approve())
        run = await runtime.handle("run")
        assert await run.result() == "done"
        sums = await spent(run)
    assert (sums["requests"], sums["tool_calls"]) == (4, 2)
    assert (len(model.requests), len(found.requests)) == (2, 2)


class Query(TypedDict):
    words: str


@aios.workflow("shouting")
async def shout(context: aios.WorkflowContext, query: Query) -> str:
    if query["words"] == "bad":
        raise aios.TaskError("it is bad", code="TOO_BAD", retryable=False)
    return query["words"].upper()


@pytest.mark.parametrize("by_name", [False, True])
async def test_should_run_a_workflow_as_a_tool(by_name: bool) -> None:
    made = (
        aios.Tool.workflow("shout", "Shouts.", "shouting", input_type=Query)
        if by_name
        else aios.Tool.workflow("shout", "Shouts.", shout)
    )
    model = ScriptedModel(call("shout", words="good"), call("shout", words="bad"), text("done"))
    agent = aios.LlmAgent("agent", model, tools=[made])
    async with aios.Runtime(agents=[agent], workflows=[shout]) as runtime:
        assert await (await runtime.start(agent, "go")).result() == "done"
    good, bad = results(model, 2)
    assert good == ("GOOD", False)
    assert bad[1]
    assert "it is bad" in bad[0]
    parameters = model.requests[0]["tools"][0]["parameters"]
    assert parameters["properties"] == {"words": {"type": "string"}}


async def test_should_name_a_child_that_does_not_exist() -> None:
    agent = aios.LlmAgent("planner", ScriptedModel(call("ask", task="find")), tools=[ask()])
    async with aios.Runtime(agents=[agent]) as runtime:
        assert (await failed(await runtime.start(agent, "go"))).code == "WORKFLOW_NOT_FOUND"


def triage(
    *responses: aios.ModelResponse, billing: aios.LlmAgent[str], **options: Any
) -> tuple[ScriptedModel, aios.LlmAgent[str]]:
    model = ScriptedModel(*responses)
    agent = aios.LlmAgent(
        "triage",
        model,
        instructions="Find out what it is about.",
        handovers=[aios.Handover(billing, "Questions about invoices.")],
        **options,
    )
    return model, agent


async def test_should_continue_the_conversation_with_another_agent() -> None:
    @aios.tool
    def look_up(words: str) -> str:
        """Plain tools of the other agent run in threads too."""
        return f"found {words}"

    paid: list[str] = []

    @aios.tool(effect="write")
    async def pay(order: str) -> str:
        """Pays back. The write log is that of the runtime."""
        paid.append(order)
        return "paid back"

    other = ScriptedModel(call("look_up", words="A7"), call("pay", order="A7"), text("paid"))
    billing = aios.LlmAgent(
        "billing",
        other,
        instructions="Explain invoices.",
        tools=[look_up, pay],
        hand_back="Returns.",
    )
    model, agent = triage(
        call("handover_to_billing", reason="an invoice"),
        billing=billing,
        budget=aios.Budget(requests=4),
    )
    async with aios.Runtime(agents=[agent]) as runtime:
        run = await runtime.start(agent, "go")
        assert await run.result() == "paid"
        conversation = await aios.Conversation.of(run)
    assert [tool["name"] for tool in model.requests[0]["tools"]] == ["handover_to_billing"]
    names = [tool["name"] for tool in other.requests[0]["tools"]]
    assert names == ["look_up", "pay", "hand_back"]
    assert other.requests[0]["instructions"] == "Explain invoices."
    assert results(other, 0) == [("The conversation continues with triage_billing.", False)]
    assert (len(conversation.turns), conversation.spent["requests"]) == (4, 4)
    assert paid == ["A7"]


async def test_should_hand_a_conversation_back() -> None:
    other = ScriptedModel(call("hand_back", reason="it is paid"))
    billing = aios.LlmAgent("billing", other, hand_back="Returns to the first agent.")
    model, agent = triage(
        call("handover_to_billing", reason="r"), text("anything else?"), billing=billing
    )
    async with aios.Runtime(agents=[agent]) as runtime:
        assert await (await runtime.start(agent, "go")).result() == "anything else?"
    assert model.requests[1]["instructions"] == "Find out what it is about."
    assert len(model.requests[1]["messages"]) == 5


async def test_should_continue_with_the_agent_that_has_the_conversation() -> None:
    other = ScriptedModel(text("paid"), text("more"), text("again"))
    billing = aios.LlmAgent(
        "billing", other, instructions="Explain invoices.", hand_back="Returns."
    )
    model, agent = triage(
        call("handover_to_billing", reason="r"), text("reception"), billing=billing
    )
    async with aios.Runtime(agents=[agent]) as runtime:
        run = await runtime.start(agent, aios.Prompt("go", instructions="Be kind."))
        assert await run.result() == "paid"
        conversation = await aios.Conversation.of(run)
        assert [turn.handovers for turn in conversation.turns] == [[], ["billing"]]
        for prompt, result, asked, instructions in (
            (conversation.continued("and?"), "more", other, "Explain invoices."),
            (conversation.from_turn(2, "Be brief."), "again", other, "Be brief."),
            (conversation.from_turn(1), "reception", model, "Be kind."),
        ):
            next_run = await runtime.start(agent, prompt)
            assert await next_run.result() == result
            assert asked.requests[-1]["instructions"] == instructions
        assert conversation.handovers == ["billing"]


async def test_should_join_agents() -> None:
    left = aios.LlmAgent("left", ScriptedModel(text("l"), text("l")))
    right = aios.LlmAgent("right", ScriptedModel(text("r")))
    fails = aios.LlmAgent("fails", ScriptedModel(text("")), max_faults=0)

    @aios.workflow("all_of_them")
    async def all_of_them(context: aios.WorkflowContext, question: str) -> list[str]:
        return await aios.team.join(context, [(left, question), (right, question)])

    @aios.workflow("with_failures")
    async def with_failures(context: aios.WorkflowContext) -> list[str]:
        team = [(fails, "go"), (left, "go")]
        found = await aios.team.join(context, team, return_exceptions=True)
        return [it.code if isinstance(it, aios.AiosError) else it for it in found]

    workflows: list[aios.Workflow[Any, Any]] = [all_of_them, with_failures]
    async with aios.Runtime(agents=[left, right, fails], workflows=workflows) as runtime:
        assert await (await runtime.start(all_of_them, "go")).result() == ["l", "r"]
        assert await (await runtime.start(with_failures)).result() == ["MODEL_FAULTS", "l"]


async def test_should_race_agents_and_cancel_the_others() -> None:
    approved = aios.tool(name="search", approval=True)(search.function)
    waits = aios.LlmAgent("waits", ScriptedModel(call("search", words="x")), tools=[approved])
    fails = aios.LlmAgent("fails", ScriptedModel(text(""), text("")), max_faults=0)
    left = aios.LlmAgent("left", ScriptedModel(text("l")))

    @aios.workflow("fastest")
    async def fastest(context: aios.WorkflowContext, agents: list[str]) -> tuple[int, str]:
        return await aios.team.race(context, [(agent, "go") for agent in agents])

    async with aios.Runtime(agents=[waits, fails, left], workflows=[fastest]) as runtime:
        run = await runtime.start(fastest, ["waits", "fails", "left"])
        assert await run.result() == (2, "l")
        loser = await runtime.handle((await children(run))[0])
        with pytest.raises(aios.RunCancelledError):
            await loser.result()
        assert (await failed(await runtime.start(fastest, ["fails"]))).code == "MODEL_FAULTS"
        assert (await failed(await runtime.start(fastest, []))).code == "INVALID_PARAMETERS"


async def test_should_have_the_journal_of_a_team_that_other_languages_have() -> None:
    @aios.input_guardrail(name="polite")
    async def polite(messages: list[dict[str, Any]]) -> str | None:
        return None

    other = ScriptedModel(text("found"))
    billing = aios.LlmAgent("billing", ScriptedModel(text("done")))
    model = ScriptedModel(
        call("ask", "a", task="find"), call("handover_to_billing", "b", reason="r")
    )
    agent = aios.LlmAgent(
        "agent",
        model,
        tools=[ask()],
        guardrails=[polite],
        handovers=[aios.Handover(billing, "Bills.")],
        budget=aios.Budget(requests=9),
    )
    async with aios.Runtime(agents=[agent, aios.LlmAgent("searcher", other)]) as runtime:
        run = await runtime.start(agent, "go")
        assert await run.result() == "done"
        shape = await journal_shape(run)
    assert shape == json.loads((FIXTURES / "llm_team_journal.json").read_text())


async def journal_shape(run: aios.RunHandle[Any]) -> list[Any]:
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


async def test_should_leave_the_calls_to_another_process() -> None:
    @dataclasses.dataclass
    class Report:
        title: str

    model = ScriptedModel(call("search", words="x"), '{"title": "x"}')
    agent = aios.LlmAgent("reporter", model, tools=[search], output_type=Report)
    async with aios.Runtime(workflows=[agent]) as runtime:
        await runtime.start(agent, "go", id="run")
        agents = await runtime.agents()
        assert not [row for row in agents.rows if row.agent_type.startswith("reporter")]
        assert not model.requests


#: The module without its types, for calls that type checkers would refuse.
wrong: Any = aios


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: wrong.Tool.agent("a", "", 7), "LlmAgent or its name"),
        (lambda: wrong.Tool.agent("a", "", "x", on_failure="maybe"), "on_failure"),
        (lambda: wrong.Tool.agent("a", "", "x", concurrency=0), "concurrency"),
        (lambda: wrong.Tool.agent("a", "", "No"), "can't be the name of an agent"),
        (lambda: wrong.Tool.workflow("w", "", "shouting"), "needs the input_type"),
        (lambda: wrong.Tool.workflow("w", "", "shouting", input_type=int), "is an object"),
        (lambda: wrong.Tool.workflow("w", "", searcher()), "Tool.agent"),
        (lambda: wrong.Tool.workflow("w", "", len), "@aios.workflow"),
        (lambda: wrong.LlmAgent("a", "openai:x", handovers=["b"]), "aios.Handover objects"),
        (lambda: wrong.LlmAgent("a", "openai:x", guardrails=[len]), "aios.Guardrail objects"),
    ],
)
def test_should_refuse_invalid_teams(make: Any, says: str) -> None:
    with pytest.raises(aios.ConfigurationError, match=says):
        make()


async def test_should_refuse_agents_that_cannot_take_over() -> None:
    other = aios.LlmAgent("other", ScriptedModel(), output_type=Query)
    agent = aios.LlmAgent("agent", ScriptedModel(), handovers=[aios.Handover(other, "")])
    with pytest.raises(aios.ConfigurationError, match="another output"):
        async with aios.Runtime(agents=[agent]):
            pass
