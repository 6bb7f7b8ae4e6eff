"""`aios.RemoteClient`: the methods of a client, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aios
import aios.sync
import pytest
from test_refusals import WRONG, refused

from service import approval, runtime, served, welcome

KEY = "5e0d1f6a0c5b4a7d8e9f5e0d1f6a0c5b"


@contextlib.asynccontextmanager
async def service(**options: Any) -> AsyncIterator[str]:
    async with served(aios.asgi(runtime(), **options)) as url:
        yield url


async def test_should_start_runs_and_read_what_they_leave() -> None:
    async with service() as url, aios.RemoteClient(url, workflows=[welcome]) as client:
        run = await client.start(welcome, "Ada", id="r/1")
        assert await run.result() == "Hello, Ada!"
        assert (await client.start("welcome", "Ada", id="r/1")).id == "r/1"
        status = await run.status()
        assert (status.status, status.result, status.is_final) == ("completed", "Hello, Ada!", True)
        journal = await run.journal()
        assert [event.version for event in journal] == list(range(1, len(journal) + 1))
        assert journal[0].event.type == "workflows.welcome.started"
        assert await run.journal(after=1, limit=1) == journal[1:2]
        assert [event async for event in run.events()] == journal
        assert [event async for event in run.events(after=2)] == journal[2:]
        page = await client.runs("welcome", statuses=["completed"])
        assert [row.id for row in page.rows] == ["r/1"]
        (task,) = (await client.tasks(run_id="r/1")).rows
        assert (task.agent_type, task.status) == ("greeter", "completed")
        assert {row.agent_type for row in (await client.agents()).rows} == {"greeter", "refusing"}
        assert "welcome" in {row.name for row in (await client.workflows()).rows}
        head = await client.head()
        log = [event async for event in client.log()]
        assert [event.position for event in log] == list(range(1, head + 1))
        assert (await client.handle("r/1")).id == "r/1"


async def test_should_control_runs() -> None:
    async with service() as url, aios.RemoteClient(url) as client:
        run = await client.start("approval", 0)
        await run.pause()
        assert (await run.status()).status == "paused"
        await run.resume()
        await run.signal("approval", {"by": "Ada"})
        assert await run.result() == {"by": "Ada"}
        greeted = await client.start("welcome", "Ada")
        await greeted.result()
        forked = await greeted.fork(0, "forked")
        assert (forked.id, await forked.result()) == ("forked", "Hello, Ada!")
        early = await client.signal_with_start(
            "approval", 0, id="early", signal="approval", payload=[1]
        )
        assert await early.result() == [1]
        waiting = await client.start("approval", 0, delay=3600, correlation_id="c-1")
        await waiting.cancel("enough")
        with pytest.raises(aios.RunCancelledError):
            await waiting.result()
        endless = await client.start("approval", 0)
        await endless.terminate("enough")
        with pytest.raises(aios.RunCancelledError) as raised:
            await endless.result()
        assert raised.value.details["terminated"] == "enough"


async def test_should_pass_the_current_trace_on_to_every_command() -> None:
    """Each command is an event with the trace of the task or run, or of the span, that sends it."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with service() as url, aios.RemoteClient(url) as client:
        run = await client.start("approval", 0, id="r")
        token = aios.traceparent.set(trace)
        try:
            await run.pause()
            await run.resume()
            await run.signal("other", 1)
            await run.cancel("enough")
            await client.start("welcome", "Ada", id="w")
        finally:
            aios.traceparent.reset(token)
        found = {
            event.event.type.rpartition(".")[2]: event.event.metadata.get("traceparent")
            for event in await run.journal()
        }
        assert found["started"] is None
        for action in ["paused", "resumed", "signaled", "cancel_requested"]:
            assert found[action] == trace, action
        started = (await (await client.handle("w")).journal())[0]
        assert started.event.metadata["traceparent"] == trace


