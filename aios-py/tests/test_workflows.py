from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import datetime
import gc
import weakref
from pathlib import Path
from typing import Any, cast

import aios
import pytest
from aios.testing import WorkflowTest

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="unknown")


@dataclasses.dataclass
class Order:
    item: str
    count: int


@dataclasses.dataclass
class Receipt:
    text: str
    total: int


@aios.agent("double")
async def double(context: aios.TaskContext, number: int) -> int:
    return number * 2


async def price(order: Order) -> Receipt:
    await asyncio.sleep(0)
    return Receipt(order.item, order.count * 3)


def plain(number: int) -> int:
    return number + 1


@aios.workflow("shop")
async def shop(context: aios.WorkflowContext, order: Order) -> Receipt:
    receipt = await context.step("price", price, order)
    assert isinstance(receipt, Receipt)
    doubled = await context.gather(*(context.task("double", n) for n in range(order.count)))
    total = await context.step("plain", plain, receipt.total + sum(doubled))
    return Receipt(receipt.text, total)


async def test_should_run_tasks_and_steps_and_convert_results_by_annotation() -> None:
    async with aios.Runtime(agents=[double], workflows=[shop]) as runtime:
        run = await runtime.start(shop, Order("book", 4))
        assert await run.result() == Receipt("book", 12 + 12 + 1)
        again = await runtime.handle(run.id)
        assert await again.result() == {"text": "book", "total": 25}
        status = await run.status()
    assert (status.status, status.workflow, status.is_final) == ("completed", "shop", True)


async def test_should_write_the_same_journal_as_a_rust_workflow() -> None:
    async with aios.Runtime(agents=[double], workflows=[shop]) as runtime:
        run = await runtime.start(shop, Order("book", 1), id="order-1")
        await run.result()
        journal = await run.journal()
    assert [recorded.event.type for recorded in journal] == [
        "workflows.shop.started",
        "workflows.shop.step_completed",
        "agents.double.task_assigned",
        "agents.double.task_completed",
        "workflows.shop.step_completed",
        "workflows.shop.completed",
    ]
    assert journal[1].event.data == {
        "operation": 1,
        "name": "price",
        "result": {"text": "book", "total": 3},
    }


async def test_should_wait_for_signals_and_timers() -> None:
    @aios.workflow("approval")
    async def approval(context: aios.WorkflowContext) -> list[Any]:
        first = await context.signal("approve", result=Order)
        await context.sleep(0.05)
        with pytest.raises(aios.SignalTimeoutError):
            await context.signal("never", timeout=0.05)
        index, value = await context.race(context.sleep(60), context.signal("go"))
        return [first.item, index, value]

    async with aios.Runtime(workflows=[approval]) as runtime:
        run = await runtime.start(approval)
        await run.signal("approve", Order("pen", 1))
        await run.signal("go", 7)
        assert await run.result() == ["pen", 1, 7]


async def test_should_run_children_and_branches_in_parallel() -> None:
    @aios.workflow("child")
    async def child(context: aios.WorkflowContext, number: int) -> int:
        return await context.task("double", number, result=int)

    @aios.workflow("parent")
    async def parent(context: aios.WorkflowContext, count: int) -> int:
        async def part(number: int) -> int:
            once = await context.child(child, number)
            return await context.task("double", once, result=int)

        parts = await context.gather(*(part(number) for number in range(count)))
        by_name = await context.child("child", 1)
        return sum(parts) + int(by_name)

    async with aios.Runtime(agents=[double], workflows=[child, parent]) as runtime:
        run = await runtime.start(parent, 3)
        assert await run.result() == 14
        runs = await runtime.runs("child")
    assert {row.parent_run_id for row in runs.rows} == {run.id}


