"""The page about deployment of the guide: its roles, its backup and its restore, on a private server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aios
import pytest
from postgres import Postgres

PAGE = Path(__file__).parents[2] / "docs/guide/pages/deploying.md"


@aios.agent("greeter")
async def greet(context: aios.TaskContext, name: str) -> str:
    return f"Hello, {name}"


@aios.workflow("welcome")
async def welcome(context: aios.WorkflowContext, name: str) -> str:
    greeting = await context.task("greeter", name, result=str)
    return greeting + await context.signal("mark", result=str)


@pytest.fixture
def server() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.stop()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def url_of(server: Postgres, role: str, database: str = "postgres") -> str:
    return f"postgres://{role}@127.0.0.1:{server.port}/{database}?sslmode=disable"


def psql(url: str, sql: str) -> subprocess.CompletedProcess[str]:
    command = ["psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", url, "--command", sql]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


async def test_should_work_with_minimal_grants_and_continue_after_a_restore(
    server: Postgres, tmp_path: Path
) -> None:
    (roles,) = blocks("sql")
    assert psql(server.url, roles).returncode == 0
    owner, service = url_of(server, "aios_owner"), url_of(server, "aios_service")
    with pytest.raises(aios.AiosError):
        async with aios.Client(service):
            pass
    async with aios.Client(owner):
        pass
    async with aios.Runtime(service, agents=[greet], workflows=[welcome]) as runtime:
        done = await runtime.start(welcome, "Ada", id="done")
        await done.signal("mark", "!")
        assert await done.result() == "Hello, Ada!"
        await runtime.start(welcome, "Bob", id="waits")
    refused = psql(service, "CREATE TABLE aios.other (id integer)")
    assert "permission denied" in refused.stderr

    dump = blocks("sh")[0]
    environment = {**os.environ, "DATABASE_URL": server.url}
    subprocess.run(dump, shell=True, check=True, cwd=tmp_path, env=environment, timeout=60)
    assert psql(server.url, "CREATE DATABASE restored").returncode == 0
    command = re.search(r"`(pg_restore [^`]*)`", PAGE.read_text())
    assert command is not None
    environment["DATABASE_URL"] = url_of(server, "aios", "restored")
    subprocess.run(command[1], shell=True, check=True, cwd=tmp_path, env=environment, timeout=60)

    restored = url_of(server, "aios_service", "restored")
    command = re.search(r"`(aios verify [^`]*)`", PAGE.read_text())
    assert command is not None
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "DATABASE_URL": restored, "PATH": path}
    verified = subprocess.run(
        command[1],
        shell=True,
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert re.search(r"checked [1-9]\d* events", verified.stdout)
    async with aios.Runtime(restored, agents=[greet], workflows=[welcome]) as runtime:
        assert await (await runtime.handle("done")).result() == "Hello, Ada!"
        waits = await runtime.handle("waits")
        await waits.signal("mark", "?")
        assert await waits.result() == "Hello, Bob?"


async def test_should_copy_a_database_of_sqlite_in_use(tmp_path: Path) -> None:
    command = re.search(r'"(VACUUM INTO [^"]*)"', PAGE.read_text())
    assert command is not None
    sql = command[1].replace("backup.db", str(tmp_path / "backup.db"))
    url = f"sqlite://{tmp_path}/service.db"
    async with aios.Runtime(url, agents=[greet], workflows=[welcome]) as runtime:
        await runtime.start(welcome, "Ada", id="waits")
        # In a process of its own: a second copy of SQLite in this one would cut the shared memory off.
        code = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute(sys.argv[2])"
        copy = [sys.executable, "-c", code, str(tmp_path / "service.db"), sql]
        subprocess.run(copy, check=True, timeout=60)
    url = f"sqlite://{tmp_path}/backup.db"
    async with aios.Runtime(url, agents=[greet], workflows=[welcome]) as runtime:
        waits = await runtime.handle("waits")
        await waits.signal("mark", "!")
        assert await waits.result() == "Hello, Ada!"
