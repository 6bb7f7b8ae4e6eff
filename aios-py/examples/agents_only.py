"""Agents without an engine, for `python -m aios worker agents_only:app --processes 4`.

The broker's URL comes from the environment; workflows in Rust or Python that use the same broker
assign tasks to these agents.
"""

from __future__ import annotations

import os

import aios


@aios.agent("word_count")
def word_count(context: aios.TaskContext, text: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for word in text.lower().split():
        counts[word] = counts.get(word, 0) + 1
    return counts


def app() -> aios.Runtime:
    return aios.Runtime(None, os.environ["BROKER"], agents=[word_count])
