"""Prints the microseconds of a turn of Pydantic-AI: a response with one tool call, and the call.

`TestModel` calls every tool in its first response, so it cannot take more than one turn. The
`FunctionModel` of the same module takes as many as are asked for.
"""

import asyncio
import statistics
import sys
import time

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import UsageLimits

TURNS = int(sys.argv[1])
RUNS = int(sys.argv[2])


def respond(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    turn = sum(isinstance(message, ModelResponse) for message in messages)
    if turn == TURNS:
        return ModelResponse(parts=[TextPart("done")])
    return ModelResponse(parts=[ToolCallPart("look", {"number": turn})])


agent = Agent(FunctionModel(respond))


@agent.tool_plain
async def look(number: int) -> int:
    """Looks."""
    return number


async def measure() -> float:
    limits = UsageLimits(request_limit=TURNS + 1)
    await agent.run("go", usage_limits=limits)
    took = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        await agent.run("go", usage_limits=limits)
        took.append(time.perf_counter() - begin)
    return statistics.median(took) / TURNS * 1e6


print(asyncio.run(measure()))
