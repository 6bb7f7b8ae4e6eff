"""Runs async tests, each on a loop of its own, and never for ever."""

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

#: Longer than any test takes on a busy machine, in seconds; a test that hangs fails then.
LIMIT = 120.0


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
    """Starts a Python program from its text, in a folder of its own."""

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
            # Where the tests run in the background, an interrupt is ignored, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start


def finish(process: subprocess.Popen[str], timeout: float = LIMIT) -> tuple[int, str, str]:
    """Waits for a program; its status, output and errors."""
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        raise AssertionError(f"the program hangs\n{output}\n{errors}") from None
    return process.returncode, output, errors