async def test_should_return_the_same_time_ids_and_random_numbers_in_a_replay(
    tmp_path: Path,
) -> None:
    seen: list[Any] = []

    @aios.workflow("steady")
    async def steady(context: aios.WorkflowContext) -> str:
        before = (context.now(), context.uuid(), context.random(), context.version("c", 1, 2))
        seen.append(before)
        await context.signal("go")
        return str(before[1])

    url = f"sqlite://{tmp_path}/a.db"
    async with aios.Runtime(url, workflows=[steady]) as runtime:
        await runtime.start(steady, id="s")
        while not seen:
            await asyncio.sleep(0.01)
    async with aios.Runtime(url, workflows=[steady]) as runtime:
        run = await runtime.handle("s")
        await run.signal("go")
        assert await run.result() == str(seen[0][1])
    assert len(seen) >= 2
    assert len(set(seen)) == 1
    assert seen[0][3] == 2


async def test_should_block_with_an_explanation_when_code_awaits_something_else() -> None:
    @aios.workflow("sleeper")
    async def sleeper(context: aios.WorkflowContext, how: str) -> None:
        if how == "sleep":
            await asyncio.sleep(1)
        elif how == "yield":
            await asyncio.sleep(0)
        elif how == "task":
            coroutine = asyncio.sleep(1)
            try:
                asyncio.create_task(coroutine)
            finally:
                coroutine.close()
        elif how == "timeout":
            async with asyncio.timeout(1):
                await context.sleep(0)
        else:
            await context.gather(context.sleep(0), asyncio.sleep(0))

    async with aios.Runtime(workflows=[sleeper]) as runtime:
        for how in ("sleep", "yield", "task", "timeout", "gather"):
            run = await runtime.start(sleeper, how)
            with pytest.raises(aios.RunBlockedError) as raised:
                await run.result()
            assert "context.step" in str(raised.value), how
            assert (await run.status()).status == "blocked"


async def test_should_block_a_run_whose_code_does_not_match_and_resume_with_matching_code(
    tmp_path: Path,
) -> None:
    @aios.workflow("changing")
    async def old(context: aios.WorkflowContext) -> str:
        await context.step("first", plain, 1)
        await context.signal("go")
        return "done"

    @aios.workflow("changing")
    async def new(context: aios.WorkflowContext) -> str:
        await context.step("renamed", plain, 1)
        await context.signal("go")
        return "wrong"

    url = f"sqlite://{tmp_path}/a.db"
    async with aios.Runtime(url, workflows=[old]) as runtime:
        run = await runtime.start(old, id="c")
        while len(await run.journal()) < 2:
            await asyncio.sleep(0.01)
    async with aios.Runtime(url, workflows=[new]) as runtime:
        run_again = await runtime.handle("c")
        with pytest.raises(aios.RunBlockedError) as raised:
            await run_again.result()
        assert raised.value.details == {
            "operation": 1,
            "recorded": "step first",
            "asked": "step renamed",
        }
    async with aios.Runtime(url, workflows=[old]) as runtime:
        run_again = await runtime.handle("c")
        await run_again.signal("go")
        assert await run_again.result() == "done"


async def test_should_fail_with_the_exception_of_the_code() -> None:
    @aios.workflow("failing")
    async def failing(context: aios.WorkflowContext, code: str) -> None:
        if code:
            raise aios.TaskError("refused", code=code, details=[1])
        raise KeyError("lost")

    async with aios.Runtime(workflows=[failing]) as runtime:
        run = await runtime.start(failing, "REFUSED")
        with pytest.raises(aios.RunFailedError) as raised:
            await run.result()
        assert (raised.value.code, raised.value.details) == ("REFUSED", [1])
        assert isinstance(raised.value.__cause__, aios.TaskError)
        run = await runtime.start(failing, "")
        with pytest.raises(aios.RunFailedError) as raised:
            await run.result()
    assert raised.value.code == "WORKFLOW_FAILED"
    assert raised.value.details["type"] == "KeyError"
    assert 'raise KeyError("lost")' in raised.value.details["traceback"]


