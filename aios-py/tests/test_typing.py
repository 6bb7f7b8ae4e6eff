"""Type checkers on the installed package, its tests and the examples."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import aios
import pytest

TESTS = Path(__file__).parent
CHECKED = [*sorted(TESTS.glob("*.py")), *sorted((TESTS.parent / "examples").glob("*.py"))]
PACKAGE = Path(aios.__file__).parent

#: Exceptions of stubtest, which does not support generic named tuples, aliases of literals, and, since mypy 2.4,
#: functions wrapped by `functools.cache`; and functions that only wheels with the feature `bench` have.
STUBTEST_ALLOWS = """
aios._aios.rust_tasks_per_second
aios._llm.tool.Effect
aios._llm.tool.OnFailure
aios._llm.model.AnyModel
aios._llm.model.ModelFunction
aios._clients.records.Page.__class_getitem__
aios._clients.records.RunState
aios._workflows.steps._get_running_loop
"""


def check(module: str, *arguments: str, folder: Path) -> None:
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        if os.environ.get("AIOS_REQUIRE_SERVICES") == "1":
            pytest.fail(f"{module} is not installed")
        pytest.skip(f"{module} is not installed")
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    text = ended.stdout + ended.stderr
    assert ended.returncode == 0, text
    assert "No source files found" not in text
    assert "Ignoring path" not in text


def test_should_satisfy_mypy(tmp_path: Path) -> None:
    check("mypy", "--strict", "--python-version", "3.11", "-p", "aios", folder=tmp_path)
    check("mypy", "--strict", "--python-version", "3.11", *map(str, CHECKED), folder=tmp_path)


def test_should_satisfy_pyright(tmp_path: Path) -> None:
    config = {
        # Absolute paths would be ignored.
        "include": [os.path.relpath(path, tmp_path) for path in (PACKAGE, *CHECKED)],
        "extraPaths": [str(TESTS), str(TESTS.parent / "examples")],
        "typeCheckingMode": "standard",
        "pythonVersion": "3.11",
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    check("pyright", "--pythonpath", sys.executable, folder=tmp_path)


def test_should_have_stubs_that_match_the_native_module(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.write_text(STUBTEST_ALLOWS)
    options = ("--allowlist", str(allowed), "--ignore-unused-allowlist")
    check("mypy.stubtest", "aios", *options, folder=tmp_path)
