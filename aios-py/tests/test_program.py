"""The program of operators, which the package installs as `aios`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = str(Path(sys.executable).parent / "aios")


def aios(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [PROGRAM, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_should_have_the_commands_and_exit_codes_of_the_program(tmp_path: Path) -> None:
    ended = aios("--help", folder=tmp_path)
    assert ended.returncode == 0
    for command in ("dev", "runs", "journal", "dead-letters", "doctor", "config"):
        assert command in ended.stdout
    assert aios("unknown", folder=tmp_path).returncode == 2
    assert aios("runs", "--store", "sqlite://missing.db", folder=tmp_path).returncode != 0


def test_should_work_on_a_store(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import asyncio, aios\n"
        "@aios.workflow('welcome')\n"
        "async def welcome(context, name: str) -> str:\n"
        "    return f'Hello, {name}'\n"
        "async def main():\n"
        "    async with aios.Runtime('sqlite://aios.db', workflows=[welcome]) as runtime:\n"
        "        await (await runtime.start(welcome, 'Ada', id='welcome-ada')).result()\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "program.py"], cwd=tmp_path, check=True, timeout=120)
    ended = aios("runs", "--store", "sqlite://aios.db", "--json", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "welcome-ada" in ended.stdout
    ended = aios("run", "welcome-ada", "--store", "sqlite://aios.db", "--wait", folder=tmp_path)
    assert json.loads(ended.stdout) == "Hello, Ada"


def test_should_end_on_an_interrupt_without_a_traceback(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [PROGRAM, "dev", "--listen", "127.0.0.1:0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "AIOS_LOG_LEVEL": "info"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "serves http://" in line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(60) == 0, rest
    assert "Traceback" not in rest
