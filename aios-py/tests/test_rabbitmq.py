"""Agents in worker processes over RabbitMQ, killed at random."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aios
import pytest
from conftest import finish
from rabbitmq import RabbitMq

APP = """
import os, time
import aios

@aios.agent("square")
def square(context: aios.TaskContext, number: int) -> list[int]:
    open(f"busy-{os.getpid()}", "w").close()
    time.sleep(0.1)
    return [number * number, os.getpid()]

def app():
    return aios.Runtime(None, os.environ["BROKER"], agents=[square])
"""

TASKS = 600
KILLS = 5


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitMq]:
    server = RabbitMq()
    yield server
    server.stop()


@aios.workflow("squares")
async def squares(context: aios.WorkflowContext, count: int) -> list[list[int]]:
    return await context.gather(
        *(
            context.task(
                "square",
                number,
                result=list[int],
                timeout=20,
                retry=aios.RetryPolicy(max_attempts=20, initial_delay=0.2, max_delay=1.0),
            )
            for number in range(count)
        )
    )


async def test_should_complete_all_runs_although_workers_are_killed(
    server: RabbitMq, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(APP)
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "aios", "worker", "app:app", "--processes", "2"],
        cwd=tmp_path,
        env={**os.environ, "BROKER": server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        async with aios.Runtime(
            f"sqlite://{tmp_path}/runs.db", server.url, workflows=[squares]
        ) as runtime:
            killing = asyncio.create_task(asyncio.to_thread(kill_some, tmp_path))
            # The last run begins after the last kill, however fast the runs are.
            is_last = False
            answers: list[list[int]] = []
            while not is_last:
                is_last = killing.done()
                answers = await (await runtime.start(squares, TASKS)).result()
                expected = [number * number for number in range(TASKS)]
                assert [square for square, _ in answers] == expected
            killed = await killing
        # More than the two first processes took tasks: restarted ones replaced them.
        assert len(killed) == KILLS
        assert killed.isdisjoint(process for _, process in answers)
    finally:
        supervisor.send_signal(signal.SIGTERM)
        status, _, errors = finish(supervisor)
    assert status == 0, errors
    assert errors.count("exited with status -9") == KILLS


def kill_some(folder: Path) -> set[int]:
    """Kills processes that have taken tasks, and returns their ids."""
    chance = random.Random(7)
    killed: set[int] = set()
    until = time.monotonic() + 100
    while len(killed) < KILLS and time.monotonic() < until:
        time.sleep(chance.uniform(0.1, 0.5))
        busy = {int(path.name.split("-")[1]) for path in folder.glob("busy-*")}
        alive = sorted(busy - killed)
        if alive:
            victim = chance.choice(alive)
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
    return killed


async def test_should_raise_if_the_broker_rejects_the_user(server: RabbitMq) -> None:
    with pytest.raises(aios.BrokerError) as raised:
        await aios.Client(None, server.url.replace("guest:guest", "guest:wrong")).open()
    assert type(raised.value) is aios.BrokerError
    assert "wrong" not in str(raised.value)


async def test_should_publish_to_other_clients(server: RabbitMq) -> None:
    async with (
        aios.Client(None, server.url) as sender,
        aios.Client(None, server.url) as receiver,
        receiver.events("shop.order.*") as events,
    ):
        await sender.publish("shop.order.placed", {"n": 1})
        assert (await anext(events)).data == {"n": 1}


async def test_should_continue_a_subscription_whose_server_was_killed(tmp_path: Path) -> None:
    server = RabbitMq()
    try:
        store = f"sqlite://{tmp_path}/runs.db"
        async with (
            aios.Runtime(store, server.url, relay=False) as runtime,
            runtime.events("shop.order.placed", group="audit") as events,
        ):
            await runtime.publish("shop.order.placed", 1)
            first = await anext(events)
            await asyncio.to_thread(server.restart)
            await runtime.publish("shop.order.placed", 2)
            seen = [first.data]
            async with asyncio.timeout(60):
                async for event in events:
                    seen.append(event.data)
                    if event.data == 2:
                        break
        # The first may come again: its acknowledgement was lost.
        assert seen in ([1, 2], [1, 1, 2]), seen
    finally:
        server.stop()
