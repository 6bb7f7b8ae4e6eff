"""Subscriptions to events."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .records import Event

if TYPE_CHECKING:
    from typing import Self

    from .._aios import NativeEventStream
    from .connection import Connection


class EventStream:
    """A subscription: ``async for event in stream``.

    An event is acknowledged when the next one is requested, or when the ``async with`` block ends
    without an exception. An event whose handling raised an exception, or during which the process
    died or the client was closed, is delivered again if its group still exists.
    """

    def __init__(self, client: Connection, patterns: Sequence[str], group: str | None) -> None:
        self._client = client
        self._patterns = list(patterns)
        self._group = group
        self._native: NativeEventStream | None = None
        self._unread: Any = None

    async def __aenter__(self) -> Self:
        if self._native is None:
            self._native = await self._client._opened().subscribe(self._patterns, self._group)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        native, self._native = self._native, None
        unread, self._unread = self._unread, None
        # An event that no call has returned is delivered again.
        if native is not None and kind is None and unread is None:
            await native.ack()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        import asyncio

        await self.__aenter__()
        row, self._unread = self._unread, None
        if row is None and self._native is not None:
            next_row = self._native.next()
            try:
                row = await next_row
            except asyncio.CancelledError:
                # Cancelled after the event had arrived: return it from the next call.
                if next_row.done() and not next_row.cancelled() and next_row.exception() is None:
                    self._unread = next_row.result()
                raise
        if row is None:
            raise StopAsyncIteration
        return Event.from_envelope(row[1])
