"""Generated workflows: a replay equals the live run. The programs are those of the Rust tests."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import aios
from aios.testing import TestedRun, WorkflowTest, replay

PROGRAMS = Path(__file__).parent / "programs.jsonl"

Part = Any


async def same(value: int) -> int:
    return value


async def broken() -> int:
    raise ValueError("broken")


class Interpreter:
    """Executes programs and records the values that they observe."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.workflow = aios.workflow("interpreter")(self.run)

    async def run(self, context: aios.WorkflowContext, code: list[Part]) -> int:
        for part in code:
            await self.perform(context, part)
        return len(self.seen)

    def note(self, context: aios.WorkflowContext, *what: Any) -> None:
        self.seen.append(f"{what!r} at {context.now()}")

    def operation(self, context: aios.WorkflowContext, kind: str, value: Any) -> Any:
        context = context.with_retry(aios.RetryPolicy.fixed(2, 2))
        match kind:
            case "Step":
                return context.step("step", same, value)
            case "FailingStep":
                return context.step("failing", broken)
            case "Task":
                return context.task("agent", value)
            case "Child":
                return context.child("child", value)
            case "Sleep":
                return context.sleep(value)
            case "Signal":
                return context.signal(f"signal_{value[0]}", timeout=value[1])
        return None

    async def perform(self, context: aios.WorkflowContext, part: Part) -> None:
        value: Any
        kind, value = (part, None) if isinstance(part, str) else next(iter(part.items()))
        operation = self.operation(context, kind, value)
        if operation is not None:
            try:
                result = await operation
            except aios.TaskError as error:
                result = error.code
            self.note(context, kind, value, result)
            return
        match kind:
            case "Emit":
                context.emit("a.b.c", 1)
            case "Status":
                context.set_status("busy")
            case "Draw":
                self.note(context, context.uuid(), context.random())
            case "Version":
                self.note(context, context.version(f"change_{value}", 1, 3))
            case "Fail":
                raise ValueError("broken")
            case "Compensate":
                context.compensate("undo", self.undo, value)
            case "Sequence":
                for inner in value:
                    await self.perform(context, inner)
            case "All":
                await context.gather(*(self.perform(context, inner) for inner in value))
            case "First":
                index, _ = await context.race(*(self.perform(context, inner) for inner in value))
                self.note(context, "first", index)
            case "Loop":
                await self.collect(context, *value)
            case _:
                raise AssertionError(f"an unknown part: {kind}")

    async def undo(self, context: aios.WorkflowContext, value: int) -> None:
        self.note(context, "undone", await context.step("undo", same, value))

    async def collect(self, context: aios.WorkflowContext, limit: int, part: Part) -> None:
        deadline: Any = context.sleep(limit)
        while True:
            index, item = await context.race(deadline, context.signal("signal_0"))
            if index == 0:
                return
            self.note(context, "item", item)
            await self.perform(context, part)


def answer(value: int) -> int:
    if value % 5 == 0:
        raise aios.TaskError("not this one", retryable=True)
    return value


def scripted(interpreter: Interpreter, program: Any) -> WorkflowTest[Any, int]:
    test: WorkflowTest[Any, int] = WorkflowTest(interpreter.workflow)
    test = test.agent("agent", answer).child("child", answer)
    for after, what in program["outside"]:
        match what:
            case {"Signal": [name, value]}:
                test = test.signal(after, f"signal_{name}", value)
            case "Cancel":
                test = test.cancel(after, "enough")
            case "Pause":
                test = test.pause(after)
            case "Resume":
                test = test.resume(after)
    return test


async def check(program: Any) -> TestedRun[int]:
    live = Interpreter()
    run = await scripted(live, program).run(program["code"])
    before = 0
    for end in range(1, len(run.journal) + 1):
        again = Interpreter()
        await replay(again.workflow, run.journal[:end])
        seen = again.seen
        assert seen == live.seen[: len(seen)], f"after {end} entries of {program}"
        assert len(seen) >= before, f"after {end} entries of {program}"
        before = len(seen)
    assert before == len(live.seen), program
    return run


async def test_should_replay_every_prefix_of_generated_runs_like_the_live_run() -> None:
    programs = PROGRAMS.read_text().splitlines()
    entries = 0
    for line in programs[: int(os.environ.get("AIOS_PROGRAMS", len(programs)))]:
        run = await check(json.loads(line))
        entries += len(run.journal)
        if run.failure is not None:
            assert run.failure.code in ("WORKFLOW_FAILED", "RUN_CANCELLED"), (run.failure, line)
    print(f"{len(programs)} programs with {entries} entries, every prefix of them replayed")
