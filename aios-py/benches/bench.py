"""What Python costs: import, tasks, round trips and steps.

    python benches/bench.py [--rust-steps N]

Prints `FIGURE name value=… unit=…` and `RATIO name ours=… ceiling=… unit=… ratio=…`. Give the
steps a second of `cargo bench --bench workflow_sqlite` (the line `workflow_steps/sqlite`), measured
on the same machine, to have the steps compared with Rust's. Needs a wheel that was built with
`--release`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aios

ROUNDS = 5
CALLS = 5_000
CONCURRENT = 200
RUNS = 500
STEPS = 20
LONE = 300
RESULT = "r" * 200


def figure(name: str, value: float, unit: str) -> None:
    print(f"FIGURE {name} value={value:.2f} unit={unit}", flush=True)


def ratio(name: str, ours: float, ceiling: float, unit: str) -> None:
    line = f"RATIO {name} ours={ours:.2f} ceiling={ceiling:.2f} unit={unit}"
    print(f"{line} ratio={ours / ceiling:.2f}", flush=True)


@aios.agent("trivial")
async def trivial(context: aios.TaskContext, parameters: int) -> int:
    return parameters


@aios.agent("plain")
def plain(context: aios.TaskContext, parameters: int) -> int:
    return parameters


async def build() -> str:
    return RESULT


def build_plain() -> str:
    return RESULT


@aios.workflow("deploy")
async def deploy(context: aios.WorkflowContext, steps: int) -> int:
    for _ in range(steps):
        await context.step("build", build)
    return steps


@aios.workflow("deploy_plain")
async def deploy_plain(context: aios.WorkflowContext, steps: int) -> int:
    for _ in range(steps):
        await context.step("build", build_plain)
    return steps


def start_time(code: str) -> float:
    """Milliseconds that a fresh interpreter takes; the best of some, since others only disturb."""
    taken = []
    for _ in range(20):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-I", "-c", code], check=True)
        taken.append((time.perf_counter() - began) * 1000)
    return min(taken)


async def tasks_per_second(runtime: aios.Runtime, agent: str) -> float:
    async def caller(count: int) -> None:
        for number in range(count):
            await runtime.call(agent, number)

    began = time.perf_counter()
    await asyncio.gather(*(caller(CALLS // CONCURRENT) for _ in range(CONCURRENT)))
    return CALLS / (time.perf_counter() - began)


async def round_trip(runtime: aios.Runtime, agent: str) -> float:
    """Median of single round trips, in microseconds."""
    taken = []
    for number in range(2_000):
        began = time.perf_counter()
        await runtime.call(agent, number)
        taken.append((time.perf_counter() - began) * 1e6)
    return statistics.median(taken)


async def steps_per_second(workflow: aios.Workflow[int, int]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite://{Path(folder) / 'bench.db'}"
        async with aios.Runtime(url, workflows=[workflow], relay=False) as runtime:
            began = time.perf_counter()
            runs = await asyncio.gather(*(runtime.start(workflow, STEPS) for _ in range(RUNS)))
            await asyncio.gather(*(run.result() for run in runs))
            return RUNS * STEPS / (time.perf_counter() - began)


async def step_latency(workflow: aios.Workflow[int, int]) -> float:
    """Microseconds a step of a run that is alone."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite://{Path(folder) / 'bench.db'}"
        async with aios.Runtime(url, workflows=[workflow], relay=False) as runtime:
            began = time.perf_counter()
            run = await runtime.start(workflow, LONE)
            await run.result()
            return (time.perf_counter() - began) * 1e6 / LONE


async def tasks() -> None:
    async with aios.Runtime(None, agents=[trivial, plain]) as runtime:
        for agent in ("trivial", "plain"):
            await tasks_per_second(runtime, agent)
            rates = [await tasks_per_second(runtime, agent) for _ in range(ROUNDS)]
            figure(f"tasks/{agent}", statistics.median(rates), "tasks/s")
            trips = [await round_trip(runtime, agent) for _ in range(ROUNDS)]
            figure(f"round_trip/{agent}", statistics.median(trips), "us")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rust-steps", type=float, help="steps a second of Rust's workflow bench")
    options = parser.parse_args()
    bare = start_time("pass")
    figure("import", start_time("import aios") - bare, "ms")
    wheel = sum(path.stat().st_size for path in Path(aios.__file__).parent.glob("_aios*.so"))
    figure("extension", wheel / 2**20, "MiB")
    asyncio.run(tasks())
    for workflow in (deploy, deploy_plain):
        rate = statistics.median(asyncio.run(steps_per_second(workflow)) for _ in range(ROUNDS))
        figure(f"workflow_steps/{workflow.name}/sqlite", rate, "steps/s")
        if options.rust_steps:
            ratio(f"workflow_steps/{workflow.name}/rust", rate, options.rust_steps, "steps/s")
        latency = statistics.median(asyncio.run(step_latency(workflow)) for _ in range(ROUNDS))
        figure(f"workflow_step_latency/{workflow.name}/sqlite", latency, "us")


if __name__ == "__main__":
    main()
