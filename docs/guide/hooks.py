"""Makes the pages, which are also read on GitHub and run as tests, fit the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
URL = "https://github.com/aios-rs/aios/blob/main"

FENCE = re.compile(r"^```rust[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HIDDEN = re.compile(r"^#(?: .*)?\n", re.MULTILINE)
OUTSIDE = re.compile(r"\]\(((?:\.\./)+[^)#]*)(#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Hides the lines of Rust that rustdoc hides, and links files outside the guide on GitHub."""
    folder = Path(page.file.abs_src_path).parent

    def shown(block: re.Match[str]) -> str:
        return "```rust\n" + HIDDEN.sub("", block[1]) + "```"

    def absolute(link: re.Match[str]) -> str:
        path = (folder / link[1]).resolve()
        if not path.exists():
            raise FileNotFoundError(f"{page.file.src_path} links {link[1]}, which does not exist")
        return f"]({URL}/{path.relative_to(REPOSITORY)}{link[2] or ''})"

    return OUTSIDE.sub(absolute, FENCE.sub(shown, markdown))
