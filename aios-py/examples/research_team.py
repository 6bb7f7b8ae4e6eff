"""A team of agents over language models researches a question, and a person approves the report.

    python research_team.py                        offline, on a provider on this machine
    AIOS_LLM_BASE_URL=https://api.openai.com/v1 AIOS_LLM_API_KEY=… python research_team.py

A planner divides the question, searchers work on the parts in parallel with a tool, and a writer
publishes a report, which has to be approved, and says what it has published. Every model call and
every tool call is recorded: stop the program anywhere and start it again, and it resumes without
repeating a recorded call.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import aios
from aios.testing import FakeProvider, FakeRequest

#: Id of the writer's run.
WRITER = "databases-writer"

LIBRARY = {
    "sqlite": "SQLite is a database in one file. Its WAL mode lets readers and a writer work at once.",
    "postgres": "PostgreSQL is a database server. It replicates its log to standbys.",
}


@dataclasses.dataclass
class Plan:
    """The parts of the question, each researched alone."""

    topics: list[str]


@dataclasses.dataclass
class Published:
    """The published report."""

    title: str
    file: str


@aios.tool
async def search(word: str) -> str:
    """Searches the library for one word."""
    return LIBRARY.get(word.lower(), "nothing found")


@aios.tool(effect="write", approval=True)
def publish(title: str, text: str) -> str:
    """Publishes the report."""
    Path("report.md").write_text(f"# {title}\n\n{text}\n")
    return "published as report.md"


def respond(request: FakeRequest) -> str | aios.ModelResponse:
    """The provider on this machine: it answers as a model would."""
    first, *_, last = request.body["messages"]
    role = first["content"].split()[0]
    if role == "Divide":
        return json.dumps({"topics": ["SQLite", "Postgres"]})
    if last["role"] == "tool" and role != "Write":
        return str(last["content"])
    if last["role"] == "tool":
        published = {"title": "Two databases", "file": last["content"].rpartition(" ")[2]}
        # Beside tools, a server that is not of OpenAI is asked for output as a call.
        call = aios.ToolCall("final_result", published)
    elif role == "Write":
        findings = last["content"][0]["text"].rpartition("Findings:\n")[2]
        call = aios.ToolCall("publish", {"title": "Two databases", "text": findings})
    else:
        call = aios.ToolCall("search", {"word": last["content"][0]["text"]})
    return aios.ModelResponse(tool_calls=[call], input_tokens=200, output_tokens=40)


def team(provider: FakeProvider) -> list[aios.LlmAgent[Any]]:
    """The agents, with the model that the environment names or that of the provider."""
    url, key = os.environ.get("AIOS_LLM_BASE_URL"), os.environ.get("AIOS_LLM_API_KEY")
    name = os.environ.get("AIOS_LLM_MODEL", "gpt-5-mini")
    model = aios.Provider(f"openai:{name}", key, url)
    if url is None or key is None:
        model = aios.Provider("openai:offline", "key", provider.openai_url)
    budget = aios.Budget(requests=10, output_tokens=20_000)
    planner = aios.LlmAgent(
        "planner",
        model,
        instructions="Divide the question into topics of one word.",
        output_type=Plan,
        budget=budget,
    )
    searcher = aios.LlmAgent(
        "searcher",
        model,
        instructions="Search for the topic and summarise what you find in one sentence.",
        tools=[search],
        budget=budget,
    )
    writer = aios.LlmAgent(
        "writer",
        model,
        instructions="Write a report from the findings, publish it and say what you published.",
        tools=[publish],
        output_type=Published,
        budget=budget,
        streaming=True,
    )
    return [planner, searcher, writer]


@aios.workflow("research")
async def research(context: aios.WorkflowContext, question: str) -> Published:
    plan = Plan(**await context.child("planner", question))
    searches = [("searcher", topic) for topic in plan.topics]
    findings: list[str] = await aios.team.join(context, searches)
    task = "\n".join([question, "", "Findings:", *findings])
    return Published(**await context.child("writer", task, id=WRITER))


async def approve(runtime: aios.Runtime) -> None:
    """Approves what the writer wants to publish, as a person would after reading it."""
    while True:
        await asyncio.sleep(0.02)
        try:
            run = await runtime.handle(WRITER)
        except aios.RunNotFoundError:
            continue
        for pending in aios.pending_decisions(await run.status()):
            print(f"approved: {pending.tool} {pending.arguments['title']!r}")
            await run.signal(pending.signal, pending.approve())
            return


async def main() -> None:
    with FakeProvider(respond=respond) as provider:
        runtime = aios.Runtime("sqlite://research.db", agents=team(provider), workflows=[research])
        async with runtime:
            run = await runtime.start(research, "Which database is for me?", id="databases")
            approving = asyncio.create_task(approve(runtime))
            published = await run.result()
            approving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await approving
            print(f"published {published.title!r} as {published.file}")
        # A second start of this program makes no request.
        print(f"{len(provider.requests)} requests")


if __name__ == "__main__":
    asyncio.run(main())