async def test_should_fail_when_a_result_is_not_json_serialisable() -> None:
    def strange() -> object:
        return object()

    @aios.workflow("stranger")
    async def stranger(context: aios.WorkflowContext, inside: bool) -> object:
        return await context.step("strange", strange) if inside else object()

    async with aios.Runtime(workflows=[stranger]) as runtime:
        for inside in (True, False):
            run = await runtime.start(stranger, inside)
            with pytest.raises(aios.RunFailedError) as raised:
                await run.result()
            assert raised.value.code == "INVALID_OUTPUT"
            assert type(raised.value.__cause__) is aios.InvalidOutputError


async def test_should_fail_when_the_coroutine_can_not_be_made_for_a_stop_iteration() -> None:
    @aios.workflow("broken")
    async def broken(context: aios.WorkflowContext) -> str:
        return "never"

    def begin(context: aios.WorkflowContext) -> str:
        return cast(str, next(iter(())))

    broken.function = begin
    async with aios.Runtime(workflows=[broken]) as runtime:
        with pytest.raises(aios.RunFailedError) as raised:
            await (await runtime.start(broken)).result()
    assert raised.value.details["type"] == "RuntimeError"
    assert "next(iter(()))" in raised.value.details["traceback"]


async def test_should_fail_with_an_exception_that_has_every_attribute() -> None:
    class AnyError(Exception):
        def __getattr__(self, name: str) -> Any:
            return f"the attribute {name}"

    @aios.workflow("anything")
    async def anything(context: aios.WorkflowContext) -> None:
        raise AnyError("lost")

    async with aios.Runtime(workflows=[anything]) as runtime:
        with pytest.raises(aios.RunFailedError) as raised:
            await (await runtime.start(anything)).result()
    assert raised.value.code == "WORKFLOW_FAILED"
    assert raised.value.details["message"] == "lost"


@pytest.mark.parametrize("inside", [True, False])
async def test_should_keep_details_of_failures_with_numbers_of_any_size(inside: bool) -> None:
    def refuse() -> None:
        raise aios.TaskError.terminal("too many", code="REFUSED", details={"sum": [10**400]})

    @aios.workflow("large")
    async def large(context: aios.WorkflowContext) -> None:
        await context.step("refuse", refuse) if inside else refuse()

    async with aios.Runtime(workflows=[large]) as runtime:
        with pytest.raises(aios.RunFailedError) as raised:
            await (await runtime.start(large)).result()
    assert raised.value.code == "REFUSED"
    assert raised.value.details == {"sum": [10**400]}


async def test_should_pass_context_variables_to_the_workflow_and_its_steps() -> None:
    def plain_step() -> str:
        return tenant.get()

    async def async_step() -> str:
        found = tenant.get()
        tenant.set("another")
        await asyncio.sleep(0)
        return found

    @aios.workflow("tenants")
    async def tenants(context: aios.WorkflowContext) -> list[str]:
        found = [tenant.get()]
        for name in ("bob", "eve"):
            found.append(await context.step("plain", plain_step))
            found.append(await context.step("async", async_step))
            tenant.set(name)
        return [*found, tenant.get()]

    tenant.set("ada")
    async with aios.Runtime(workflows=[tenants]) as runtime:
        tenant.set("too late")
        for _ in range(2):
            run = await runtime.start(tenants)
            assert await run.result() == ["ada", "ada", "ada", "bob", "bob", "eve"]
    assert tenant.get() == "too late"


async def test_should_propagate_the_trace_to_tasks_steps_and_children() -> None:
    @aios.agent("traced")
    async def traced(context: aios.TaskContext) -> list[str | None]:
        return [context.traceparent, aios.traceparent.get()]

    def step() -> str | None:
        return aios.traceparent.get()

    @aios.workflow("tracing")
    async def tracing(context: aios.WorkflowContext, children: int) -> list[str | None]:
        found: list[str | None] = [context.traceparent, aios.traceparent.get()]
        found += await context.task("traced", result=list[str | None])
        found.append(await context.step("step", step))
        return found + (await context.child(tracing, children - 1) if children else [])

    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with aios.Runtime(agents=[traced], workflows=[tracing]) as runtime:
        run = await runtime.start(tracing, 1, traceparent=trace)
        found = await run.result()
        assert len(found) == 10 and {str(it)[:36] for it in found} == {trace[:36]}
        # A run, a task and a child have spans of their own.
        own, inherited, task, inherited_by_task, plain, *of_child = found
        assert own == inherited == plain and task == inherited_by_task
        assert len({trace, own, task, of_child[0], of_child[2]}) == 5
        run = await runtime.start(tracing, 1)
        found = await run.result()
        assert len({str(it)[:36] for it in found}) == 1, "a run begins a trace if it has none"


