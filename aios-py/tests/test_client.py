from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import aios
import aios.sync
import pytest


@aios.agent("echo")
async def echo(context: aios.TaskContext, parameters: Any) -> Any:
    return parameters


@aios.workflow("ask")
async def ask(context: aios.WorkflowContext, question: str) -> str:
    return await context.signal(question, result=str)


async def test_should_publish_to_all_subscribers() -> None:
    async with (
        aios.Client() as client,
        client.events("shop.*.placed", "shop.*.paid") as events,
    ):
        first = await client.publish("shop.order.placed", {"n": 1}, correlation_id="c")
        await client.publish("shop.order.lost", {"n": 2})
        await client.publish("shop.order.paid", {"n": 3}, id="event-3")
        found = [await anext(events), await anext(events)]
    assert [event.id for event in found] == [first, "event-3"]
    assert [event.data["n"] for event in found] == [1, 3]
    assert found[0].metadata["correlation_id"] == "c"
    assert found[0].source == "aios"
    assert found[0].timestamp.tzinfo is not None


async def test_should_share_events_within_a_group() -> None:
    async with (
        aios.Client() as client,
        client.events("a.b.c", group="readers") as one,
        client.events("a.b.c", group="readers") as other,
    ):
        for number in range(2):
            await client.publish("a.b.c", number)
        found = {(await anext(one)).data, (await anext(other)).data}
    assert found == {0, 1}


async def test_should_redeliver_an_event_whose_handling_failed() -> None:
    async with aios.Client() as client:
        with pytest.raises(KeyError):
            async with client.events("a.b.c", group="readers") as events:
                await client.publish("a.b.c", 1)
                await anext(events)
                raise KeyError
        async with client.events("a.b.c", group="readers") as events:
            assert (await anext(events)).data == 1
        await client.publish("a.b.c", 2)
        async with client.events("a.b.c", group="readers") as events:
            assert (await anext(events)).data == 2


async def test_should_not_lose_an_event_when_a_wait_is_cancelled() -> None:
    async with aios.Client() as client, client.events("a.b.c") as events:
        for number in range(50):
            waiting = asyncio.create_task(anext(events))
            await asyncio.sleep(0)
            await client.publish("a.b.c", number)
            if number % 2 == 0:
                waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                assert (await waiting).data == number
                continue
            assert (await anext(events)).data == number


async def test_should_redeliver_an_event_that_arrived_when_its_wait_was_cancelled() -> None:
    class Cancelling:
        """Cancels the wait as soon as the event has arrived, before the application gets it."""

        def __init__(self, native: Any) -> None:
            self._native = native

        def next(self) -> Any:
            arriving = self._native.next()
            arriving.add_done_callback(lambda _: waiting.cancel())
            return arriving

        def ack(self) -> Any:
            return self._native.ack()

    async with aios.Client() as client:
        async with client.events("a.b.c", group="readers") as events:
            stream: Any = events
            stream._native = Cancelling(stream._native)
            waiting = asyncio.ensure_future(anext(events))
            await client.publish("a.b.c", 1)
            with pytest.raises(asyncio.CancelledError):
                await waiting
        del events, stream
        async with client.events("a.b.c", group="readers") as events:
            assert (await anext(events)).data == 1


@aios.agent("writer")
async def writer(context: aios.TaskContext, number: int) -> None:
    context.stream("numbers").write(number)


@aios.workflow("writing")
async def writing(context: aios.WorkflowContext) -> None:
    for number in range(10):
        await context.signal("go")
        await context.task("writer", number)


async def cancelled(items: AsyncIterator[Any], turns: int) -> None:
    """Waits for the next item, and cancels the wait after some turns of the loop."""
    waiting = asyncio.ensure_future(anext(items))
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        raise AssertionError(f"there was an item: {await waiting}")


async def test_should_continue_to_follow_after_a_wait_that_was_cancelled() -> None:
    async with aios.Runtime(agents=[writer], workflows=[writing]) as runtime:
        run = await runtime.start(writing)
        events, log, stream = run.events(), runtime.log(follow=True), run.stream("numbers")
        found: list[int] = []
        for number in range(10):
            await cancelled(stream, number)
            await run.signal("go")
            item = await anext(stream)
            if item.is_reset:
                item = await anext(stream)
            found.append(item.value)
            while (await anext(events)).event.type != "agents.writer.task_completed":
                continue
            while (await anext(log)).event.type != "agents.writer.task_completed":
                continue
            if number < 9:
                await cancelled(events, number)
                await cancelled(log, number)
        assert found == list(range(10))
        await run.result()
        assert [it.event.type async for it in events][-1] == "workflows.writing.completed"
        assert [item async for item in stream] == []


