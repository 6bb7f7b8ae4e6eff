"""Threads of plain steps: how they wait for one, and what occupies one."""

from __future__ import annotations

import asyncio
import threading

import aios
import pytest

#: Timeout of the steps, in seconds.
TIMEOUT = 0.2


@aios.workflow("occupies")
async def occupies(context: aios.WorkflowContext, timeout: float | None) -> None:
    once = context.with_timeout(timeout).with_retry(aios.RetryPolicy.fixed(1, 1.0))
    await once.step("occupies", occupy)


@aios.workflow("quick")
async def quick(context: aios.WorkflowContext) -> str:
    once = context.with_timeout(TIMEOUT).with_retry(aios.RetryPolicy.fixed(1, 1.0))
    return await once.step("quick", lambda: "done")


@aios.workflow("waits")
async def waits(context: aios.WorkflowContext) -> None:
    await context.sleep(3 * TIMEOUT)


begun, proceed = threading.Event(), threading.Event()


def occupy() -> None:
    begun.set()
    proceed.wait()


@pytest.fixture(autouse=True)
def reset() -> None:
    begun.clear()
    proceed.clear()


def runtime() -> aios.Runtime:
    return aios.Runtime(workflows=[occupies, quick, waits], threads=1)


async def test_should_not_time_out_a_step_that_waits_for_a_thread() -> None:
    async with runtime() as opened:
        first = await opened.start(occupies, None)
        await asyncio.to_thread(begun.wait)
        second = await opened.start(quick)
        # A timer of the same engine that is due later.
        await (await opened.start(waits)).result()
        proceed.set()
        assert await second.result() == "done"
        await first.result()


async def test_should_report_threads_that_ended_attempts_occupy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def logged(text: str) -> None:
        while not any(text in record.getMessage() for record in caplog.records):
            await asyncio.sleep(0.01)

    caplog.set_level("INFO", "aios")
    async with runtime() as opened:
        first = await opened.start(occupies, TIMEOUT)
        await asyncio.to_thread(begun.wait)
        with pytest.raises(aios.RunFailedError, match="timed out"):
            await first.result()
        await logged("is still running after its attempt ended")
        second = await opened.start(quick)
        await logged("waits for a thread")
        proceed.set()
        assert await second.result() == "done"
        await logged("has returned")
    (occupied,) = [it.getMessage() for it in caplog.records if "still running" in it.getMessage()]
    assert "keeps its thread busy" in occupied and "threads=1" in occupied