async def test_should_tell_what_a_run_waits_for() -> None:
    @aios.workflow("parent")
    async def parent(context: aios.WorkflowContext) -> Any:
        return await context.child(approval, 0, id="child")

    app = aios.asgi(aios.Runtime(workflows=[approval, parent]))
    async with served(app) as url, aios.RemoteClient(url) as client:
        run = await client.start("parent")
        while (await client.runs("approval")).rows == []:
            await asyncio.sleep(0.01)
        child = await client.handle("child")
        await child.pause()
        assert (await run.status()).waits_for == 'child approval "child" is paused'
        await child.resume()
        assert (await run.status()).waits_for is None


async def test_should_assign_tasks_and_publish() -> None:
    async with service() as url, aios.RemoteClient(url) as client:
        task = await client.task("greeter", "Ada", id="t1", timeout=60)
        assert await task.result() == "Hello, Ada!"
        assert await client.call("greeter", "Grace", result=str) == "Hello, Grace!"
        retry = aios.RetryPolicy(max_attempts=1)
        retried = await client.task("greeter", "Ada", id="t2", retry=retry, correlation_id="c-1")
        assert await retried.result() == "Hello, Ada!"
        started = (await retried.journal())[0].event
        assert started.metadata["correlation_id"] == "c-1"
        assert started.data["input"]["retry"]["max_attempts"] == 1
        with pytest.raises(aios.TaskError) as raised:
            await client.call("refusing")
        assert raised.value.code == "CARD_DECLINED"
        assert await client.publish("orders.order.placed", {"id": 7}, id="e1") == "e1"


async def test_should_follow_events_from_now_on() -> None:
    async with service() as url, aios.RemoteClient(url) as client:
        await (await client.start("welcome", "Ada", id="before")).result()
        async with client.events("workflows.*.started", "workflows.*.completed") as events:
            run = await client.start("welcome", "Ada", id="after")
            first, second = await anext(events), await anext(events)
            types = [first.type, second.type]
            assert types == ["workflows.welcome.started", "workflows.welcome.completed"]
            assert first.metadata["correlation_id"] == "after"
            # A wait that is cancelled loses nothing.
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(events), 0.05)
            await client.start("welcome", "Ada", id="last")
            assert (await anext(events)).type == "workflows.welcome.started"
        assert await run.result() == "Hello, Ada!"
        following = client.log(after=await client.head(), follow=True)
        await client.start("welcome", "Ada", id="followed")
        # The call is in the log before its effect, and so is the request, because it has a key.
        assert (await anext(following)).stream.startswith("system/audit/")
        assert (await anext(following)).stream.startswith("system/requests/")
        recorded = await anext(following)
        assert recorded.stream == "runs/followed"
        await following.aclose()  # type: ignore[attr-defined]


async def test_should_follow_a_log_and_a_run_in_several_places() -> None:
    async with service() as url, aios.RemoteClient(url) as client:
        run = await client.start("approval", 0, id="r1")
        end = (await run.journal())[-1].version
        last = asyncio.ensure_future(anext(run.events(after=end)))
        new = asyncio.ensure_future(anext(client.log(after=await client.head(), follow=True)))
        # They wait, and keep no other reader waiting.
        await client.head()
        assert (await anext(run.events())).version == 1
        assert (await anext(client.log(follow=True))).position == 1
        assert not last.done() and not new.done()
        await run.signal("approval", {"by": "Ada"})
        assert (await last).version == end + 1
        assert (await new).position > 1


