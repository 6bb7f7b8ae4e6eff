"""Reviews the Python files of a tree: `code_review.py PATH` lists them, analyses each with an agent
and writes `report.md` and `report.json`: notes such as `TODO`, functions that are too long, likely
secrets, duplicated files, and files that could not be reviewed.

The review is a durable workflow whose state is one file, `review.db`. Kill the program at any
time and run the same command again: it resumes where it stopped. With `--broker amqp://…`, the
processes of `python -m aios worker python_analyzer:app` help. With `--model NAME`, a language model
reviews each file too; see `model_reviewer.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import aios
from aios.testing import FakeProvider
from model_reviewer import Remark, respond, review_with_model, reviewer
from python_analyzer import (
    MAX_LINES,
    Analysis,
    FileOf,
    FileReview,
    Findings,
    Lines,
    Skipped,
    analyze,
)

#: Folders without source files of the project.
FOREIGN = {".git", ".hg", ".svn", ".venv", "__pycache__", "node_modules", "target"}
#: Leaves time for agents to start. A file that fails is reported.
PATIENT = aios.RetryPolicy(max_attempts=5)


@dataclasses.dataclass
class Scan:
    """Files to analyse, and files that are skipped."""

    paths: list[str]
    skipped: list[Skipped]


@dataclasses.dataclass
class FileFindings:
    """Findings in a file that a person should check."""

    path: str
    findings: Findings


@dataclasses.dataclass
class Duplicate:
    """Files with the same content."""

    sha256: str
    bytes: int
    paths: list[str]


@dataclasses.dataclass
class FileRemarks:
    """Remarks of the model on a file."""

    path: str
    remarks: list[Remark]


@dataclasses.dataclass
class Tree:
    """A tree to review: its root, the folder of the reports, and the model that reviews too."""

    root: str
    out: str
    model: str | None = None


@dataclasses.dataclass
class Report:
    """Findings in a tree. The same tree gives the same report."""

    files: int
    bytes: int
    lines: Lines
    findings: list[FileFindings]
    duplicates: list[Duplicate]
    skipped: list[Skipped]
    remarks: list[FileRemarks] = dataclasses.field(default_factory=list)


def scan(root: str) -> Scan:
    """Lists the Python files below a folder, in order."""
    found = Scan([], [])

    def name(path: str) -> str:
        relative = os.path.relpath(path, root).replace(os.sep, "/")
        return relative.encode("utf-8", "replace").decode("utf-8")

    def refuse(error: OSError) -> None:
        found.skipped.append(Skipped(name(error.filename), "unreadable", error.strerror or ""))

    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if name not in FOREIGN]
        for path in (os.path.join(folder, file) for file in files if file.endswith(".py")):
            if os.fsencode(path) != path.encode("utf-8", "replace"):
                found.skipped.append(Skipped(name(path), "name_not_utf8"))
            elif os.path.islink(path):
                found.skipped.append(Skipped(name(path), "symlink"))
            else:
                found.paths.append(name(path))
    return Scan(sorted(found.paths), sorted(found.skipped))


def summarise(skipped: Iterable[Skipped], reviews: Iterable[FileReview]) -> Report:
    """Combines the results of all files."""
    report = Report(0, 0, Lines(), [], [], sorted(skipped))
    by_content: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    for review in reviews:
        report.files += 1
        report.bytes += review.bytes
        report.lines.code += review.lines.code
        report.lines.comment += review.lines.comment
        report.lines.blank += review.lines.blank
        if review.findings != Findings():
            report.findings.append(FileFindings(review.path, review.findings))
        if review.bytes:
            by_content[-review.bytes, review.sha256].append(review.path)
    report.duplicates = [
        Duplicate(sha256, -size, paths)
        for (size, sha256), paths in sorted(by_content.items())
        if len(paths) > 1
    ]
    return report


@aios.workflow("python_review")
async def python_review(context: aios.WorkflowContext, tree: Tree) -> Report:
    root, out = tree.root, tree.out
    context = context.with_retry(PATIENT)
    listed = await context.step("scan", scan, root)
    context.set_status(f"analysing {len(listed.paths)} files")
    answers = await context.gather(
        *(
            context.task("python_analyzer", FileOf(root, path), result=Analysis, timeout=60)
            for path in listed.paths
        ),
        return_exceptions=True,
    )
    skipped, reviews = listed.skipped, []
    for path, answer in zip(listed.paths, answers, strict=True):
        if isinstance(answer, BaseException):
            # If every attempt of an agent fails, only its file is missing from the review.
            skipped.append(Skipped(path, "analysis_failed", str(answer)))
        elif "reviewed" in answer:
            reviews.append(answer["reviewed"])
        elif "skipped" in answer:
            skipped.append(answer["skipped"])
    remarks: list[FileRemarks] = []
    if tree.model is not None:
        context.set_status(f"the model reviews {len(reviews)} files")
        found = await context.gather(*(review_with_model(context, root, one) for one in reviews))
        for one, (file_remarks, reason) in zip(reviews, found, strict=True):
            if file_remarks:
                remarks.append(FileRemarks(one.path, file_remarks))
            if reason:
                skipped.append(Skipped(one.path, "not_reviewed_by_model", reason))
    report = summarise(skipped, reviews)
    report.remarks = remarks
    await context.step("write", write, report, out)
    return report


def write(report: Report, out: str) -> None:
    """Writes both reports atomically. Writing them again has no effect."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "report.json", json.dumps(dataclasses.asdict(report), indent=2) + "\n")
    write_whole(folder / "report.md", markdown(report))


