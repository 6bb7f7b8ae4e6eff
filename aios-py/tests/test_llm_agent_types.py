"""Agents over language models as agent types: their tasks are runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aios
import pytest
from aios.testing import FunctionModel, ScriptedModel

from service import served


async def shout(context: aios.WorkflowContext, question: str) -> str:
    answer = await context.task("agent", question, result=str)
    return answer.upper()


SHOUT = aios.workflow("shout")(shout)


async def test_should_perform_tasks() -> None:
    agent = aios.LlmAgent("agent", ScriptedModel("one", "two", "three"))
    async with aios.Runtime(agents=[agent], workflows=[SHOUT]) as runtime:
        assert await (await runtime.task("agent", "go")).result() == "one"
        assert await (await runtime.start(SHOUT, "go")).result() == "TWO"
        prompt = {"messages": [{"role": "user", "content": [{"type": "text", "text": "go"}]}]}
        assert await (await runtime.task("agent", prompt)).result() == "three"


async def test_should_perform_tasks_over_http() -> None:
    runtime = aios.Runtime(agents=[aios.LlmAgent("agent", ScriptedModel("one", "two"))])
    async with served(aios.asgi(runtime)) as url, aios.RemoteClient(url) as remote:
        first = await remote.task("agent", "go")
        assert await first.result() == "one"
        [row] = [it for it in (await remote.agents()).rows if it.agent_type == "agent"]
        second = await remote.task("agent", "go", agent_id=row.id)
        assert await second.result() == "two"
        started = (await remote.runs("agent")).rows
        assert len(started) == 2
        runs = await aios.Conversation.runs(remote, started[0].id)
        assert [it.run.id for it in runs] == [started[0].id]


async def test_should_pay_for_no_turn_again_after_the_runtime_was_closed(tmp_path: Path) -> None:
    requests: list[int] = []
    answers = asyncio.Event()

    async def answer(request: dict[str, object]) -> str | aios.ModelResponse:
        messages = request["messages"]
        assert isinstance(messages, list)
        requests.append(len(messages))
        if len(messages) == 1:
            return aios.ModelResponse(tool_calls=[aios.ToolCall("note", {"words": "x"}, "c")])
        await answers.wait()
        return "done"

    def note(words: str) -> str:
        """Notes."""
        return words

    store = f"sqlite://{tmp_path}/aios.db"

    def process() -> aios.Runtime:
        agent = aios.LlmAgent("agent", FunctionModel(answer), tools=[aios.tool(note)])
        return aios.Runtime(store=store, agents=[agent], shutdown_timeout=0.1)

    first = process()
    await first.open()
    await first.task("agent", "go", id="task")
    while len(requests) < 2:
        await asyncio.sleep(0.01)
    # The request in progress is abandoned.
    with pytest.raises(aios.ShutdownTimeoutError):
        await first.close()
    answers.set()
    async with process() as runtime:
        task = await runtime.handle("task")
        assert await asyncio.wait_for(task.result(), 60) == "done"
        assert len((await runtime.runs("agent")).rows) == 1
    assert requests == [1, 3, 3]
