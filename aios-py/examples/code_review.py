"""Reviews Python files with `ast`: `code_review.py PATH` lists them, analyses each with an agent and
writes `report.json`.

The review is a durable workflow whose state is one file, `review.db`. Kill the program at any
moment, run the same command again, and it goes on where it was.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import dataclasses
import hashlib
import json
from pathlib import Path

import aios

#: A function with more lines than this is a finding.
MAX_LINES = 60
#: Folders that hold nothing of one's own.
SKIPPED = {".git", ".venv", "__pycache__", "node_modules", "target"}


@dataclasses.dataclass
class Finding:
    """What a person should look at."""

    line: int
    text: str


@dataclasses.dataclass
class FileReview:
    """What was found in a file."""

    path: str
    lines: int
    functions: int
    sha256: str
    findings: list[Finding] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Report:
    """What was found in a tree."""

    files: list[FileReview]
    lines: int
    findings: int


@dataclasses.dataclass
class Source:
    """A file of a tree."""

    root: str
    path: str


@aios.agent("python_analysis")
class PythonAnalysis:
    """A plain `def`, because parsing keeps the processor busy: it runs in the pool."""

    def process_task(self, context: aios.TaskContext, parameters: Source) -> FileReview:
        content = (Path(parameters.root) / parameters.path).read_bytes()
        try:
            tree = ast.parse(content)
        except SyntaxError as error:
            raise aios.TaskError.terminal(
                f"{parameters.path} is no Python: {error.msg}",
                code="SYNTAX_ERROR",
                details={"path": parameters.path, "line": error.lineno},
            ) from error
        return analyse(parameters.path, content, tree)


def analyse(path: str, content: bytes, tree: ast.Module) -> FileReview:
    """What can be said about one file."""
    functions = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    findings = []
    for function in functions:
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        if length > MAX_LINES:
            findings.append(Finding(function.lineno, f"{function.name} has {length} lines"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            findings.append(Finding(node.lineno, "a bare except hides every error"))
    findings.sort(key=lambda finding: finding.line)
    digest = hashlib.sha256(content).hexdigest()
    return FileReview(path, content.count(b"\n"), len(functions), digest, findings)


def scan(root: str) -> list[str]:
    """Python files below a folder, in order."""
    found = (path.relative_to(root) for path in Path(root).rglob("*.py"))
    return sorted(str(path) for path in found if not SKIPPED.intersection(path.parts))


def write(report: Report, path: str) -> None:
    """Writes the report in one piece."""
    temporary = Path(path).with_suffix(".tmp")
    temporary.write_text(json.dumps(dataclasses.asdict(report), indent=2) + "\n")
    temporary.replace(path)


@aios.workflow("python_review")
async def review(context: aios.WorkflowContext, root: str) -> Report:
    paths = await context.step("scan", scan, root)
    context.set_status(f"analysing {len(paths)} files")
    results = await context.gather(
        *(
            context.task("python_analysis", Source(root, path), result=FileReview, timeout=60)
            for path in paths
        ),
        return_exceptions=True,
    )
    files = [found for found in results if isinstance(found, FileReview)]
    report = Report(
        files, sum(file.lines for file in files), sum(len(file.findings) for file in files)
    )
    await context.step("write", write, report, "report.json")
    return report


async def main() -> None:
    parser = argparse.ArgumentParser(description="Reviews Python files.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--broker", default="memory://")
    root = str(parser.parse_args().path.resolve())
    broker = parser.parse_args().broker
    runtime = aios.Runtime(
        "sqlite://review.db", broker, agents=[PythonAnalysis()], workflows=[review]
    )
    async with runtime:
        run = await runtime.start(review, root, id=f"review-{hashlib.sha256(root.encode()).hexdigest()[:12]}")
        report = await run.result()
    print(f"{len(report.files)} files, {report.lines} lines, {report.findings} findings")


if __name__ == "__main__":
    asyncio.run(main())
