from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from aios.testing import FakeProvider

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(folder: Path, example: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / example), *arguments]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_should_greet_twice_with_one_run(tmp_path: Path) -> None:
    assert run(tmp_path, "hello.py") == "HELLO, ADA\nHELLO, GRACE\n"
    assert run(tmp_path, "hello.py") == "HELLO, ADA\nHELLO, GRACE\n"


#: Concatenated, so that secret scanners do not report this file.
SECRET = "hunter2" + "Xy!q9"

GOOD = f'''# TODO: tidy
def one():
    """x

    # TODO not this
    """
    return "# FIXME no"  # FIXME(me): yes
password = "{SECRET}"  # TODO rotate {SECRET}
'''


def make_tree(tree: Path) -> None:
    (tree / "package").mkdir(parents=True)
    (tree / "node_modules").mkdir()
    (tree / "node_modules" / "foreign.py").write_text(GOOD)
    (tree / "good.py").write_text(GOOD)
    (tree / "package" / "copy.py").write_text(GOOD)
    (tree / "long.py").write_text("async def long():\n" + "    x()\n" * 60)
    (tree / "broken.py").write_text("def (:\n")
    (tree / "latin.py").write_bytes(b"a = 'caf\xe9'\n")
    (tree / "binary.py").write_bytes(b"a\0b")
    (tree / "link.py").symlink_to("good.py")
    (tree / "huge.py").write_bytes(b"#" * (4 << 20) + b"\n")


def test_should_review_python_files(tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    arguments = ("code_review.py", "tree", "--out", "out")
    assert run(tmp_path, *arguments) == "3 files reviewed, 5 not: out/report.md\n"
    text = (tmp_path / "out" / "report.json").read_text()
    report = json.loads(text)
    assert report["lines"] == {"code": 2 * 6 + 61, "comment": 2, "blank": 2}
    assert [file["path"] for file in report["findings"]] == [
        "good.py",
        "long.py",
        "package/copy.py",
    ]
    assert report["findings"][0]["findings"] == {
        "markers": [
            {"line": 1, "mark": "TODO", "note": "tidy"},
            {"line": 7, "mark": "FIXME", "note": "(me): yes"},
            {"line": 8, "mark": "TODO", "note": ""},
        ],
        "long_functions": [],
        "secrets": [{"line": 8, "kind": "assignment"}],
        "omitted": 0,
    }
    assert report["findings"][1]["findings"]["long_functions"] == [
        {"line": 1, "name": "long", "lines": 61}
    ]
    assert [one["paths"] for one in report["duplicates"]] == [["good.py", "package/copy.py"]]
    assert [(one["path"], one["reason"]) for one in report["skipped"]] == [
        ("binary.py", "binary"),
        ("broken.py", "analysis_failed"),
        ("huge.py", "too_large"),
        ("latin.py", "not_utf8"),
        ("link.py", "symlink"),
    ]
    assert SECRET not in text
    shown = (tmp_path / "out" / "report.md").read_text()
    assert "## Likely secrets (2)\n\n- `good.py:8` assignment\n" in shown
    assert "- `broken.py` analysis_failed: `line 1: invalid syntax`\n" in shown


def test_should_add_the_remarks_of_a_model_and_keep_secrets_from_it(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a.py").write_text("def a(x):\n    return eval(x)\n")
    (tmp_path / "tree" / "b.py").write_text(f'password = "{SECRET}"\neval(password)\n')
    (tmp_path / "tree" / "c.py").write_text("# long\n" * 10_000)
    arguments = ("code_review.py", "tree", "--model", "offline")
    assert run(tmp_path, *arguments).startswith("3 files reviewed, 2 not")
    shown = (tmp_path / "report.md").read_text()
    assert "## Remarks of the model (1)\n" in shown
    assert "- `a.py:2` `` `eval` executes its input. ``\n" in shown
    assert "- `b.py` not_reviewed_by_model: `it has likely secrets`\n" in shown
    assert "- `c.py` not_reviewed_by_model: `it is too large`\n" in shown
    assert SECRET.encode() not in (tmp_path / "review.db").read_bytes()


def test_should_review_a_changed_tree_again(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    assert run(tmp_path, "code_review.py", "tree").startswith("0 files reviewed, 0 not")
    (tmp_path / "tree" / "new.py").write_text("a = 1\n")
    assert run(tmp_path, "code_review.py", "tree").startswith("1 files reviewed, 0 not")


def test_should_report_files_whose_agent_fails(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a.py").write_text("a = 1\n")
    program = tmp_path / "failing.py"
    program.write_text(
        f"import asyncio, sys; sys.path.insert(0, {str(EXAMPLES)!r})\n"
        "import aios, python_analyzer\n"
        "def refuse(file): raise aios.TaskError.terminal('no')\n"
        "python_analyzer.read = refuse\n"
        "import code_review; asyncio.run(code_review.main())\n"
    )
    command = [sys.executable, str(program), "tree"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.stdout == "0 files reviewed, 1 not: report.md\n", ended.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["skipped"] == [{"path": "a.py", "reason": "analysis_failed", "detail": "no"}]


def test_should_run_the_examples_of_the_readme(tmp_path: Path) -> None:
    readme = (EXAMPLES.parent / "README.md").read_text()
    blocks = [block.partition("```")[0] for block in readme.split("```python\n")[1:]]
    assert len(blocks) >= 4
    for number, block in enumerate(blocks):
        path = tmp_path / f"block_{number}.py"
        path.write_text(block)
        ended = subprocess.run(
            [sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert ended.returncode == 0, f"{block}\n{ended.stderr}"


def test_should_research_with_a_team(tmp_path: Path) -> None:
    output = "approved: publish 'Two databases'\npublished 'Two databases' as report.md\n"
    assert run(tmp_path, "research_team.py") == f"{output}7 requests\n"
    report = (tmp_path / "report.md").read_text()
    assert report.startswith("# Two databases\n\nSQLite is a database in one file.")
    assert "PostgreSQL is a database server." in report
    # The run has ended: nothing is repeated.
    again = "published 'Two databases' as report.md\n0 requests\n"
    assert run(tmp_path, "research_team.py") == again


def test_should_research_with_the_provider_that_the_environment_names(tmp_path: Path) -> None:
    sys.path.insert(0, str(EXAMPLES))
    try:
        import research_team
    finally:
        sys.path.remove(str(EXAMPLES))
    with FakeProvider(respond=research_team.respond) as provider:
        ended = subprocess.run(
            [sys.executable, str(EXAMPLES / "research_team.py")],
            cwd=tmp_path,
            env={
                **os.environ,
                "AIOS_LLM_BASE_URL": provider.openai_url,
                "AIOS_LLM_API_KEY": "sk-test",
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ended.stdout.endswith("0 requests\n"), ended.stderr
        requests = provider.requests
    assert len(requests) == 7
    assert {request.headers["authorization"] for request in requests} == {"Bearer sk-test"}
    assert {request.body["model"] for request in requests} == {"gpt-5-mini"}
    # The planner and the writer have to give output of a type, the writer beside its tools.
    formats = ["response_format" in request.body for request in requests]
    assert formats.count(True) == 1
    tools = [str(request.body.get("tools")) for request in requests]
    assert sum("final_result" in names for names in tools) == 2