async def test_should_raise_the_errors_of_a_client() -> None:
    async with service() as url, aios.RemoteClient(url) as client:
        failing = await client.start("failing")
        with pytest.raises(aios.RunFailedError) as failed:
            await failing.result()
        assert failed.value.code == "CARD_DECLINED"
        assert isinstance(failed.value.__cause__, aios.TaskError)
        with pytest.raises(aios.RunNotFoundError) as missing:
            await client.handle("nothing")
        assert "(request " in missing.value.message
        with pytest.raises(aios.RunEndedError):
            await failing.signal("approval")
        with pytest.raises(aios.WorkflowNotFoundError):
            await client.start("nothing")
        await client.start("welcome", "Ada", id="r1")
        with pytest.raises(aios.RunExistsError):
            await client.start("welcome", "Grace", id="r1")
        with pytest.raises(aios.WorkflowNotFoundError):
            await client.start(approval)
        with pytest.raises(aios.InvalidDataError):
            await client.publish("workflows.a.started")
        calls = (client.expire_runs(1.0), client.expire_streams("outputs", 1.0), client.compact())
        for call in calls:
            with pytest.raises(aios.ConfigurationError, match="needs the store"):
                await call
        with pytest.raises(aios.ConfigurationError, match="needs the store"):
            client.projection_handle("totals")
        with pytest.raises(aios.ConfigurationError, match="group"):
            await anext(client.events(group="workers"))
        with pytest.raises(aios.ConfigurationError, match="version"):
            await client.start("welcome", "Ada", version=1)
    with pytest.raises(aios.RuntimeClosedError):
        await client.head()


async def test_should_send_credentials() -> None:
    keys = [aios.ApiKey(aios.ApiKey.hash_of(KEY), "ada", ["runs:read"])]
    async with service(api_keys=keys) as url:
        with pytest.raises(aios.ServiceError) as refused:
            await aios.RemoteClient(url).open()
        assert refused.value.code == "UNAUTHENTICATED"
        with pytest.raises(aios.ServiceError):
            await aios.RemoteClient(url, token="not a token").open()
        async with aios.RemoteClient(url, api_key=KEY) as client:
            assert (await client.runs()).rows == []
            with pytest.raises(aios.ServiceError) as denied:
                await client.start("welcome", "Ada")
            assert denied.value.code == "PERMISSION_DENIED"


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("aios.example.com", {}),
        ("ftp://aios.example.com", {}),
        ("https://ada:secret@aios.example.com", {}),
        ("http://127.0.0.1:1", {"token": "a\nb"}),
    ],
)
async def test_should_refuse_wrong_arguments(url: str, options: dict[str, Any]) -> None:
    with pytest.raises(aios.ConfigurationError) as raised:
        await aios.RemoteClient(url, **options).open()
    assert "secret" not in str(raised.value)


async def test_should_report_a_service_that_is_away() -> None:
    with pytest.raises(aios.ServiceError) as raised:
        await aios.RemoteClient("http://127.0.0.1:1").open()
    assert (raised.value.code, raised.value.retryable) == ("SERVICE_UNREACHABLE", True)


async def test_should_work_without_async() -> None:
    def use(url: str) -> list[str]:
        with aios.sync.RemoteClient(url) as client:
            run = client.start("welcome", "Ada", id="r1")
            assert run.result(60) == "Hello, Ada!"
            with client.events("workflows.welcome.started") as events:
                client.start("welcome", "Ada", id="r2")
                assert next(events).metadata["correlation_id"] == "r2"
            return [event.event.type for event in run.events()]

    async with service() as url:
        types = await asyncio.to_thread(use, url)
    assert types[-1] == "workflows.welcome.completed"


async def test_should_name_the_argument_that_has_another_type() -> None:
    with pytest.raises(TypeError, match="timeout must be a number of seconds"):
        aios.RemoteClient("http://127.0.0.1", timeout=WRONG)
    with pytest.raises(TypeError, match="the URL of a service must be a str"):
        aios.RemoteClient(WRONG)
    async with service() as url, aios.RemoteClient(url) as client:
        uses = [
            *refused(client),
            ("the type of an agent must be a str", lambda: client.create_agent(WRONG, "a")),
            ("the id of an agent must be a str", lambda: client.agent(WRONG)),
            ("version must be a str", lambda: client.delete_agent("a", version=WRONG)),
            ("mailbox must be a str", lambda: client.dead_letters(mailbox=WRONG)),
            (
                "each of ids must be a str",
                lambda: client.purge_dead_letters(group="a", ids=[WRONG]),
            ),
        ]
        for says, use in uses:
            with pytest.raises(TypeError, match=f"^{says}.*, not \\['wrong'\\]$"):
                await use()
