"""A durable workflow and an agent in one process, on a SQLite file. Kill it and start it again."""

from __future__ import annotations

import asyncio

import aios


@aios.agent("greeter")
async def greet(context: aios.TaskContext, name: str) -> str:
    return f"Hello, {name}"


def shout(text: str) -> str:
    return text.upper()


@aios.workflow("welcome")
async def welcome(context: aios.WorkflowContext, names: list[str]) -> list[str]:
    greetings = await context.gather(*(context.task("greeter", name, result=str) for name in names))
    return [await context.step("shout", shout, greeting) for greeting in greetings]


async def main() -> None:
    async with aios.Runtime("sqlite://hello.db", agents=[greet], workflows=[welcome]) as runtime:
        run = await runtime.start(welcome, ["Ada", "Grace"], id="welcome-1")
        for line in await run.result():
            print(line)


if __name__ == "__main__":
    asyncio.run(main())
