"""pytest plugin: fixtures."""

from __future__ import annotations

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

    opened: list[sync.Runtime] = []

    def open_runtime(*args: Any, **kwargs: Any) -> sync.Runtime:
        runtime = sync.Runtime(*args, **kwargs)
        runtime.open()
        opened.append(runtime)
        return runtime

    yield open_runtime
    for runtime in reversed(opened):
        runtime.close()
