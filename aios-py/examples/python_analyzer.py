"""Analyses Python files for the review of a source tree, with `ast` and `tokenize`.

    BROKER=amqp://… python -m aios worker python_analyzer:app --processes 4

serves `code-review start PATH --python-agent`, whose workflow and other agents are written in
Rust: the parameters and answers here are those of its analyzer. `code_review.py` is the same review
entirely in Python.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import io
import math
import os
import re
import stat
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, TypedDict, TypeVar

import aios

#: Maximum length of a function, in lines.
MAX_LINES = 60
#: Maximum size of a file, in bytes: larger files are data or generated.
MAX_BYTES = 4 << 20
#: Maximum number of findings of a kind per file; the rest is counted.
MAX_FINDINGS = 100
#: Maximum length of a note, in characters.
MAX_NOTE = 120
#: Minimum entropy of a random value, in bits per character.
MIN_ENTROPY = 3.0

T = TypeVar("T")

SkipReason = Literal[
    "unreadable",
    "binary",
    "not_utf8",
    "too_large",
    "symlink",
    "special",
    "name_not_utf8",
    "analysis_failed",
    "not_reviewed_by_model",
]


@dataclasses.dataclass
class FileOf:
    """A file to analyse: the root of its tree, and its path from there with `/`."""

    root: str
    path: str


@dataclasses.dataclass(order=True)
class Skipped:
    """A file that is not analysed, the reason, and details."""

    path: str
    reason: SkipReason
    detail: str = ""


@dataclasses.dataclass
class Lines:
    """Number of lines with code, with only comments, and blank."""

    code: int = 0
    comment: int = 0
    blank: int = 0


@dataclasses.dataclass
class Marker:
    """A note in a comment: its line, `TODO` or `FIXME`, and its text."""

    line: int
    mark: str
    note: str = ""


@dataclasses.dataclass
class LongFunction:
    """A function that is too long: the line of its name, its name and its number of lines."""

    line: int
    name: str
    lines: int


@dataclasses.dataclass
class Secret:
    """A likely secret: its location and kind, but never its value."""

    line: int
    kind: str


@dataclasses.dataclass
class Findings:
    """Findings in a file that a person should check; `omitted` counts those beyond the maximum."""

    markers: list[Marker] = dataclasses.field(default_factory=list)
    long_functions: list[LongFunction] = dataclasses.field(default_factory=list)
    secrets: list[Secret] = dataclasses.field(default_factory=list)
    omitted: int = 0


@dataclasses.dataclass
class FileReview:
    """The analysis of a file."""

    path: str
    language: str
    bytes: int
    sha256: str
    lines: Lines
    findings: Findings


class Analysis(TypedDict, total=False):
    """The outcome for a file: exactly one field is set."""

    reviewed: FileReview
    skipped: Skipped


class Unfit(Exception):
    """A file that can't be analysed, and why."""

    def __init__(self, reason: SkipReason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason: SkipReason = reason
        self.detail = detail


@aios.agent("python_analyzer", concurrency=4)
def analyze(context: aios.TaskContext, file: FileOf) -> Analysis:
    """A plain `def`, because parsing keeps the processor busy: it runs in the pool.

    A file that can't be analysed is an answer, not an error: trying again would not help.
    """
    try:
        return {"reviewed": review(file.path, read(file))}
    except Unfit as error:
        return {"skipped": Skipped(file.path, error.reason, error.detail)}


def read(file: FileOf) -> bytes:
    """Reads the file, if it is not too large."""
    path = PurePosixPath(file.path)
    if path.is_absolute() or ".." in path.parts:
        raise Unfit("unreadable", "the path leaves the tree")
    full = Path(file.root) / path
    try:
        mode = full.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise Unfit("symlink")
        if not stat.S_ISREG(mode):
            raise Unfit("special")
        with full.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise Unfit("unreadable", error.strerror or "") from error
    if len(content) > MAX_BYTES:
        raise Unfit("too_large")
    if b"\0" in content:
        raise Unfit("binary")
    return content


def review(path: str, content: bytes) -> FileReview:
    """Analyses the content of a file."""
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise Unfit("not_utf8") from error
    try:
        tree = ast.parse(text)
        comments = list(comments_of(text))
    except SyntaxError as error:
        raise Unfit("analysis_failed", f"line {error.lineno}: {error.msg}") from error
    except (tokenize.TokenError, ValueError, RecursionError, MemoryError) as error:
        raise Unfit("analysis_failed", str(error)) from error
    digest = hashlib.sha256(content).hexdigest()
    lines = count(text, comments)
    return FileReview(path, "Python", len(content), digest, lines, findings(text, tree, comments))


def comments_of(text: str) -> Iterator[tokenize.TokenInfo]:
    """The comments of a text. Only a tokenizer distinguishes `# this` from `"# this"`."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return (token for token in tokens if token.type == tokenize.COMMENT)


def count(text: str, comments: Sequence[tokenize.TokenInfo]) -> Lines:
    """Counts the lines."""
    rows = text.removesuffix("\n").split("\n") if text else []
    blank = sum(not row.strip() for row in rows)
    comment = sum(not token.line[: token.start[1]].strip() for token in comments)
    return Lines(len(rows) - blank - comment, comment, blank)


def findings(text: str, tree: ast.Module, comments: Sequence[tokenize.TokenInfo]) -> Findings:
    """The findings that a person should check."""
    found = Findings()
    secrets = find_secrets(text)
    found.markers = keep(find_markers(comments, {secret.line for secret in secrets}), found)
    found.long_functions = keep(find_long_functions(tree), found)
    found.secrets = keep(secrets, found)
    return found


def keep(all_of_them: list[T], found: Findings) -> list[T]:
    """Returns the first findings, and counts the rest."""
    found.omitted += max(0, len(all_of_them) - MAX_FINDINGS)
    return all_of_them[:MAX_FINDINGS]


MARKER = re.compile(r"\b(TODO|FIXME)\b(.*)", re.ASCII)


def find_markers(comments: Sequence[tokenize.TokenInfo], secret: set[int]) -> list[Marker]:
    """The notes. Text on a line with a likely secret is not quoted."""
    markers = []
    for token in comments:
        if found := MARKER.search(token.string):
            mark, rest = found.groups()
            note = "".join(filter(str.isprintable, rest.lstrip(": \t").rstrip()))[:MAX_NOTE]
            markers.append(Marker(token.start[0], mark, "" if token.start[0] in secret else note))
    return markers


def find_long_functions(tree: ast.Module) -> list[LongFunction]:
    """The functions with too many lines, counted from the line of the name."""
    functions = (
        LongFunction(node.lineno, node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    long = [function for function in functions if function.lines > MAX_LINES]
    return sorted(long, key=lambda function: function.line)


#: Formats of tokens, as documented by their issuers.
SHAPES = {
    "aws_key": r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b"
    r"|(?i:aws_secret_access_key)[\"']?[ \t]*[=:][ \t]*[\"']?[A-Za-z0-9/+]{40}\b",
    "github_token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{82})\b",
    "gitlab_token": r"\bglpat-[A-Za-z0-9_-]{20}",
    "google_api_key": r"\bAIza[A-Za-z0-9_-]{35}",
    "private_key": r"-----BEGIN (?:[A-Z]{2,9} )?PRIVATE KEY(?: BLOCK)?-----",
    "slack_token": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,250}"
    r"|\bhooks\.slack\.com/services/T[A-Za-z0-9]{8,}/B[A-Za-z0-9]{8,}/[A-Za-z0-9]{20,}",
    "stripe_key": r"\b[sr]k_live_[A-Za-z0-9]{20,}",
}
SHAPE = re.compile("|".join(f"(?P<{kind}>{shape})" for kind, shape in SHAPES.items()), re.ASCII)
#: A quoted value that is assigned to a name such as `password`.
ASSIGNMENT = re.compile(
    r"(?i:passw(?:or)?d|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key)"
    r"[\"'\]]{0,2}[ \t]*(?::=|=>|=|:)[ \t]*[\"'`]([!#-&(-_a-~]{8,200})[\"'`]",
    re.ASCII,
)
#: Placeholders for values from elsewhere.
PLACEHOLDER = re.compile(r"^[$%{]|\$\{|\{\{|<|\{\}|%s|://")


def find_secrets(text: str) -> list[Secret]:
    """The likely secrets by line, at most one of a kind per line."""
    shapes = ((found.start(), found.lastgroup or "") for found in SHAPE.finditer(text))
    values = (
        (found.start(1), "assignment")
        for found in ASSIGNMENT.finditer(text)
        if looks_random(found[1])
    )
    places = {(text.count("\n", 0, at) + 1, kind) for at, kind in (*shapes, *values)}
    return [Secret(line, kind) for line, kind in sorted(places)]


def looks_random(value: str) -> bool:
    """Whether a value is neither a word nor a placeholder."""
    if PLACEHOLDER.search(value) or not re.search("[0-9]", value):
        return False
    shares = [number / len(value) for number in Counter(value).values()]
    entropy = -sum(share * math.log2(share) for share in shares)
    return bool(re.search("[A-Za-z]", value)) and entropy >= MIN_ENTROPY


def app() -> aios.Runtime:
    """The runtime of a worker process."""
    return aios.Runtime(None, os.environ["BROKER"], agents=[analyze], source="python-analyzer")