async def test_should_give_different_items_to_waits_at_the_same_time() -> None:
    async with aios.Runtime(agents=[writer], workflows=[writing]) as runtime:
        run = await runtime.start(writing)
        events = run.events()
        waiting = [asyncio.ensure_future(anext(events)) for _ in range(3)]
        await run.signal("go")
        versions = [(await it).version for it in waiting]
        assert versions == [1, 2, 3]
        await cast("Any", events).aclose()
        assert [it async for it in events] == []


async def test_should_read_the_log_and_the_tables() -> None:
    async with aios.Runtime(agents=[echo], workflows=[ask]) as runtime:
        run = await runtime.start(ask, "q", id="run-1")
        await run.signal("q", "yes")
        await run.result()
        task = await runtime.task("echo", [1], id="task-1")
        await task.result()
        log = [recorded async for recorded in runtime.log()]
        head = await runtime.head()
        page = await runtime.runs(limit=1)
        rest = await runtime.runs(after=page.next)
        completed = await runtime.runs("ask", statuses=["completed"])
        tasks = await runtime.tasks(run_id="task-1")
        agents = await runtime.agents("echo")
        workflows = await runtime.workflows()
        with pytest.raises(ValueError, match="unknown run status"):
            await runtime.runs(statuses=["lost"])  # type: ignore[list-item]
    assert [recorded.position for recorded in log] == list(range(1, head + 1))
    assert {row.id for row in page.rows + rest.rows} == {"run-1", "task-1"}
    assert [row.result for row in completed.rows] == ["yes"]
    assert [(row.agent_type, row.status) for row in tasks.rows] == [("echo", "completed")]
    assert [row.status for row in agents.rows] == ["running"]
    assert {row.name for row in workflows.rows} >= {"ask"}


async def test_should_follow_the_log() -> None:
    async with aios.Runtime(workflows=[ask]) as runtime:
        found: list[str] = []

        async def follow() -> None:
            async for recorded in runtime.log(follow=True):
                found.append(recorded.event.type)
                if recorded.event.type == "workflows.ask.completed":
                    return

        following = asyncio.create_task(follow())
        run = await runtime.start(ask, "q")
        await run.signal("q", "yes")
        await following
    assert "workflows.ask.started" in found


async def test_should_fail_pending_calls_when_the_runtime_is_closed() -> None:
    async with aios.Runtime(workflows=[ask]) as runtime:
        run = await runtime.start(ask, "q")
        waiting = asyncio.create_task(run.result())
        await asyncio.sleep(0.05)
    with pytest.raises(aios.RuntimeClosedError):
        await waiting
    with pytest.raises(aios.RuntimeClosedError):
        await run.status()
    with pytest.raises(aios.RuntimeClosedError):
        await runtime.start(ask, "q")


async def test_should_fail_every_waiting_call_in_the_same_way(tmp_path: Path) -> None:
    async def follow(runtime: aios.Runtime) -> None:
        async for _ in runtime.log(follow=True):
            pass

    for store in ("memory://", f"sqlite://{tmp_path}/closed.db"):
        async with aios.Runtime(store, workflows=[ask]) as runtime:
            run = await runtime.start(ask, "q")
            waiting: list[asyncio.Task[Any]] = [
                asyncio.create_task(run.result()) for _ in range(20)
            ]
            waiting += [asyncio.create_task(follow(runtime)) for _ in range(5)]
            await asyncio.sleep(0.05)
        for ended in await asyncio.gather(*waiting, return_exceptions=True):
            assert type(ended) is aios.RuntimeClosedError, (store, ended)


async def test_should_fail_event_streams_when_the_client_is_closed() -> None:
    async with aios.Client() as client:
        events = client.events("a.b.c")
        async with events:
            await client.publish("a.b.c", 1)
            await anext(events)
        with pytest.raises(aios.RuntimeClosedError):
            async with client.events("a.b.c") as events:
                await client.close()
                await anext(events)
    async with aios.Client() as client:
        with pytest.raises(aios.RuntimeClosedError):
            async with client.events("a.b.c") as events:
                await client.publish("a.b.c", 1)
                await anext(events)
                await client.close()


