"""Types of the public API. Type-checked, not executed."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, assert_type

import aios
import aios.sync
from aios.testing import WorkflowTest


@dataclasses.dataclass
class Spec:
    title: str


@dataclasses.dataclass
class Release:
    version: str


@aios.agent("planner")
class Planner:
    async def process_task(self, context: aios.TaskContext, parameters: Spec) -> Release:
        return Release(parameters.title)


def publish(spec: Spec) -> Release:
    return Release(spec.title)


async def fetch(number: int) -> str:
    return str(number)


@aios.workflow("deployment")
async def deployment(context: aios.WorkflowContext, spec: Spec) -> Release:
    assert_type(await context.task("planner", spec), Any)
    assert_type(await context.task("planner", spec, result=Release), Release)
    assert_type(await context.step("publish", publish, spec), Release)
    assert_type(await context.step("fetch", fetch, 1), str)
    assert_type(await context.gather(context.sleep(1), context.sleep(2)), list[None])
    number = context.signal("number", result=int)
    fetched = context.step("fetch", fetch, 1)
    assert_type(await context.race(number, fetched), tuple[int, int | str])
    assert_type(await context.race(context.signal("a", result=int)), tuple[int, int])
    assert_type(await context.child(cleanup), int)
    optional: str | None = await context.task("planner", spec, result=str | None)
    either: Spec | Release = await context.signal("a", result=Spec | Release)
    several: list[str] | None = await context.task("planner", result=list[str] | None)
    word: Literal["yes", "no"] = await context.signal("a", result=Literal["yes", "no"])
    del optional, either, several, word
    return await context.child(deployment, spec)


@aios.workflow("cleanup", version=2)
async def cleanup(context: aios.WorkflowContext) -> int:
    return context.workflow_version


assert_type(deployment, aios.Workflow[Spec, Release])
assert_type(cleanup, aios.Workflow[None, int])
assert_type(Planner(), Planner)


async def use(runtime: aios.Runtime) -> None:
    run = await runtime.start(deployment, Spec("a"), id="x")
    assert_type(run, aios.RunHandle[Release])
    assert_type(await run.result(), Release)
    assert_type(await runtime.call("planner", Spec("a"), result=Release), Release)
    optional: Release | None = await runtime.call("planner", Spec("a"), result=Release | None)
    del optional
    assert_type((await runtime.runs()).rows, list[aios.RunStatus])
    async with runtime.events("a.*.b") as events:
        async for event in events:
            assert_type(event, aios.Event)
    tested = await WorkflowTest(deployment).run(Spec("a"))
    assert_type(tested.result(), Release)


def use_sync(runtime: aios.sync.Runtime) -> None:
    assert_type(runtime.start(deployment, Spec("a")).result(), Release)


reporter = aios.LlmAgent("reporter", "openai:small", output_type=Release)


@aios.workflow("team")
async def team(context: aios.WorkflowContext) -> Release:
    assert_type(await aios.team.join(context, [(reporter, "a")]), list[Release])
    assert_type(await aios.team.race(context, [(reporter, "a")]), tuple[int, Release])
    named: list[str] = await aios.team.join(context, [("reporter", "a")])
    del named
    return await context.child(reporter, aios.Prompt("a", subject="mary"))


async def use_remote(client: aios.RemoteClient, settings: aios.Settings) -> None:
    assert_type(settings.section("spec", Spec), Spec)
    assert_type(settings.section("spec"), Any)
    aios.Runtime(**settings.runtime_options(), agents=[reporter])
    assert_type((await client.create_agent("backend", "first")).agent, aios.AgentStatus)
    letters = await client.dead_letters(group="agents.backend")
    assert_type(letters, aios.Page[aios.DeadLetter])
    assert_type(await (await client.start(team)).result(), Release)
