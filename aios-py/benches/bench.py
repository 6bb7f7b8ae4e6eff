"""Measures the overhead of Python: import, tasks, round trips and steps.

    python benches/bench.py [--rust-steps N]

Prints `FIGURE name value=… unit=…` and `RATIO name ours=… ceiling=… unit=… ratio=…`. The limits
and the required ratios:

| line | ceiling | ratio |
|---|---|---|
| `python/import` | 50 ms over the bare interpreter | at most 1 |
| `python/wheel` | 15 MiB | at most 1 |
| `python/tasks` | 10,000 tasks a second | at least 1 |
| `python/round_trip` | 100 µs | at most 1 |
| `python/workflow_steps` | what Rust does, on SQLite | at least 0.3 |
| `python/rust_beside_python` | Rust agents while no Python runs | at least 0.5 |

The steps per second of Rust are those of `cargo bench -p aios-benches --bench workflow_sqlite`, which
is run unless `--rust-steps` is given. Needs an idle machine, and a wheel that was built with `maturin
build --release --features bench,postgres,rabbitmq,sqlite`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import unquote, urlparse

import aios
from aios import _aios

ROUNDS = 5
CALLS = 5_000
CONCURRENT = 200
RUNS = 500
STEPS = 20
LONE = 300
#: How long Rust agents are measured, in seconds, and the number of tasks in flight.
SPELL = 1.0
UNDER_WAY = 64
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


class Spinner:
    """Keeps the processor and the interpreter's lock busy."""

    def __init__(self) -> None:
        self.stop = threading.Event()

    async def spin(self, runtime: aios.Runtime) -> None:
        self.stop.clear()
        await runtime.call("spinner")


SPINNER = Spinner()


@aios.agent("spinner")
def spinner(context: aios.TaskContext) -> int:
    count = 0
    while not SPINNER.stop.is_set():
        count += 1
    return count


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
    """Milliseconds that a new interpreter takes; the best of several runs, to exclude interference."""
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
    """Microseconds per step of a single run."""
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
            ratio(f"python/tasks/{agent}", statistics.median(rates), 10_000, "tasks/s")
            trips = [await round_trip(runtime, agent) for _ in range(ROUNDS)]
            ratio(f"python/round_trip/{agent}", statistics.median(trips), 100, "us")


async def rust_beside_python() -> None:
    """Calls from Rust to a Rust agent, while Python spins in the same process and while it does not."""
    alone, beside = [], []
    async with aios.Runtime(None, agents=[spinner]) as runtime:
        for _ in range(ROUNDS):
            alone.append(await rust_tasks_per_second(runtime))
            spinning = asyncio.create_task(SPINNER.spin(runtime))
            await asyncio.sleep(0.05)
            beside.append(await rust_tasks_per_second(runtime))
            SPINNER.stop.set()
            await spinning
    rates = statistics.median(beside), statistics.median(alone)
    ratio("python/rust_beside_python", *rates, "tasks/s")


async def rust_tasks_per_second(runtime: aios.Runtime) -> float:
    return await _aios.rust_tasks_per_second(runtime._opened(), SPELL, UNDER_WAY)


def wheel() -> Path | None:
    """The installed wheel, if aios was installed from one."""
    origin = importlib.metadata.distribution("aios").read_text("direct_url.json")
    path = Path(unquote(urlparse(json.loads(origin)["url"]).path)) if origin else None
    return path if path is not None and path.is_file() else None


def weight() -> None:
    ratio("python/import", start_time("import aios") - start_time("pass"), 50, "ms")
    if installed := wheel():
        ratio("python/wheel", installed.stat().st_size / 2**20, 15, "MiB")


def rust_steps() -> float:
    """Steps per second of the workflow benchmark in Rust."""
    command = ["cargo", "bench", "--quiet", "-p", "aios-benches", "--bench", "workflow_sqlite"]
    root = Path(__file__).parents[2]
    output = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = re.search(r"^RATIO workflow_steps/sqlite ours=(\S+)", output, re.MULTILINE)
    if found is None:
        raise SystemExit(f"the bench does not say its steps a second:\n{output}")
    return float(found[1])


def steps(rust: float) -> None:
    for workflow in (deploy, deploy_plain):
        rate = statistics.median(asyncio.run(steps_per_second(workflow)) for _ in range(ROUNDS))
        ratio(f"python/workflow_steps/{workflow.name}", rate, rust, "steps/s")
        latency = statistics.median(asyncio.run(step_latency(workflow)) for _ in range(ROUNDS))
        figure(f"python/workflow_step_latency/{workflow.name}", latency, "us")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rust-steps", type=float, help="steps a second of Rust's workflow bench")
    options = parser.parse_args()
    weight()
    asyncio.run(tasks())
    asyncio.run(rust_beside_python())
    steps(options.rust_steps or rust_steps())


if __name__ == "__main__":
    main()
