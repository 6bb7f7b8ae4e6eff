"""Runs async tests, each on its own event loop and with a time limit."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

#: Time limit of a test in seconds, more than any test takes on a busy machine.
LIMIT = 120.0

# Tests read the lines of programs, which write JSON unless their output is a terminal.
os.environ.setdefault("AIOS_LOG_FORMAT", "text")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), LIMIT))
    return True


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts a Python program from its source, in its own folder."""

    def start(text: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        path = tmp_path / "program.py"
        path.write_text(text)
        return subprocess.Popen(
            [sys.executable, str(path), *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # With a process group of its own, which `finish` kills.
            start_new_session=True,
            # Tests in the background ignore SIGINT, which child processes would inherit.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start


def finish(process: subprocess.Popen[str], timeout: float = LIMIT) -> tuple[int, str, str]:
    """Waits for a program. Returns its exit status, stdout and stderr."""
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        # A child process that hangs would keep the pipes open.
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        raise AssertionError(f"the program hangs\n{output}\n{errors}") from None
    return process.returncode, output, errors
