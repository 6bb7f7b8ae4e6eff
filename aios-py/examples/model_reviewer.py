"""Lets a language model review the Python files of `code_review.py --model NAME`.

NAME is `openai:<model>`, `anthropic:<model>` and so on, with the key in `AIOS_LLM_API_KEY` and
another base URL in `AIOS_LLM_BASE_URL`, or `offline`, a provider on this machine.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import aios
from aios.testing import FakeProvider, FakeRequest
from python_analyzer import FileReview

#: Maximum size of a file that a model gets, in bytes.
MAX_BYTES = 64 * 1024
#: Maximum number of remarks that are kept for a file.
MAX_REMARKS = 20

INSTRUCTIONS = (
    "You review source code. Name bugs and risks, each with the number of its line, in one sentence. "
    "Leave out matters of style. If there are none, return no remarks."
)


@dataclasses.dataclass
class Remark:
    """A remark of the model: its line, from 1, and one sentence."""

    line: int
    text: str


@dataclasses.dataclass
class Remarks:
    """Bugs and risks."""

    remarks: list[Remark]


def respond(request: FakeRequest) -> str:
    """The provider on this machine: it remarks calls of `eval`."""
    lines = request.body["messages"][-1]["content"][0]["text"].splitlines()
    found = [line.partition(":")[0] for line in lines if "eval(" in line]
    remarks = [{"line": int(line), "text": "`eval` executes its input."} for line in found]
    return json.dumps({"remarks": remarks})


def reviewer(name: str, provider: FakeProvider) -> aios.LlmAgent[Remarks]:
    """The agent that reviews a file."""
    model = aios.Provider(
        name, os.environ.get("AIOS_LLM_API_KEY"), os.environ.get("AIOS_LLM_BASE_URL")
    )
    if name == "offline":
        model = aios.Provider("openai:offline", "key", provider.openai_url)
    return aios.LlmAgent(
        "reviewer",
        model,
        instructions=INSTRUCTIONS,
        output_type=Remarks,
        budget=aios.Budget(requests=5, output_tokens=10_000),
    )


def numbered(root: str, path: str) -> str:
    """The lines of a file with their numbers."""
    lines = (Path(root) / path).read_text().splitlines()
    return "".join(f"{number}: {line}\n" for number, line in enumerate(lines, 1))


async def review_with_model(
    context: aios.WorkflowContext, root: str, file: FileReview
) -> tuple[list[Remark], str]:
    """The remarks of the model on a file, and why there are none, if it did not review it."""
    if file.findings.secrets:
        return [], "it has likely secrets"
    if file.bytes > MAX_BYTES:
        return [], "it is too large"
    source = await context.step("read", numbered, root, file.path)
    try:
        found = await context.child("reviewer", f"{file.path}\n\n{source}")
    except aios.TaskError as error:
        return [], error.code
    return [Remark(**remark) for remark in found["remarks"][:MAX_REMARKS]], ""
