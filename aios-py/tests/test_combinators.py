"""``gather`` and ``race``, and what is available in a step."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import warnings
from collections.abc import AsyncIterator, Awaitable, Generator, Sequence
from pathlib import Path
from typing import Any, cast

import aios
import pytest
from aios._workflows.combinators import _Branch
from aios.testing import WorkflowTest, replay


async def same(value: int) -> int:
    return value


@aios.workflow("collect")
async def collect(context: aios.WorkflowContext) -> list[int]:
    """A common loop: receives items until a deadline."""
    deadline = context.sleep(10)
    seen: list[int] = []
    while True:
        item: Any
        index, item = await context.race(deadline, context.signal("item"))
        if index == 0:
            await deadline
            return seen
        seen.append(await context.step("same", same, item))


async def test_should_warn_about_operations_in_groups_that_are_never_awaited() -> None:
    @aios.workflow("forgetful")
    async def forgetful(context: aios.WorkflowContext) -> int:
        context.gather(context.step("gathered", same, 1))
        context.race(context.step("raced", same, 1))
        context.gather(context.race(context.step("nested", same, 1)))
        return await context.step("awaited", same, 2)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with aios.Runtime(workflows=[forgetful]) as runtime:
            assert await (await runtime.start(forgetful)).result() == 2
    found = [one for one in caught if one.category is RuntimeWarning]
    assert [str(one.message) for one in found] == [
        f'step "{name}" of a workflow was never awaited and did not start'
        for name in ("gathered", "raced", "nested")
    ]
    assert {one.filename for one in found} == {__file__}


async def test_should_not_warn_about_branches_that_lose_before_they_advance() -> None:
    class Wrapped:
        def __init__(self, operation: Awaitable[int]) -> None:
            self._operation = operation

        def __await__(self) -> Generator[Any, Any, int]:
            return self._operation.__await__()

    async def at_once() -> int:
        return 1

    @aios.workflow("losers")
    async def losers(context: aios.WorkflowContext) -> int:
        branches: list[Awaitable[Any]] = [
            at_once(),
            context.step("lost", same, 2),
            context.gather(context.step("nested", same, 2), at_once()),
            Wrapped(context.step("wrapped", same, 2)),
        ]
        group = context.race(*branches)
        branches.clear()
        return (await group)[0]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with aios.Runtime(workflows=[losers]) as runtime:
            assert await (await runtime.start(losers)).result() == 0
        gc.collect()
    assert [str(one.message) for one in caught if one.category is RuntimeWarning] == []


async def test_should_race_one_deadline_with_item_after_item() -> None:
    test = WorkflowTest(collect)
    for second in range(1, 5):
        test = test.signal(second * 3.0, "item", second)
    run = await test.run()
    assert run.result() == [1, 2, 3]
    assert run.elapsed == 10
    for end in range(1, len(run.journal) + 1):
        await replay(collect, run.journal[:end])


async def test_should_let_the_first_outcome_in_the_journal_win() -> None:
    @aios.workflow("late")
    async def late(context: aios.WorkflowContext, first: str) -> str:
        timer = context.sleep(2)
        await context.race(timer, context.signal("begin"))
        await context.sleep(10)
        parts: list[Any] = [timer, context.signal("item")]
        if first == "signal":
            parts.reverse()
        index, _ = await context.race(*parts)
        return ["timer", "item"][index] if first == "timer" else ["item", "timer"][index]

    for first in ("timer", "signal"):
        for seconds, winner in ((1.0, "item"), (5.0, "timer")):
            test = WorkflowTest(late).signal(0.5, "begin").signal(seconds, "item")
            run = await test.run(first)
            assert run.result() == winner
            for end in range(1, len(run.journal) + 1):
                await replay(late, run.journal[:end])


async def test_should_cancel_losers_that_the_workflow_does_not_hold() -> None:
    @aios.workflow("losers")
    async def losers(context: aios.WorkflowContext) -> str:
        async def later() -> str:
            return await context.signal("x", result=str)

        kept = context.signal("x", result=str)
        timer: Any = context.sleep(1)
        await context.race(timer, context.signal("x", result=str), later(), kept)
        return await kept

    run = await WorkflowTest(losers).signal(5, "x", "kept").run()
    assert run.result() == "kept"


async def test_should_await_a_losing_coroutine_again() -> None:
    @aios.workflow("again")
    async def again(context: aios.WorkflowContext) -> list[Any]:
        async def two() -> str:
            await context.sleep(3)
            await context.sleep(3)
            return "both"

        part = two()
        first = await context.race(part, context.sleep(1))
        second = await context.race(context.sleep(60), part)
        return [list(first), list(second)]

    run = await WorkflowTest(again).run()
    assert run.result() == [[1, None], [1, "both"]]
    assert run.elapsed == 6


@pytest.mark.parametrize("default", [(), (None,)])
async def test_should_race_the_next_item_of_a_generator_again(default: tuple[Any, ...]) -> None:
    @aios.workflow("next_item")
    async def next_item(context: aios.WorkflowContext) -> list[Any]:
        async def numbers() -> AsyncIterator[int]:
            for number in range(2):
                await context.sleep(1.5)
                yield number

        seen: list[Any] = []
        items = numbers()
        item = anext(items, *default)
        while len(seen) < 4:
            seen.append(await context.race(item, context.sleep(1)))
            if seen[-1][0] == 0:
                item = anext(items, *default)
        return seen

    run = await WorkflowTest(next_item).run()
    assert run.result() == [[1, None], [0, 0], [1, None], [0, 1]]
    for end in range(1, len(run.journal) + 1):
        await replay(next_item, run.journal[:end])


async def test_should_end_a_generator_whose_next_item_lost_a_race() -> None:
    @aios.workflow("lost_item")
    async def lost_item(context: aios.WorkflowContext) -> list[str]:
        seen: list[str] = []

        async def numbers() -> AsyncIterator[int]:
            try:
                yield await context.signal("number", result=int)
            finally:
                seen.append("ended")

        items: Any = numbers()
        await context.race(anext(items), context.sleep(1))
        seen.append("raced")
        return [*seen, await anext(items, "nothing")]

    assert (await WorkflowTest(lost_item).run()).result() == ["ended", "raced", "nothing"]


async def test_should_advance_only_branches_with_an_outcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    polls = 0
    advance = _Branch.advance

    def counted(branch: Any, key: int | None) -> Sequence[int]:
        nonlocal polls
        polls += 1
        return advance(branch, key)

    monkeypatch.setattr(_Branch, "advance", counted)

    @aios.workflow("fan")
    async def fan(context: aios.WorkflowContext, count: int) -> int:
        async def part(number: int) -> int:
            return await context.step("same", same, number)

        nested = (context.gather(part(n), context.step("same", same, n)) for n in range(count))
        return sum(sum(both) for both in await context.gather(*nested))

    async with aios.Runtime(workflows=[fan]) as runtime:
        assert await (await runtime.start(fan, 100)).result() == 9900
    # Each branch starts and ends once: 100 groups and 200 steps, each of which wakes its group.
    assert polls <= 2 * 200 + 100 + 200


async def test_should_await_one_operation_in_several_places() -> None:
    @aios.workflow("shared")
    async def shared(context: aios.WorkflowContext) -> list[Any]:
        timer = context.step("same", same, 7)
        return await context.gather(timer, context.gather(timer), timer)

    run = await WorkflowTest(shared).run()
    assert run.result() == [7, [7], 7]


async def test_should_keep_an_operation_that_a_step_closes_or_drops() -> None:
    @aios.agent("never")
    async def never(context: aios.TaskContext) -> None:
        await asyncio.sleep(600)

    @aios.workflow("lends")
    async def lends(context: aios.WorkflowContext) -> int:
        async def close(lent: list[Any]) -> None:
            lent[0].close()
            lent.clear()

        lent: list[Any] = [context.task("never")]
        await context.race(lent[0], context.step("same", same, 1))
        await context.step("close", close, lent)
        return await context.signal("go", result=int)

    async with aios.Runtime(agents=[never], workflows=[lends]) as runtime:
        run = await runtime.start(lends)
        while sum("step_completed" in it.event.type for it in await run.journal()) < 2:
            await asyncio.sleep(0.01)
        await run.signal("go", 7)
        assert await run.result() == 7
        journal = await run.journal()
        types = [recorded.event.type for recorded in journal]
        assert "agents.never.task_cancelled" not in types[:-2], types
        await replay(lends, journal)


USES = {
    "uuid": lambda context: context.uuid(),
    "random": lambda context: context.random(),
    "now": lambda context: context.now(),
    "version": lambda context: context.version("change", 1, 2),
    "status": lambda context: context.set_status("in a step"),
    "emit": lambda context: context.emit("a.b.c"),
    "sleep": lambda context: context.sleep(1),
    "step": lambda context: context.step("inner", same, 1),
    "compensate": lambda context: context.compensate("undo", same),
    "gather": lambda context: context.gather(1),
    "race": lambda context: context.race(),
}


@pytest.mark.parametrize("use", USES)
async def test_should_reject_the_context_in_a_step(use: str, tmp_path: Path) -> None:
    @aios.workflow("inside")
    async def inside(context: aios.WorkflowContext, is_async: bool) -> None:
        def on_a_thread() -> None:
            try:
                USES[use](context)
            except aios.WorkflowCodeError:
                raise
            except Exception as error:
                raise aios.TaskError.terminal("another error") from error

        async def on_the_loop() -> None:
            on_a_thread()

        await context.step("step", on_the_loop if is_async else on_a_thread)

    store = f"sqlite://{tmp_path}/inside.db"
    for is_async in (False, True):
        async with aios.Runtime(store, workflows=[inside]) as runtime:
            run = await runtime.start(inside, is_async, id=f"run-{is_async}")
            with pytest.raises(aios.RunFailedError) as raised:
                await run.result()
            assert raised.value.code == "OPERATION_OUTSIDE_WORKFLOW"
        async with aios.Runtime(store, workflows=[inside]) as runtime:
            run = await runtime.handle(f"run-{is_async}")
            assert (await run.status()).status == "failed"


@pytest.mark.parametrize("is_async", [False, True])
async def test_should_keep_an_operation_that_a_step_uses_and_drops(
    is_async: bool, tmp_path: Path
) -> None:
    """A replay does not run the step, so nothing that it does to an operation has an effect."""
    refused: list[str] = []

    def use(held: list[Any]) -> None:
        for operation in held:
            try:
                operation.send(None)
            except aios.WorkflowCodeError as error:
                refused.append(error.message)
            operation.close()
        held.clear()

    async def use_on_the_loop(held: list[Any]) -> None:
        use(held)

    @aios.workflow("dropping")
    async def dropping(context: aios.WorkflowContext) -> Any:
        begun, later = context.signal("go"), context.signal("later")
        await context.race(begun, context.sleep(0.01))
        await context.step("uses", use_on_the_loop if is_async else use, [begun, later])
        return [await begun, await later]

    store = f"sqlite://{tmp_path}/dropping.db"
    async with aios.Runtime(store, workflows=[dropping]) as runtime:
        run = await runtime.start(dropping, id="d")
        while not any("step_completed" in found.event.type for found in await run.journal()):
            await asyncio.sleep(0.01)
    async with aios.Runtime(store, workflows=[dropping]) as runtime:
        run = await runtime.handle("d")
        await run.signal("go", 1)
        await run.signal("later", 2)
        assert await run.result() == [1, 2]
    assert len(refused) == 2


async def test_should_fail_a_run_whose_step_awaits_an_operation() -> None:
    @aios.workflow("lending")
    async def lending(context: aios.WorkflowContext) -> None:
        async def wait(operation: Any) -> None:
            await operation

        await context.step("wait", wait, context.signal("go"))

    async with aios.Runtime(workflows=[lending]) as runtime:
        run = await runtime.start(lending)
        with pytest.raises(aios.RunFailedError) as raised:
            await run.result()
        assert raised.value.code == "OPERATION_OUTSIDE_WORKFLOW"


async def test_should_pass_attempt_and_key_to_a_step_and_apply_its_timeout() -> None:
    seen: list[aios.StepContext] = []

    @aios.workflow("steps")
    async def steps(context: aios.WorkflowContext) -> str:
        async def slow() -> str:
            seen.append(aios.current_step())
            if len(seen) < 3:
                await asyncio.sleep(60)
            return "done"

        policy = aios.RetryPolicy.fixed(3, 0.01)
        return await context.with_timeout(0.05).with_retry(policy).step("slow", slow)

    async with aios.Runtime(workflows=[steps]) as runtime:
        run = await runtime.start(steps, id="r")
        assert await run.result() == "done"
    assert [step.attempt for step in seen] == [1, 2, 3]
    assert len({step.idempotency_key for step in seen}) == 1
    with pytest.raises(LookupError):
        aios.current_step()


async def test_should_pass_the_fence_to_steps_and_tasks(tmp_path: Path) -> None:
    @aios.agent("fenced")
    async def fenced(context: aios.TaskContext) -> list[int] | None:
        return None if context.fence is None else [context.fence.shard, context.fence.epoch]

    def plain() -> list[int] | None:
        fence = aios.current_step().fence
        return None if fence is None else list(fence)

    async def in_a_coroutine() -> list[int] | None:
        return plain()

    @aios.workflow("fences")
    async def fences(context: aios.WorkflowContext) -> list[Any]:
        own = context.fence
        assert own is None or isinstance(own, aios.Fence)
        return [
            await context.step("own", lambda: own),
            await context.step("plain", plain),
            await context.step("coroutine", in_a_coroutine),
            await context.task("fenced"),
        ]

    store = f"sqlite://{tmp_path / 'aios.db'}"
    seen = []
    for number in (1, 2):
        async with aios.Runtime(store, workflows=[fences], agents=[fenced]) as runtime:
            result = await (await runtime.start(fences, id=f"r{number}")).result()
            assert result == [result[0]] * 4
            seen.append(result[0])
            assert await runtime.call("fenced") is None
    assert [epoch for _, epoch in seen] == [1, 2], "a new owner has a higher epoch"
    tested = await WorkflowTest(fences).agent("fenced", lambda _: None).run()
    assert tested.result() == [None] * 4


async def test_should_draw_other_values_than_an_earlier_run_with_the_same_id() -> None:
    @aios.agent("keyed")
    async def keyed(context: aios.TaskContext) -> str:
        return context.idempotency_key

    def key() -> str:
        return aios.current_step().idempotency_key

    @aios.workflow("draws")
    async def draws(context: aios.WorkflowContext) -> list[str]:
        keys = [await context.step("key", key), await context.task("keyed")]
        return [*keys, str(context.uuid()), str(context.random())]

    drawn: set[str] = set()
    for _ in range(2):
        async with aios.Runtime(agents=[keyed], workflows=[draws]) as runtime:
            run = await runtime.start(draws, id="daily")
            drawn.update(await run.result())
    assert len(drawn) == 8


async def test_should_await_a_losing_group_again() -> None:
    @aios.workflow("regroup")
    async def regroup(context: aios.WorkflowContext, is_coroutine: bool) -> list[Any]:
        async def both() -> list[Any]:
            return await context.gather(timer(2), context.race(context.sleep(3), timer(4)))

        async def timer(seconds: float) -> float:
            await context.sleep(seconds)
            return seconds

        group: Any = both() if is_coroutine else context.gather(timer(2), context.sleep(3))
        first = await context.race(group, context.sleep(1))
        second = await context.race(context.sleep(60), group)
        again = None if is_coroutine else await group
        return [list(first), list(second), again]

    run = await WorkflowTest(regroup).run(True)
    assert run.result() == [[1, None], [1, [2, [0, None]]], None]
    assert run.elapsed == 3
    for end in range(1, len(run.journal) + 1):
        await replay(regroup, run.journal[:end])
    assert (await WorkflowTest(regroup).run(False)).result() == [
        [1, None],
        [1, [2, None]],
        [2, None],
    ]


async def test_should_await_one_group_in_several_places() -> None:
    @aios.workflow("places")
    async def places(context: aios.WorkflowContext) -> list[Any]:
        async def timer(seconds: float) -> float:
            await context.sleep(seconds)
            await context.sleep(seconds)
            return seconds

        group = context.gather(timer(1), timer(2))
        first = context.race(timer(1), timer(2))
        return await context.gather(group, context.gather(group, first), first)

    run = await WorkflowTest(places).run()
    assert run.result() == [[1, 2], [[1, 2], [0, 1]], [0, 1]]
    assert run.elapsed == 4


class Timed:
    """An awaitable that is neither an operation nor a coroutine."""

    def __init__(self, context: aios.WorkflowContext) -> None:
        self._context = context

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._context.signal("x", timeout=1).__await__())


def failing(context: aios.WorkflowContext, kind: str) -> Awaitable[Any]:
    async def branch() -> Any:
        return await context.signal("x", timeout=1)

    if kind == "coroutine":
        return branch()
    if kind == "group":
        return context.gather(branch())
    return Timed(context) if kind == "awaitable" else context.signal("x", timeout=1)


@pytest.mark.parametrize("kind", ["operation", "coroutine", "group", "awaitable"])
async def test_should_raise_the_error_of_a_group_again(kind: str) -> None:
    @aios.workflow("twice")
    async def twice(context: aios.WorkflowContext, is_alone: bool) -> list[str]:
        parts = [failing(context, kind), *([] if is_alone else [context.sleep(5)])]
        group = context.gather(*parts)
        codes = []
        for _ in range(2):
            try:
                await group
            except aios.SignalTimeoutError as error:
                codes.append(error.code)
        return codes

    for is_alone in (False, True):
        run = await WorkflowTest(twice).run(is_alone)
        assert run.result() == ["SIGNAL_TIMEOUT", "SIGNAL_TIMEOUT"]


@pytest.mark.parametrize("kind", ["operation", "coroutine", "group", "awaitable"])
async def test_should_raise_the_error_of_a_group_in_several_places(kind: str) -> None:
    @aios.workflow("everywhere")
    async def everywhere(context: aios.WorkflowContext) -> list[str]:
        group = context.race(failing(context, kind), context.sleep(5))

        async def place() -> str:
            with pytest.raises(aios.SignalTimeoutError) as raised:
                await group
            return raised.value.code

        return await context.gather(place(), place(), place())

    run = await WorkflowTest(everywhere).run()
    assert run.result() == ["SIGNAL_TIMEOUT"] * 3


class Refused(aios.TaskError):
    """Takes other arguments than it passes on."""

    def __init__(self, order: int) -> None:
        super().__init__(f"order {order} was refused", code="REFUSED", retryable=False)
        self.order = order


@pytest.mark.parametrize(
    "error",
    [Refused(7), FileNotFoundError(2, "gone", "a.txt"), ExceptionGroup("two", [OSError(1)])],
)
async def test_should_raise_an_equal_error_of_a_group_again(error: Exception) -> None:
    @aios.workflow("equal")
    async def equal(context: aios.WorkflowContext) -> None:
        async def branch() -> None:
            raise error from KeyError("cause")

        group = context.gather(branch())
        for _ in range(3):
            with pytest.raises(type(error)) as raised:
                await group
            assert str(raised.value) == str(error)
            assert vars(raised.value) == vars(error)
            assert isinstance(raised.value.__cause__, KeyError)

    (await WorkflowTest(equal).run()).result()


async def test_should_cancel_what_a_failed_branch_has_held() -> None:
    @aios.workflow("held_races")
    async def held_races(context: aios.WorkflowContext) -> str:
        async def branch() -> None:
            held = context.signal("x", result=str)
            await context.race(held, context.sleep(1))
            raise ValueError("fails")

        group = context.gather(branch())
        with contextlib.suppress(ValueError):
            await group
        later = await context.signal("x", result=str)
        with contextlib.suppress(ValueError):
            await group
        return later

    # The signal is received by the second operation, because the first was cancelled.
    assert (await WorkflowTest(held_races).signal(5, "x", "later").run()).result() == "later"


async def test_should_give_each_branch_its_own_context_variables() -> None:
    variable = contextvars.ContextVar("variable", default=0)

    @aios.workflow("variables")
    async def variables(context: aios.WorkflowContext) -> list[Any]:
        async def branch(number: int) -> int:
            token = variable.set(number)
            try:
                await context.sleep(10 - number)
                return await context.step("read", variable.get)
            finally:
                variable.reset(token)

        kept = branch(3)
        first = await context.race(kept, branch(1), context.sleep(1))
        numbers = await context.gather(kept, branch(4), branch(5))
        return [first[0], numbers, variable.get()]

    run = await WorkflowTest(variables).run()
    assert run.result() == [2, [3, 4, 5], 0]


@pytest.mark.parametrize(
    ("value", "hint"),
    [(1, "of type int"), ([], r"context.gather\(\*items\)"), (same, "call it")],
)
async def test_should_reject_a_branch_that_is_not_awaitable(value: Any, hint: str) -> None:
    @aios.workflow("not_awaitable")
    async def not_awaitable(context: aios.WorkflowContext) -> None:
        await context.gather(value)

    with pytest.raises(aios.RunFailedError, match=hint):
        (await WorkflowTest(not_awaitable).run()).result()


async def test_should_continue_as_new_from_a_branch() -> None:
    @aios.workflow("renew")
    async def renew(context: aios.WorkflowContext, left: int) -> str:
        async def branch() -> None:
            raise context.continue_as_new(left - 1)

        if left == 0:
            return "end"
        return str(await context.gather(branch(), return_exceptions=True))

    async with aios.Runtime(workflows=[renew]) as runtime:
        assert await (await runtime.start(renew, 2)).result() == "end"


@pytest.mark.parametrize("closes", [True, False])
async def test_should_close_an_async_generator_that_waits_in_a_lost_branch(closes: bool) -> None:
    seen: list[str] = []

    @aios.workflow("iterating")
    async def iterating(context: aios.WorkflowContext) -> int:
        async def ticks() -> AsyncIterator[str]:
            try:
                while True:
                    await context.sleep(1)
                    yield "tick"
            finally:
                seen.append("closed")

        async def branch() -> None:
            if not closes:
                async for tick in ticks():
                    seen.append(tick)
            async with contextlib.aclosing(cast(Any, ticks())) as items:
                async for tick in items:
                    seen.append(tick)

        index, _ = await context.race(branch(), context.sleep(1.5))
        seen.append("lost")
        return index

    assert (await WorkflowTest(iterating).run()).result() == 1
    assert seen == ["tick", "closed", "lost"]


async def test_should_close_an_async_generator_of_a_run_that_leaves_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[str] = []

    @aios.workflow("iterating")
    async def iterating(context: aios.WorkflowContext) -> None:
        async def days() -> AsyncIterator[None]:
            try:
                while True:
                    await context.sleep(86_400)
                    yield
            finally:
                seen.append("closed")

        async with contextlib.aclosing(cast(Any, days())) as items:
            async for _ in items:
                pass

    async with aios.Runtime(workflows=[iterating]) as runtime:
        run = await runtime.start(iterating)
        while not (await run.journal())[-1].event.type.endswith("timer_started"):
            await asyncio.sleep(0.01)
    assert seen == ["closed"]
    assert not caplog.records


async def test_should_keep_an_operation_that_a_lost_branch_awaits_and_others_too() -> None:
    @aios.workflow("sharing")
    async def sharing(context: aios.WorkflowContext) -> list[Any]:
        shared = context.sleep(10)

        async def branch() -> str:
            await shared
            return "done"

        raced = await context.gather(
            context.race(branch(), context.sleep(1)), context.race(branch(), context.sleep(20))
        )
        await shared
        return [*raced, context.now().second]

    assert (await WorkflowTest(sharing).run()).result() == [[1, None], [0, "done"], 10]
