from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(folder: Path, example: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / example), *arguments]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_should_greet_twice_with_one_run(tmp_path: Path) -> None:
    assert run(tmp_path, "hello.py") == "HELLO, ADA\nHELLO, GRACE\n"
    assert run(tmp_path, "hello.py") == "HELLO, ADA\nHELLO, GRACE\n"


def test_should_review_python_files(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "package").mkdir(parents=True)
    (tree / "good.py").write_text("def one():\n    return 1\n")
    (tree / "package" / "bad.py").write_text("try:\n    pass\nexcept:\n    pass\n")
    (tree / "broken.py").write_text("def (:\n")
    assert run(tmp_path, "code_review.py", str(tree)) == "2 files, 6 lines, 1 findings\n"
    report = json.loads((tmp_path / "report.json").read_text())
    assert [file["path"] for file in report["files"]] == ["good.py", "package/bad.py"]
    assert report["files"][1]["findings"] == [
        {"line": 3, "text": "a bare except hides every error"}
    ]


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