async def test_should_free_a_run_that_caught_a_failure() -> None:
    class Marker:
        pass

    markers: list[weakref.ref[Marker]] = []

    def refuse() -> None:
        raise aios.TaskError.terminal("no")

    @aios.workflow("catching")
    async def catching(context: aios.WorkflowContext) -> int:
        marker = Marker()
        markers.append(weakref.ref(marker))
        operation = context.step("refuse", refuse)
        errors: list[int] = []
        for _ in range(2):
            try:
                await operation
            except aios.TaskError as error:
                errors.append(id(error))
        return len(errors)

    async with aios.Runtime(workflows=[catching]) as runtime:
        run = await runtime.start(catching)
        assert await run.result() == 2
    gc.collect()
    assert markers
    assert [marker() for marker in markers] == [None] * len(markers)


async def test_should_raise_failures_of_tasks_where_they_are_awaited() -> None:
    @aios.agent("failing")
    async def failing(context: aios.TaskContext) -> None:
        raise ValueError("no")

    @aios.workflow("careful")
    async def careful(context: aios.WorkflowContext) -> list[str]:
        context = context.with_retry(aios.RetryPolicy.never())
        found: list[str] = []
        try:
            await context.task("failing")
        except aios.TaskError as error:
            found.append(error.details["type"])
        try:
            await context.step("int", int, "x")
        except aios.TaskError as error:
            found.append(error.details["type"])
        errors = await context.gather(
            context.task("failing"), context.sleep(0), return_exceptions=True
        )
        found.append(type(errors[0]).__name__)
        try:
            await context.task("double", "two")
        except aios.InvalidParametersError as error:
            found.append(error.details[0]["fault"])
        return found

    async with aios.Runtime(agents=[failing, double], workflows=[careful]) as runtime:
        run = await runtime.start(careful)
        assert await run.result() == [
            "ValueError",
            "ValueError",
            "TaskError",
            "is string instead of integer",
        ]


async def test_should_add_details_to_the_failure_of_a_run() -> None:
    @aios.workflow("charges")
    async def charges(context: aios.WorkflowContext) -> None:
        async def undo(context: aios.WorkflowContext) -> None:
            context.set_failure_detail("refund", {"open": await context.step("plain", plain, 6)})

        context.compensate("refund", undo)
        context.set_failure_detail("card", "1234")
        context.set_failure_detail("card", "4242")
        raise aios.TaskError.terminal("no money", code="DECLINED", details={"by": "bank"})

    @aios.workflow("unwritable")
    async def unwritable(context: aios.WorkflowContext) -> str:
        with pytest.raises(aios.InvalidDataError, match='the failure detail "card"'):
            context.set_failure_detail("card", object())
        return "done"

    async with aios.Runtime(workflows=[charges, unwritable]) as runtime:
        run = await runtime.start(charges)
        with pytest.raises(aios.RunFailedError) as raised:
            await run.result()
        details = raised.value.details
        assert (details["card"], details["refund"]) == ("4242", {"open": 7})
        assert raised.value.code == "DECLINED"
        assert await (await runtime.start(unwritable)).result() == "done"


async def test_should_name_the_argument_of_a_sleep() -> None:
    @aios.workflow("naps")
    async def naps(context: aios.WorkflowContext) -> str:
        seconds: Any = datetime.timedelta(seconds=1)
        with pytest.raises(TypeError) as raised:
            await context.sleep(seconds)
        return str(raised.value)

    async with aios.Runtime(workflows=[naps]) as runtime:
        message = await (await runtime.start(naps)).result()
    assert "seconds" in message and "timedelta" in message, message


