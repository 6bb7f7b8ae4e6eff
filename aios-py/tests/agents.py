"""Parts of the tests of agents over language models."""

from __future__ import annotations

import asyncio
from typing import Any

import aios
from aios.testing import ScriptedModel


@aios.tool
async def search(words: str) -> str:
    """Searches."""
    return f"found {words}"


def call(tool: str, id: str = "c", /, **arguments: Any) -> aios.ModelResponse:
    """A response with one call."""
    made = aios.ToolCall(tool, arguments, id)
    return aios.ModelResponse(tool_calls=[made], input_tokens=10, output_tokens=5)


def text(text: str) -> aios.ModelResponse:
    return aios.ModelResponse(text, input_tokens=10, output_tokens=5)


def results(model: ScriptedModel, request: int) -> list[tuple[str, bool]]:
    """The results that a model got for its calls, in the request with this number."""
    messages: list[dict[str, Any]] = model.requests[request]["messages"]
    parts = [part for message in messages for part in message["content"]]
    return [
        (part["content"], part.get("is_error", False))
        for part in parts
        if part["type"] == "tool_result"
    ]


async def failed(run: aios.RunHandle[Any]) -> aios.RunFailedError:
    """The error of a run that fails."""
    try:
        result = await run.result()
    except aios.RunFailedError as error:
        return error
    raise AssertionError(f"the run succeeded with {result!r}")


async def one_pending(run: aios.RunHandle[Any]) -> aios.PendingDecision:
    while not (pending := aios.pending_decisions(await run.status())):
        await asyncio.sleep(0.01)
    return pending[0]


async def children(run: aios.RunHandle[Any]) -> list[str]:
    """The ids of the children that a run has started."""
    events = [recorded.event for recorded in await run.journal()]
    return [event.data["run_id"] for event in events if event.type.endswith(".child_started")]


async def first_child(runtime: aios.Runtime, run: aios.RunHandle[Any]) -> aios.RunHandle[Any]:
    """The handle of the first child of a run, once it exists: its parent records it before."""
    while True:
        for child in await children(run):
            try:
                return await runtime.handle(child)
            except aios.RunNotFoundError:
                pass
        await asyncio.sleep(0.01)


async def spent(run: aios.RunHandle[Any]) -> dict[str, Any]:
    return (await aios.Conversation.of(run)).spent
