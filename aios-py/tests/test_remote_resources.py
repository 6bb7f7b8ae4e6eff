"""`aios.RemoteClient`: agents as resources, output streams, dead letters, tokens and times."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
from collections.abc import AsyncIterator
from typing import Any

import aios
import aios.sync
import pytest
from aios.testing import ScriptedModel

from service import WORKFLOWS, greet, refuse, served


@aios.agent("counter")
async def counter(context: aios.TaskContext, most: int) -> int:
    numbers = context.stream("numbers")
    for number in range(most):
        numbers.write({"n": number})
    return most


@contextlib.asynccontextmanager
async def client(**options: Any) -> AsyncIterator[aios.RemoteClient]:
    model = ScriptedModel("Paris")
    agents = [greet, refuse, counter, aios.LlmAgent("geographer", model, streaming=True)]
    runtime = aios.Runtime(agents=agents, workflows=WORKFLOWS)
    async with (
        served(aios.asgi(runtime)) as url,
        aios.RemoteClient(url, **options) as remote,
    ):
        yield remote


async def test_should_read_output_streams() -> None:
    async with client() as remote:
        run = await remote.task("counter", 1200)
        items = [item async for item in run.stream("numbers")]
        assert [item.value["n"] for item in items] == list(range(1200))
        # A reader that comes back continues after what it has seen.
        again = [item async for item in run.stream("numbers", items[1197].offset)]
        assert [item.value["n"] for item in again if not item.is_reset] == [1198, 1199]
        asked = await remote.start("geographer", "Which city?")
        updates = [item.value async for item in asked.stream("tokens") if not item.is_reset]
        assert "".join(it["text"] for it in updates if it["type"] == "text") == "Paris"
        conversation = await aios.Conversation.of(asked)
        assert conversation.spent["requests"] == 1
        missing = await remote.start("welcome", "Ada", id="r1")
        with pytest.raises(aios.InvalidDataError):
            [item async for item in missing.stream("Bad name")]


async def test_should_read_output_streams_in_blocking_code() -> None:
    def read(url: str) -> list[Any]:
        with aios.sync.RemoteClient(url) as remote:
            return [item.value["n"] for item in remote.task("counter", 3).stream("numbers")]

    runtime = aios.Runtime(agents=[counter])
    async with served(aios.asgi(runtime)) as url:
        assert await asyncio.to_thread(read, url) == [0, 1, 2]


async def test_should_manage_agents() -> None:
    async with client() as remote:
        made = await remote.create_agent("backend", "first", {"size": 1}, id="b-1")
        assert (made.agent.id, made.agent.name, made.agent.config) == ("b-1", "first", {"size": 1})
        assert made.agent.status == "waiting"
        assert await remote.agent("b-1") == made
        replaced = await remote.replace_agent("b-1", "second", {"size": 2}, version=made.version)
        assert (replaced.agent.name, replaced.agent.config) == ("second", {"size": 2})
        assert replaced.version != made.version
        with pytest.raises(aios.ServiceError) as stale:
            await remote.replace_agent("b-1", "third", {}, version=made.version)
        assert stale.value.code == "PRECONDITION_FAILED"
        assert (await remote.restart_agent("b-1")).id == "b-1"
        with pytest.raises(aios.ServiceError):
            await remote.delete_agent("b-1", version=replaced.version)
        assert (await remote.delete_agent("b-1")).id == "b-1"
        with pytest.raises(aios.ServiceError) as gone:
            await remote.agent("b-1")
        assert gone.value.code == "AGENT_DELETED"
        with pytest.raises(aios.AgentNotFoundError):
            await remote.agent("nothing")
        derived = await remote.create_agent("backend", "third")
        assert "b-1" not in {row.id for row in (await remote.agents("backend")).rows}
        assert derived.agent.id in {row.id for row in (await remote.agents("backend")).rows}


async def test_should_list_the_types_of_agents_with_their_schemas() -> None:
    async with client() as remote:
        types = {it.name: it for it in await remote.agent_types()}
    assert types["counter"].config_schema is None
    assert types["counter"].parameters_schema == {"type": "integer"}
    assert types["greeter"].output_schema == {"type": "string"}


async def test_should_filter_by_time() -> None:
    async with client() as remote:
        await (await remote.start("welcome", "Ada", id="first")).result()
        await asyncio.sleep(0.002)
        await (await remote.start("welcome", "Ada", id="second")).result()
        second = (await (await remote.handle("second")).status()).created_at

        async def ids(**times: Any) -> list[str]:
            return [row.id for row in (await remote.runs(**times)).rows]

        assert await ids(created_after=second) == ["second"]
        assert await ids(created_before=second) == ["first"]
        tasks = await remote.tasks(created_after=second)
        assert {row.run_id for row in tasks.rows} == {"second"}
        later = second + datetime.timedelta(hours=1)
        assert (await remote.tasks(created_after=second, created_before=later)).rows == tasks.rows
        with pytest.raises(aios.ConfigurationError, match="time zone"):
            await ids(created_after=datetime.datetime(2026, 1, 1))
        page = await remote.runs(created_before=later, limit=1)
        assert [row.id for row in page.rows] == ["first"]
        following = await remote.runs(created_before=later, after=page.next, limit=1)
        assert [row.id for row in following.rows] == ["second"]


async def test_should_filter_by_time_without_a_service() -> None:
    async with aios.Runtime(agents=[greet], workflows=WORKFLOWS) as runtime:
        await (await runtime.start("welcome", "Ada", id="first")).result()
        now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=5)
        assert [row.id for row in (await runtime.runs(created_before=now)).rows] == ["first"]
        assert (await runtime.runs(created_after=now)).rows == []
        assert (await runtime.tasks(created_after=now)).rows == []


async def test_should_retry_runs() -> None:
    async with client() as remote:
        failing = await remote.start("failing", id="f1")
        with pytest.raises(aios.RunFailedError):
            await failing.result()
        again = await failing.retry("f2")
        with pytest.raises(aios.RunFailedError):
            await again.result()
        assert again.id == "f2"
        done = await remote.start("welcome", "Ada")
        await done.result()
        with pytest.raises(aios.RunNotFailedError):
            await done.retry("f3")


async def test_should_handle_dead_letters() -> None:
    broker = "memory://"
    runtime = aios.Runtime(broker=broker, agents=[greet])
    async with runtime, served(aios.asgi(runtime)) as url, aios.RemoteClient(url) as remote:
        assert await remote.dead_letters(group="agents.greeter") == aios.Page([], None)
        assert await remote.redrive_dead_letters(group="agents.greeter") == 0
        assert await remote.purge_dead_letters(group="agents.greeter", ids=["e1"]) == 0
        with pytest.raises(aios.BrokerError) as unknown:
            await remote.dead_letters(group="nothing")
        assert unknown.value.code == "UNKNOWN_ADDRESS"
        wrong: list[dict[str, Any]] = [{}, {"group": "a", "mailbox": "b"}]
        for options in wrong:
            with pytest.raises(aios.ConfigurationError, match="group or a mailbox"):
                await remote.dead_letters(**options)
        with pytest.raises(aios.ConfigurationError, match="limit"):
            await remote.dead_letters(group="a", limit=0)
        with pytest.raises(aios.ServiceError) as cursor:
            await remote.dead_letters(group="agents.greeter", after="nonsense")
        assert cursor.value.code == "INVALID_CURSOR"


@contextlib.asynccontextmanager
async def token_endpoint(seen: list[tuple[str, str, str]]) -> AsyncIterator[str]:
    """Grants tokens, and lets in who has the first one once, and who has a later one."""
    granted = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal granted
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lower = head.lower()
        length = int(lower.partition("content-length: ")[2].partition("\r\n")[0] or 0)
        body = (await reader.readexactly(length)).decode()
        authorization = lower.partition("authorization: ")[2].partition("\r\n")[0]
        path = head.split(" ")[1]
        seen.append((path, authorization, body))
        if path == "/token":
            granted += 1
            status, sent = "200 OK", {"access_token": f"t{granted}", "expires_in": 3600}
        else:
            attributes = {"permissions": ["*"], "expires_at": None}
            data = {"id": "ada", "type": "caller", "attributes": attributes}
            meta = {"timestamp": "2026-01-01T00:00:00Z", "version": "1"}
            status, sent = "200 OK", {"data": data, "meta": meta}
        text = json.dumps(sent).encode()
        reply = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n"
        writer.write(f"{reply}content-length: {len(text)}\r\n\r\n".encode() + text)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_should_get_tokens_of_an_endpoint() -> None:
    seen: list[tuple[str, str, str]] = []
    async with token_endpoint(seen) as url:
        secret = aios.Secret("hunter2")
        grant = aios.TokenGrant.client_credentials(
            f"{url}/token", "shop", secret, scope="runs:read", audience="aios"
        )
        assert "hunter2" not in repr(grant)
        async with aios.RemoteClient(url, token_grant=grant):
            pass
        user = aios.TokenGrant.password(f"{url}/token", "ada", "hunter2")
        async with aios.RemoteClient(url, token_grant=user):
            pass
    assert [(path, authorization) for path, authorization, _ in seen] == [
        ("/token", ""),
        ("/me", "bearer t1"),
        ("/token", ""),
        ("/me", "bearer t2"),
    ]
    for part in ("client_credentials", "client_secret=hunter2", "runs%3Aread", "audience=aios"):
        assert part in seen[0][2]
    assert "grant_type=password" in seen[2][2]
    with pytest.raises(aios.ConfigurationError, match="not both"):
        aios.RemoteClient(url, token="t", token_grant=user)
