"""Tasks on PostgreSQL in a closed loop of callers, as the Rust bench `task_postgres` measures them.

    python benches/tasks_postgres.py [--callers N] [--each N] [--rounds N]

Starts a private server with a certificate of its own. Prints, as `bench.py` does:

| line | ceiling | ratio |
|---|---|---|
| `python/tasks/postgres/tls` | the same over plain TCP | at least 0.85 |
| `python/tasks/postgres/tcp` | the same over the server's Unix socket | at least 0.9 |

Needs pytest, a wheel that was built with `--release`, and a quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from pathlib import Path

import aios
from bench import ratio, trivial

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from postgres import Postgres


async def tasks_per_second(runtime: aios.Runtime, callers: int, each: int) -> float:
    async def caller() -> None:
        for number in range(each):
            await (await runtime.task("trivial", number)).result()

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return callers * each / (time.perf_counter() - began)


async def compare(server: Postgres, callers: int, each: int, rounds: int) -> None:
    names = ["tls", "tcp", "unix"]
    urls = dict(zip(names, [server.encrypted_url, server.url, server.socket_url], strict=True))
    rates: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % 3 :] + names[: number % 3]:
            # One runtime at a time, because they share the schema of the database.
            async with aios.Runtime(urls[name], agents=[trivial]) as runtime:
                await tasks_per_second(runtime, callers, 1)
                rates[name].append(await tasks_per_second(runtime, callers, each))
    tls, tcp, unix = (statistics.median(rates[name]) for name in names)
    ratio("python/tasks/postgres/tls", tls, tcp, "tasks/s")
    ratio("python/tasks/postgres/tcp", tcp, unix, "tasks/s")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--callers", type=int, default=200)
    parser.add_argument("--each", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    server = Postgres(encrypted=True)
    try:
        asyncio.run(compare(server, options.callers, options.each, options.rounds))
    finally:
        server.stop()


if __name__ == "__main__":
    main()