async def test_should_cancel_and_compensate_in_reverse_order() -> None:
    undone: list[str] = []

    async def note(name: str) -> None:
        undone.append(name)

    @aios.workflow("booking")
    async def booking(context: aios.WorkflowContext) -> None:
        async def undo(context: aios.WorkflowContext, name: str) -> None:
            await context.step("undo", note, name)

        context.compensate("hotel", undo, "hotel")
        context.compensate("flight", undo, "flight")
        await context.signal("never")

    async with aios.Runtime(workflows=[booking]) as runtime:
        run = await runtime.start(booking)
        await run.cancel("changed my mind")
        with pytest.raises(aios.RunCancelledError, match="changed my mind"):
            await run.result()
        with pytest.raises(aios.RunEndedError):
            await run.signal("never")
    assert undone == ["flight", "hotel"]


async def test_should_end_a_run_whose_compensation_hangs() -> None:
    @aios.workflow("hanging")
    async def hanging(context: aios.WorkflowContext) -> None:
        async def undo(context: aios.WorkflowContext) -> None:
            await context.signal("undone")

        context.compensate("hangs", undo)
        await context.signal("never")

    async with aios.Runtime(workflows=[hanging]) as runtime:
        run = await runtime.start(hanging)
        await run.cancel("changed my mind")
        await run.terminate("it never ends")
        with pytest.raises(aios.RunCancelledError, match="changed my mind") as raised:
            await run.result()
        assert raised.value.details["terminated"] == "it never ends"


async def test_should_pause_resume_and_fork() -> None:
    @aios.workflow("pausing")
    async def pausing(context: aios.WorkflowContext) -> int:
        context.set_status("waiting", {"done": 0})
        number = await context.step("one", plain, 0)
        await context.signal("go")
        return await context.step("two", plain, number)

    async with aios.Runtime(workflows=[pausing]) as runtime:
        run = await runtime.start(pausing)
        await run.pause()
        await run.signal("go")
        assert (await run.status()).status == "paused"
        await run.resume()
        assert await run.result() == 2
        status = await run.status()
        assert (status.status_text, status.progress) == ("waiting", {"done": 0})
        # The copied part of the journal ends with the signal.
        forked = await run.fork(3, "fork-1")
        assert await forked.result() == 2
        with pytest.raises(aios.OperationNotFoundError):
            await run.fork(99, "fork-2")


async def test_should_retry_a_failed_run_from_its_failed_operation() -> None:
    done: list[str] = []

    def work(name: str) -> str:
        done.append(name)
        if name == "two" and done.count(name) == 1:
            raise aios.TaskError.terminal("no disk space")
        return name

    @aios.workflow("retried")
    async def retried(context: aios.WorkflowContext) -> str:
        one = await context.step("one", work, "one")
        return one + await context.step("two", work, "two")

    async with aios.Runtime(workflows=[retried]) as runtime:
        run = await runtime.start(retried)
        with pytest.raises(aios.RunFailedError):
            await run.result()
        again = await run.retry("again")
        assert await again.result() == "onetwo"
        with pytest.raises(aios.RunNotFailedError):
            await again.retry("more")
    assert done == ["one", "two", "two"]


async def test_should_continue_as_new() -> None:
    @aios.workflow("counting")
    async def counting(context: aios.WorkflowContext, count: int) -> int:
        if count < 3:
            raise context.continue_as_new(count + 1)
        return count

    async with aios.Runtime(workflows=[counting]) as runtime:
        run = await runtime.start(counting, 0)
        assert await run.result() == 3
        # A handle follows continue-as-new.
        assert (await run.status()).status == "completed"
        statuses = [row.status for row in (await runtime.runs()).rows]
        assert sorted(statuses) == ["completed", "continued", "continued", "continued"]