def test_should_fail_pending_calls_without_async() -> None:
    with aios.sync.Runtime(agents=[echo], workflows=[ask]) as runtime:
        run = runtime.start(ask, "q")
        events = runtime.events("a.b.c")
    for call in (run.status, lambda: next(events), lambda: runtime.call("echo")):
        with pytest.raises(aios.RuntimeClosedError):
            call()


def test_should_redeliver_an_event_whose_handling_failed_without_async() -> None:
    with aios.sync.Client() as client:
        with pytest.raises(KeyError), client.events("a.b.c", group="readers") as events:
            client.publish("a.b.c", 1)
            assert next(events).data == 1
            raise KeyError
        with client.events("a.b.c", group="readers") as events:
            assert next(events).data == 1
        client.publish("a.b.c", 2)
        # Dropping a stream does not acknowledge its event.
        for event in client.events("a.b.c", group="readers"):
            assert event.data == 2
            break
        with client.events("a.b.c", group="readers") as events:
            assert next(events).data == 2


async def test_should_explain_invalid_urls_and_data(tmp_path: Path) -> None:
    with pytest.raises(aios.ConfigurationError):
        await aios.Client(store="nowhere:").open()
    with pytest.raises(aios.ConfigurationError):
        await aios.Client(broker="carrier-pigeon://").open()
    with pytest.raises(aios.ConfigurationError):
        await aios.Client(store=f"sqlite://{tmp_path}").open()
    async with aios.Client() as client:
        with pytest.raises(aios.InvalidDataError):
            await client.publish("Not A Type")
        with pytest.raises(aios.InvalidDataError):
            await client.publish("a.b.c", object())
        with pytest.raises(aios.InvalidDataError):
            await client.call("echo", timeout=-1)


