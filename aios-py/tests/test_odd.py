"""Unusual workflows that are restarted repeatedly: every execution observes the same values."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aios
import pytest
from aios.testing import replay

Context = aios.WorkflowContext


async def slow(value: int) -> int:
    for _ in range(value % 4):
        await asyncio.sleep(0)
    await asyncio.sleep(value % 5 / 1000)
    return value


class Odd:
    """The workflows, and the values that they observed."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.workflow = aios.workflow("odd")(self.run)

    async def run(self, context: Context, kind: str) -> None:
        await getattr(self, kind)(context)

    def note(self, context: Context, *what: Any) -> None:
        self.seen.append(f"{what!r} at {context.now()}")

    async def step(self, context: Context, value: int) -> int:
        recorded = await context.step("slow", slow, value)
        self.note(context, value, recorded)
        return recorded

    async def numbers(self, context: Context, count: int) -> AsyncIterator[int]:
        """An async generator of operations."""
        for value in range(count):
            yield await self.step(context, value)
            await context.sleep(0.001)

    async def generators(self, context: Context) -> None:
        async def consume(count: int) -> int:
            total = 0
            async for value in self.numbers(context, count):
                total += value
                await self.step(context, value + 100)
            return total

        self.note(context, await context.gather(consume(3), consume(7), consume(5)))

    async def first_completed(self, context: Context) -> None:
        """``asyncio.wait(…, return_when=FIRST_COMPLETED)`` in a loop."""
        running: list[Any] = [self.step(context, value * 3) for value in range(8)]
        operations: list[Any] = [context.sleep(0.002 * value) for value in range(4)]
        running += operations
        while running:
            index, value = await context.race(*running)
            self.note(context, "won", index, value)
            del running[index]

    async def nested(self, context: Context) -> None:
        async def part(value: int) -> int:
            index, _ = await context.race(
                context.gather(self.step(context, value), self.step(context, value + 1)),
                context.sleep(0.003),
            )
            if index == 1:
                self.note(context, "late", value)
            return index

        for round_ in range(4):
            await context.gather(*(part(round_ * 10 + value) for value in range(6)))

    async def kept(self, context: Context) -> None:
        deadline = context.sleep(0.08)
        tick: Any = context.sleep(0.005)
        go: Any = context.signal("go")
        while True:
            index, item = await context.race(deadline, go, tick)
            self.note(context, "went", index, item)
            if index == 0:
                return
            if index == 1:
                go = context.signal("go")
                await context.gather(self.step(context, 3), self.step(context, 4))
            else:
                tick = context.sleep(0.01)
            self.note(context, context.uuid(), context.version(f"v{index}", 1, 2))

    async def undone(self, context: Context) -> None:
        async def undo(context: Context, value: int) -> None:
            await context.race(self.step(context, value), context.sleep(0.05))
            self.note(context, "undone", value)

        for value in range(3):
            context.compensate(f"undo {value}", undo, value)
            await self.step(context, value + 5)
        raise ValueError("undo all")


KINDS = ["generators", "first_completed", "nested", "kept", "undone"]


@pytest.mark.parametrize("restarts", [0, 8])
@pytest.mark.parametrize("kind", KINDS)
async def test_should_observe_the_same_values_after_every_restart(
    kind: str, restarts: int, tmp_path: Path
) -> None:
    store, saw = f"sqlite://{tmp_path / 'odd.db'}", []
    journal: list[aios.RecordedEvent] = []
    for restart in range(restarts + 1):
        odd = Odd()
        async with aios.Runtime(store, workflows=[odd.workflow]) as runtime:
            run = await (
                runtime.handle("odd") if restart else runtime.start(odd.workflow, kind, id="odd")
            )
            before = len(await run.journal())
            with contextlib.suppress(aios.AiosError):
                await run.signal("go", restart)
            if restart == restarts:
                with contextlib.suppress(aios.RunFailedError):
                    await run.result()
                journal = await run.journal()
                status = await run.status()
                assert status.status == ("failed" if kind == "undone" else "completed"), status
            else:
                while (await run.status()).status not in ("completed", "failed"):
                    if len(await run.journal()) > before + restart:
                        break
                    await asyncio.sleep(0.001)
        saw.append(odd.seen)
    live = max(saw, key=len)
    for seen in saw:
        assert seen == live[: len(seen)]
    again = Odd()
    for end in range(1, len(journal) + 1):
        again = Odd()
        await replay(again.workflow, journal[:end])
        assert again.seen == live[: len(again.seen)], f"after {end} entries"
    assert again.seen == live