def write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def markdown(report: Report) -> str:
    """The report in Markdown."""
    lines = report.lines
    found = [(file.path, file.findings) for file in report.findings]
    secrets = [f"{code(path, one.line)} {one.kind}" for path, all in found for one in all.secrets]
    long = [
        f"{code(path, one.line)} {code(one.name)} has {one.lines} lines"
        for path, all in found
        for one in all.long_functions
    ]
    markers = [
        f"{code(path, one.line)} {code(f'{one.mark} {one.note}'.strip())}"
        for path, all in found
        for one in all.markers
    ]
    remarks = [
        f"{code(file.path, one.line)} {code(one.text)}"
        for file in report.remarks
        for one in file.remarks
    ]
    duplicates = [
        f"{len(one.paths)} × {one.bytes} bytes: {', '.join(map(code, one.paths))}"
        for one in report.duplicates
    ]
    skipped = [
        f"{code(one.path)} {one.reason}" + (f": {code(one.detail)}" if one.detail else "")
        for one in report.skipped
    ]
    sections = [
        "# Code review\n",
        "| files | code | comment | blank | bytes |\n|---:|---:|---:|---:|---:|\n"
        f"| {report.files} | {lines.code} | {lines.comment} | {lines.blank} | {report.bytes} |\n",
        *([section("Remarks of the model", remarks)] if remarks else []),
        section("Likely secrets", secrets),
        section(f"Functions over {MAX_LINES} lines", long),
        section("TODO and FIXME", markers),
        section("Duplicated files", duplicates),
        section("Not reviewed", skipped),
    ]
    return "\n".join(sections)


def section(title: str, items: list[str]) -> str:
    text = "".join(f"- {item}\n" for item in items) or "None.\n"
    return f"## {title} ({len(items)})\n\n{text}"


def code(text: str, line: int | None = None) -> str:
    """Formats text as inline code, on one line."""
    place = text if line is None else f"{text}:{line}"
    shown = "".join(one if one.isprintable() else "\ufffd" for one in place)
    return f"`` {shown} ``" if "`" in shown else f"`{shown}`"


async def run_id(runtime: aios.Runtime, tree: Tree) -> str:
    """The id of the unfinished review of this tree, or of a new one."""
    prefix = (
        "review-"
        + hashlib.sha256("\0".join([tree.root, tree.out, tree.model or ""]).encode()).hexdigest()[
            :12
        ]
    )
    runs = (await runtime.runs("python_review", limit=10_000)).rows
    over = [run for run in runs if run.id.startswith(prefix) and run.is_final]
    return f"{prefix}-{len(over) + 1}"


async def main() -> None:
    parser = argparse.ArgumentParser(description="Reviews the Python files of a tree.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--out", type=Path, default=Path("."), help="folder that gets the reports")
    parser.add_argument("--broker", default="memory://")
    parser.add_argument("--model", help="a model that reviews too: openai:<model> …, or offline")
    options = parser.parse_args()
    if not options.path.is_dir():
        parser.error(f"{options.path} is no folder")
    tree = Tree(str(options.path.resolve()), str(options.out.resolve()), options.model)
    with FakeProvider(respond=respond) as provider:
        agents = [analyze, *([reviewer(tree.model, provider)] if tree.model else [])]
        runtime = aios.Runtime(
            "sqlite://review.db", options.broker, agents=agents, workflows=[python_review]
        )
        async with runtime:
            run = await runtime.start(python_review, tree, id=await run_id(runtime, tree))
            report = await run.result()
    print(f"{report.files} files reviewed, {len(report.skipped)} not: {options.out / 'report.md'}")


if __name__ == "__main__":
    asyncio.run(main())
