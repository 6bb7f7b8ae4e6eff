"""A team of agents over language models researches a question, and a person approves the report.

    python research_team.py                                            offline
    OPENAI_API_KEY=… AIOS_LLM_MODEL=openai:gpt-5-mini python research_team.py

A planner divides the question, searchers work on the parts in parallel with a tool, and a writer
publishes a report, which has to be approved. Every model call and every tool call is recorded: stop
the program anywhere and start it again, and it resumes without repeating a recorded call.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from pathlib import Path
from typing import Any

import aios

LIBRARY = {
    "sqlite": "SQLite is a database in one file. Its WAL mode lets readers and a writer work at once.",
    "postgres": "PostgreSQL is a database server. It replicates its log to standbys.",
}


@dataclasses.dataclass
class Plan:
    """The parts of the question, each researched alone."""

    topics: list[str]


@aios.tool
async def search(word: str) -> str:
    """Searches the library for one word."""
    return LIBRARY.get(word.lower(), "nothing found")


@aios.tool(effect="write", approval=True)
def publish(title: str, text: str) -> str:
    """Publishes the report."""
    Path("report.md").write_text(f"# {title}\n\n{text}\n")
    return "published as report.md"


def offline(request: dict[str, Any]) -> str | aios.ModelResponse:
    """Answers as a model would."""
    role = request["instructions"].split()[0]
    last = request["messages"][-1]["content"][0]
    if last["type"] == "tool_result":
        return str(last["content"])
    asked = last["text"]
    if role == "Divide":
        return '{"topics": ["SQLite", "Postgres"]}'
    if role == "Search":
        return aios.ModelResponse(tool_calls=[aios.ToolCall("search", {"word": asked})])
    findings = asked.rpartition("Findings:\n")[2]
    report = {"title": "Two databases", "text": findings}
    return aios.ModelResponse(tool_calls=[aios.ToolCall("publish", report)])


MODEL = os.environ.get("AIOS_LLM_MODEL") or offline

planner = aios.LlmAgent(
    "planner", MODEL, instructions="Divide the question into topics.", output_type=Plan
)
searcher = aios.LlmAgent(
    "searcher",
    MODEL,
    instructions="Search the topic and say what you found.",
    tools=[search],
    budget=aios.Budget(requests=5),
)
writer = aios.LlmAgent(
    "writer", MODEL, instructions="Write a report and publish it.", tools=[publish], streaming=True
)


@aios.workflow("research")
async def research(context: aios.WorkflowContext, question: str) -> str:
    plan = await context.child(planner, question)
    findings = await context.gather(*(context.child(searcher, topic) for topic in plan.topics))
    task = "\n".join([question, "", "Findings:", *findings])
    return await context.child(writer, task, id=f"{context.run_id}-writer")


async def approve(runtime: aios.Runtime, run_id: str) -> None:
    """Approves what the writer wants to publish, as a person would after reading it."""
    while True:
        await asyncio.sleep(0.02)
        try:
            run = await runtime.handle(run_id)
        except aios.RunNotFoundError:
            continue
        for pending in aios.pending_decisions(await run.status()):
            print(f"approved: {pending.tool} {pending.arguments['title']!r}")
            await run.signal(pending.signal, pending.approve())
            return


async def main() -> None:
    agents = [planner, searcher, writer]
    async with aios.Runtime("sqlite://research.db", agents=agents, workflows=[research]) as runtime:
        run = await runtime.start(research, "Which database is for me?", id="databases")
        if not (await run.status()).is_final:
            await approve(runtime, "databases-writer")
        print(await run.result())


if __name__ == "__main__":
    asyncio.run(main())