def test_should_say_that_a_continuation_is_raised_and_not_returned() -> None:
    @aios.workflow("returns")
    async def returns(context: aios.WorkflowContext) -> Any:
        return context.continue_as_new()

    with pytest.raises(aios.RunFailedError, match="write `raise` instead of `return`"):
        WorkflowTest(returns).run_sync().result()


async def test_should_continue_as_new_from_a_group_of_exceptions() -> None:
    @aios.workflow("grouped")
    async def grouped(context: aios.WorkflowContext, left: int) -> int:
        if left == 0:
            return left
        error = ExceptionGroup("one", [ExceptionGroup("two", [context.continue_as_new(left - 1)])])
        if left == 2:

            async def branch() -> None:
                raise error

            await context.gather(branch(), return_exceptions=True)
        raise error

    @aios.workflow("mixed")
    async def mixed(context: aios.WorkflowContext) -> None:
        raise ExceptionGroup("mixed", [context.continue_as_new(), ValueError("no number")])

    async with aios.Runtime(workflows=[grouped, mixed]) as runtime:
        assert await (await runtime.start(grouped, 2)).result() == 0
        with pytest.raises(aios.RunFailedError, match="ValueError: no number"):
            await (await runtime.start(mixed)).result()


async def test_should_say_how_to_make_the_id_of_a_child_of_that_of_a_continued_run() -> None:
    @aios.workflow("part")
    async def part(context: aios.WorkflowContext, replaced: bool) -> None: ...

    @aios.workflow("chain")
    async def chain(context: aios.WorkflowContext, is_first: bool) -> str:
        if is_first:
            await context.child(part, False, id=f"part-of-{context.run_id}")
            raise context.continue_as_new(False)
        with pytest.raises(aios.AiosError) as refused:
            await context.child(part, False, id=f"part-of-{context.run_id}")
        assert refused.value.code == "INVALID_RUN_ID"
        await context.child(part, True, id=f"part-of-{context.run_id.replace('~', '.')}")
        return refused.value.message

    async with aios.Runtime(workflows=[chain, part]) as runtime:
        message = await (await runtime.start(chain, True, id="first")).result()
        assert "this one contains '~'" in message and "replace it" in message, message
        assert (await (await runtime.handle("part-of-first.r2")).status()).status == "completed"


async def test_should_start_once_under_an_id() -> None:
    @aios.workflow("waiting")
    async def waiting(context: aios.WorkflowContext, number: int) -> int:
        return number

    async with aios.Runtime(workflows=[waiting]) as runtime:
        first = await runtime.start(waiting, 1, id="same")
        second = await runtime.start(waiting, 1, id="same")
        assert await first.result() == await second.result() == 1
        with pytest.raises(aios.RunExistsError):
            await runtime.start(waiting, 2, id="same")
        with pytest.raises(aios.RunNotFoundError):
            await runtime.handle("other")


async def test_should_reject_input_that_does_not_match() -> None:
    async with aios.Runtime(workflows=[shop]) as runtime:
        run = await runtime.start("shop", {"item": 1})
        with pytest.raises(aios.RunFailedError) as raised:
            await run.result()
    assert raised.value.code == "INVALID_PARAMETERS"
    assert {fault["path"] for fault in raised.value.details} == {"/item", "/count"}


async def test_should_name_a_workflow_whose_input_does_not_match() -> None:
    @aios.workflow("orders")
    async def orders(context: aios.WorkflowContext, count: int) -> int:
        return count

    async with aios.Runtime(workflows=[orders]) as runtime:
        run = await runtime.start("orders", "x")
        with pytest.raises(aios.RunFailedError, match="input of workflow orders does not match"):
            await run.result()


