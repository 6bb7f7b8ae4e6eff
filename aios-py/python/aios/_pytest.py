"""pytest plugin: fixtures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from . import sync


@pytest.fixture
def aios_runtime() -> Iterator[Callable[..., sync.Runtime]]:
    """Opens blocking runtimes, by default in memory, and closes them after the test.

    ``aios_runtime(agents=[...], workflows=[...])`` takes the arguments of :class:`aios.Runtime`.
    """
    from . import sync

    # Closes all, even after one that does not close cleanly.
    with contextlib.ExitStack() as opened:

        def open_runtime(*args: Any, **kwargs: Any) -> sync.Runtime:
            runtime = sync.Runtime(*args, **kwargs)
            runtime.open()
            opened.callback(runtime.close)
            return runtime

        yield open_runtime
