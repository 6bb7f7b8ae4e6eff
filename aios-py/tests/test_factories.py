"""Agents that are created, replaced, restarted and deleted while a process runs."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import gc
import threading
import weakref
from typing import Any

import aios
import pytest

from service import served


@dataclasses.dataclass
class Config:
    greeting: str
    size: int = 1


made: list[Config] = []
alive: weakref.WeakSet[Greeter] = weakref.WeakSet()


class Greeter:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.thread = threading.get_ident()
        made.append(config)
        alive.add(self)


@aios.agent("greeter")
class AsyncGreeter(Greeter):
    async def process_task(self, context: aios.TaskContext, name: str) -> str:
        assert self.thread == threading.get_ident()
        return f"{self.config.greeting}, {name}"


@aios.agent("plain_greeter")
class PlainGreeter(Greeter):
    def process_task(self, context: aios.TaskContext, name: str) -> str:
        assert self.thread != threading.main_thread().ident
        return f"{self.config.greeting}, {name}"


@aios.agent("counter")
class Counter:
    def __init__(self) -> None:
        self.count = 0

    async def process_task(self, context: aios.TaskContext) -> int:
        self.count += 1
        return self.count


@pytest.fixture(autouse=True)
def forget() -> None:
    made.clear()


async def answer(client: aios.Client, agent: str, id: str, parameters: Any = "Ada") -> Any:
    """The answer of an agent, as soon as it is hosted."""
    retry = aios.RetryPolicy(max_attempts=200, initial_delay=0.02, factor=1.0)
    task = await client.task(agent, parameters, agent_id=id, timeout=60, retry=retry)
    return await task.result()


@pytest.mark.parametrize("kind", [AsyncGreeter, PlainGreeter])
async def test_should_create_replace_restart_and_delete(kind: Any) -> None:
    agent = "greeter" if kind is AsyncGreeter else "plain_greeter"
    runtime = aios.Runtime(agents=[aios.AgentFactory(kind), aios.AgentFactory(Counter)])
    # The ASGI application opens the runtime.
    async with served(aios.asgi(runtime)) as url, aios.RemoteClient(url) as remote:
        created = await remote.create_agent(agent, "first", {"greeting": "Hello"}, id="g-1")
        assert created.agent.config == {"greeting": "Hello"}
        assert await answer(runtime, agent, "g-1") == "Hello, Ada"
        assert (await remote.agent("g-1")).agent.status == "running"
        await remote.replace_agent("g-1", "first", {"greeting": "Goodbye", "size": 2})
        while await answer(runtime, agent, "g-1") != "Goodbye, Ada":
            await asyncio.sleep(0.01)
        assert made == [Config("Hello"), Config("Goodbye", 2)]
        await remote.restart_agent("g-1")
        while len(made) < 3:
            await asyncio.sleep(0.01)
        assert await answer(runtime, agent, "g-1") == "Goodbye, Ada"
        # Objects that were replaced are forgotten.
        while True:
            gc.collect()
            if len(alive) == 1:
                break
            await asyncio.sleep(0.01)
        other = await remote.create_agent("counter", "second", id="c-1")
        assert other.agent.agent_type == "counter"
        assert [await answer(runtime, "counter", "c-1", None) for _ in range(2)] == [1, 2]
        await remote.delete_agent("g-1")
        with pytest.raises(aios.ServiceError) as gone:
            await remote.agent("g-1")
        assert gone.value.code == "AGENT_DELETED"


class Callee:
    async def __call__(self, context: aios.TaskContext, name: str) -> str:
        return f"called by {name}"


@aios.agent("class_method")
class ClassMethod:
    greeting = "Hello"

    @classmethod
    async def process_task(cls, context: aios.TaskContext, name: str) -> str:
        return f"{cls.greeting}, {name}"


@aios.agent("static_method")
class StaticMethod:
    @staticmethod
    def process_task(context: aios.TaskContext, name: str) -> str:
        return f"Hello, {name}"


@aios.agent("partial_method")
class PartialMethod:
    async def greet(self, greeting: str, context: aios.TaskContext, name: str) -> str:
        return f"{greeting}, {name}"

    process_task = functools.partialmethod(greet, "Hello")


@aios.agent("callable_object")
class CallableObject:
    process_task = Callee()


@pytest.mark.parametrize(
    ("kind", "agent", "expected"),
    [
        (ClassMethod, "class_method", "Hello, Ada"),
        (StaticMethod, "static_method", "Hello, Ada"),
        (PartialMethod, "partial_method", "Hello, Ada"),
        (CallableObject, "callable_object", "called by Ada"),
    ],
)
async def test_should_take_methods_of_every_kind(kind: Any, agent: str, expected: str) -> None:
    runtime = aios.Runtime(agents=[aios.AgentFactory(kind)])
    async with served(aios.asgi(runtime)) as url, aios.RemoteClient(url) as remote:
        (described,) = [it for it in await remote.agent_types() if it.name == agent]
        assert described.parameters_schema == {"type": "string"}
        await remote.create_agent(agent, "first", id="one")
        assert await answer(runtime, agent, "one") == expected


async def test_should_refuse_a_config_that_does_not_match() -> None:
    runtime = aios.Runtime(agents=[aios.AgentFactory(AsyncGreeter)])
    async with served(aios.asgi(runtime)) as url, aios.RemoteClient(url) as remote:
        with pytest.raises(aios.AiosError) as refused:
            await remote.create_agent("greeter", "first", {"greeting": 7})
        assert "/greeting" in str(refused.value.details), refused.value
        (kind,) = [it for it in await remote.agent_types() if it.name == "greeter"]
        assert kind.config_schema is not None
        assert set(kind.config_schema["properties"]) == {"greeting", "size"}
        assert kind.parameters_schema == {"type": "string"}


async def test_should_forget_an_object_that_is_created_too_late() -> None:
    created: weakref.WeakSet[Slow] = weakref.WeakSet()
    begun, proceed, ended = threading.Semaphore(0), threading.Event(), threading.Semaphore(0)

    @aios.agent("slow")
    class Slow:
        def __init__(self) -> None:
            begun.release()
            proceed.wait()
            created.add(self)
            ended.release()

        def process_task(self, context: aios.TaskContext) -> None: ...

    runtime = aios.Runtime(agents=[aios.AgentFactory(Slow)])
    async with served(aios.asgi(runtime)) as url, aios.RemoteClient(url) as remote:
        await remote.create_agent("slow", "first", id="s-1")
        await asyncio.to_thread(begun.acquire)
        await remote.delete_agent("s-1")
        # The host hears of the deletion before it hears of the second agent.
        await remote.create_agent("slow", "second", id="s-2")
        await asyncio.to_thread(begun.acquire)
        proceed.set()
        for _ in range(2):
            await asyncio.to_thread(ended.acquire)
        while True:
            gc.collect()
            if len(created) == 1:
                break
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: aios.AgentFactory(AsyncGreeter(Config("x"))), "takes a class"),  # type: ignore[arg-type]
        (lambda: aios.AgentFactory(Config), "decorated with"),
        (lambda: aios.Runtime(agents=[AsyncGreeter]), "AgentFactory"),
        (lambda: aios.AgentFactory(aios.agent("a")(type("A", (), {}))), "process_task"),
    ],
)
def test_should_refuse_what_is_no_factory(make: Any, says: str) -> None:
    with pytest.raises(aios.ConfigurationError, match=says):
        make()
