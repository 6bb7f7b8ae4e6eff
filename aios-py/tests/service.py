"""A service in a process of its own, and on a server of this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import aios
import uvicorn


@aios.agent("greeter")
async def greet(context: aios.TaskContext, name: str) -> str:
    return f"Hello, {name}!"


@aios.agent("refusing")
async def refuse(context: aios.TaskContext) -> None:
    raise aios.TaskError.terminal("no money", code="CARD_DECLINED")


@aios.workflow("welcome")
async def welcome(context: aios.WorkflowContext, name: str) -> str:
    return await context.task("greeter", name, result=str)


@aios.workflow("approval")
async def approval(context: aios.WorkflowContext, timeout: int = 0) -> Any:
    return await context.signal("approval")


@aios.workflow("failing")
async def failing(context: aios.WorkflowContext) -> None:
    await context.task("refusing")


WORKFLOWS = [welcome, approval, failing]


def runtime() -> aios.Runtime:
    return aios.Runtime(agents=[greet, refuse], workflows=WORKFLOWS)


@contextlib.asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """Serves an ASGI application on a free port; yields its URL."""
    config = uvicorn.Config(
        app, log_level="warning", lifespan="on", timeout_graceful_shutdown=1, ws="none"
    )
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        serving = asyncio.create_task(server.serve([listener]))
        try:
            while not server.started:
                assert not serving.done(), "the server did not start"
                await asyncio.sleep(0.01)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            await serving