async def test_should_apply_the_default_of_an_input_to_a_start_by_name() -> None:
    @aios.workflow("counts")
    async def count(context: aios.WorkflowContext, order: Order = Order("tea", 2)) -> int:  # noqa: B008
        return order.count

    @aios.workflow("untyped")
    async def untyped(context: aios.WorkflowContext, order: Any = 3) -> Any:
        return order

    @aios.workflow("optional")
    async def optional(context: aios.WorkflowContext, number: int | None = 4) -> int | None:
        return number

    @aios.workflow("by_name")
    async def by_name(context: aios.WorkflowContext) -> list[Any]:
        return [await context.child(name) for name in ("counts", "untyped", "optional")]

    async with aios.Runtime(workflows=[by_name, count, untyped, optional]) as runtime:
        # The last one takes `None`, which also means that there is no input.
        assert await (await runtime.start(by_name)).result() == [2, 3, None]
        assert await (await runtime.start(optional)).result() == 4
        assert await (await runtime.start(optional, None)).result() is None


async def test_should_give_each_run_its_own_default_of_an_input() -> None:
    @aios.workflow("collecting")
    async def collect(context: aios.WorkflowContext, items: list[int] = []) -> list[int]:  # noqa: B006
        items.append(await context.step("item", int, 1))
        return items

    inputs: list[tuple[Any, ...]] = [(), (None,), (None,), ()]
    async with aios.Runtime(workflows=[collect]) as runtime:
        for input in inputs:
            assert await (await runtime.start(collect, *input)).result() == [1]


async def test_should_emit_events_once() -> None:
    @aios.workflow("emitting")
    async def emitting(context: aios.WorkflowContext) -> None:
        context.emit("shop.order.placed", {"n": 1})
        await context.sleep(0)

    async with (
        aios.Runtime(workflows=[emitting]) as runtime,
        runtime.events("shop.order.*") as events,
    ):
        run = await runtime.start(emitting)
        await run.result()
        event = await anext(events)
        logged = [r.event.type async for r in runtime.log() if r.event.type == event.type]
    assert event.data == {"n": 1}
    assert logged == ["shop.order.placed"]


async def test_should_run_versions_side_by_side(tmp_path: Path) -> None:
    @aios.workflow("release")
    async def first(context: aios.WorkflowContext) -> str:
        await context.signal("go")
        return "one"

    @aios.workflow("release", version=2)
    async def second(context: aios.WorkflowContext) -> str:
        await context.signal("go")
        return "two"

    url = f"sqlite://{tmp_path}/a.db"
    async with aios.Runtime(url, workflows=[first]) as runtime:
        await runtime.start(first, id="old")
    async with aios.Runtime(url, workflows=[first, second]) as runtime:
        old, new = await runtime.handle("old"), await runtime.start("release")
        await asyncio.gather(old.signal("go"), new.signal("go"))
        assert [await old.result(), await new.result()] == ["one", "two"]


async def test_should_reject_functions_that_can_not_be_workflows() -> None:
    with pytest.raises(aios.WorkflowCodeError):

        @aios.workflow("plain")  # type: ignore[arg-type]  # pyright: ignore
        def not_async(context: aios.WorkflowContext) -> None: ...

    async with aios.Runtime() as runtime:
        with pytest.raises(aios.WorkflowNotFoundError):
            await runtime.start(shop, Order("a", 1))


async def test_should_block_a_step_that_gets_the_result_of_a_call() -> None:
    def count() -> int:
        return 1

    @aios.workflow("called")
    async def called(context: aios.WorkflowContext) -> Any:
        return await context.step("count", cast("Any", count()))

    async with aios.Runtime(workflows=[called]) as runtime:
        run = await runtime.start(called)
        with pytest.raises(aios.RunBlockedError, match="takes a function and its arguments"):
            await run.result()


async def test_should_pass_keyword_arguments_of_any_name_to_a_step() -> None:
    def rename(name: str, *, function: str, self: str) -> list[str]:
        return [name, function, self]

    async def rename_later(name: str, *, function: str, self: str) -> list[str]:
        return [name, function, self]

    @aios.workflow("names")
    async def names(context: aios.WorkflowContext) -> list[list[str]]:
        return [
            await context.step("plain", rename, name="a", function="b", self="c"),
            await context.step("async", rename_later, name="d", function="e", self="f"),
        ]

    run = await WorkflowTest(names).run()
    assert run.result() == [["a", "b", "c"], ["d", "e", "f"]]