async def test_should_reject_a_database_that_is_already_open(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/a.db"
    async with aios.Runtime(url):
        with pytest.raises(aios.StoreLockedError):
            await aios.Runtime(url).open()
    async with aios.Runtime(url):
        pass


async def test_should_cancel_a_call_with_its_asyncio_task() -> None:
    began = asyncio.Event()
    ended = asyncio.Event()

    @aios.agent("slow")
    async def slow(context: aios.TaskContext) -> None:
        began.set()
        await ended.wait()

    async with aios.Runtime(agents=[slow]) as runtime:
        calling = asyncio.create_task(runtime.call("slow"))
        await began.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        ended.set()


async def test_should_report_tasks_that_outlive_the_shutdown() -> None:
    began = asyncio.Event()

    @aios.agent("endless")
    async def endless(context: aios.TaskContext) -> None:
        began.set()
        await asyncio.sleep(3600)

    runtime = aios.Runtime(agents=[endless], shutdown_timeout=0.2)
    await runtime.open()
    calling = asyncio.create_task(runtime.call("endless"))
    await began.wait()
    with pytest.raises(aios.ShutdownTimeoutError):
        await runtime.close()
    with pytest.raises(aios.AiosError):
        await calling


async def test_should_close_once_although_several_ask_for_it() -> None:
    class Native:
        """Closes at the first request. The second is still in progress then."""

        def __init__(self, native: Any) -> None:
            self._native = native
            self._second: asyncio.Future[None] | None = None
            self._has_begun = False

        def shutdown(self, deadline: float) -> Any:
            if not self._has_begun:
                self._has_begun = True
                return self._native.shutdown(deadline)
            self._second = asyncio.get_running_loop().create_future()
            return self._second

        def dispose(self, wait: float) -> None:
            self._native.dispose(wait)

        def fail_all(self) -> None:
            self._native.fail_all()
            assert self._second is not None
            self._second.set_exception(aios.RuntimeClosedError("closed"))

    runtime = aios.Runtime()
    await runtime.open()
    native: Any = Native(runtime._native)
    runtime._native = native
    await asyncio.gather(runtime.close(), runtime.close())
    await runtime.close()


@pytest.mark.parametrize("kind", [KeyError, SystemExit, asyncio.CancelledError])
async def test_should_raise_the_error_of_a_block_although_tasks_outlive_the_shutdown(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    began = asyncio.Event()

    @aios.agent("endless")
    async def endless(context: aios.TaskContext) -> None:
        began.set()
        await asyncio.sleep(3600)

    runtime = aios.Runtime(agents=[endless], shutdown_timeout=0.1)
    calls: list[asyncio.Task[Any]] = []
    with pytest.raises(kind) as raised:
        async with runtime:
            calls.append(asyncio.create_task(runtime.call("endless")))
            await began.wait()
            raise kind(7)
    assert type(raised.value) is kind and raised.value.args == (7,)
    assert "Runtime was closed because of an error, and not cleanly: failed to run" in caplog.text
    with pytest.raises(aios.AiosError):
        await calls[0]


def test_should_raise_the_error_of_a_blocking_block_although_tasks_outlive_the_shutdown() -> None:
    began = threading.Event()

    @aios.agent("endless")
    async def endless(context: aios.TaskContext) -> None:
        began.set()
        await asyncio.sleep(3600)

    with (
        pytest.raises(SystemExit) as raised,
        aios.sync.Runtime(agents=[endless], shutdown_timeout=0.1) as runtime,
    ):
        runtime.task("endless")
        assert began.wait(60)
        raise SystemExit(7)
    assert raised.value.code == 7


def test_should_support_every_operation_without_async(
    aios_runtime: Callable[..., aios.sync.Runtime], tmp_path: Path
) -> None:
    runtime = aios_runtime(f"sqlite://{tmp_path}/a.db", agents=[echo], workflows=[ask])
    assert runtime.call("echo", 1) == 1
    assert runtime.task("echo", 2).result() == 2
    run = runtime.start(ask, "q", id="r")
    with pytest.raises(TimeoutError):
        run.result(timeout=0.05)
    assert runtime.handle("r").status().status == "running"
    events = runtime.events("shop.#")
    runtime.publish("shop.order.placed", 3)
    assert next(events).data == 3
    run.signal("q", "yes")
    assert run.result() == "yes"
    assert run.journal()[0].version == 1
    assert len(list(runtime.log())) == runtime.head()
    assert {row.id for row in runtime.runs("ask").rows} == {"r"}
    assert runtime.agents().rows
    assert runtime.tasks().rows
    assert runtime.workflows().rows


async def test_should_block_inside_a_running_loop(
    aios_runtime: Callable[..., aios.sync.Runtime],
) -> None:
    runtime = aios_runtime(agents=[echo])
    assert runtime.call("echo", "notebook") == "notebook"


async def test_should_start_a_workflow_of_another_process_by_name_and_version() -> None:
    async with aios.Client() as client:
        run = await client.start("elsewhere", {"a": 1}, version=3, delay=60)
        status = await run.status()
    assert (status.workflow, status.workflow_version) == ("elsewhere", 3)


async def test_should_follow_the_events_of_one_run() -> None:
    @aios.workflow("followed")
    async def followed(context: aios.WorkflowContext) -> int:
        for _ in range(3):
            await context.signal("go")
        return 1

    async with aios.Runtime(workflows=[followed]) as runtime:
        run, other = await runtime.start(followed), await runtime.start(followed)
        seen: list[aios.RecordedEvent] = []

        async def follow() -> None:
            async for recorded in run.events():
                seen.append(recorded)

        following = asyncio.create_task(follow())
        for number in range(3):
            before = len(seen)
            await other.signal("go")
            await run.signal("go", number)
            while len(seen) == before:
                await asyncio.sleep(0.01)
        await following
        assert [one.version for one in seen] == list(range(1, len(seen) + 1))
        assert seen == await run.journal()
        assert seen[0].event.type == "workflows.followed.started"
        assert seen[-1].event.type == "workflows.followed.completed"
        assert [one.version async for one in run.events(after=2)] == [
            one.version for one in seen[2:]
        ]
        assert [one async for one in run.events(after=len(seen))] == []


def test_should_follow_the_events_of_one_run_without_async() -> None:
    @aios.workflow("short")
    async def short(context: aios.WorkflowContext) -> int:
        return 1

    with aios.sync.Runtime(workflows=[short]) as runtime:
        run = runtime.start(short)
        assert [one.event.type.rpartition(".")[2] for one in run.events()][-1] == "completed"
