"""Iterators over a log, a journal or an output stream."""

from __future__ import annotations

import collections
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")


class Following(AsyncIterator[T]):
    """Yields the items of pages that are read one after another.

    Not an async generator, which ends when an await in it is cancelled: here the next call continues
    after the last item that was returned.
    """

    def __init__(
        self, read: Callable[[int], Awaitable[Iterable[tuple[int, T]] | None]], after: int
    ) -> None:
        """
        Args:
            read: Reads the items after a place, with their places; ``None`` at the end.
            after: The place after which to begin.
        """
        from asyncio import Lock

        self._read = read
        self._after = after
        self._page: collections.deque[tuple[int, T]] = collections.deque()
        self._has_ended = False
        #: Several calls at the same time get different items.
        self._lock = Lock()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        async with self._lock:
            while not self._page and not self._has_ended:
                page = await self._read(self._after)
                if page is None:
                    self._has_ended = True
                else:
                    self._page.extend(page)
            if self._has_ended:
                raise StopAsyncIteration
            self._after, item = self._page.popleft()
            return item

    async def aclose(self) -> None:
        """Ends the iteration, as that of an async generator."""
        self._has_ended = True
        self._page.clear()
