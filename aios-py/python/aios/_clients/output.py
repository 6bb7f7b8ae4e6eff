"""Output streams of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .._aios import NativeOutputWriter


class OutputItem(NamedTuple):
    """An item of an output stream, or a reset.

    Attributes:
        offset: Place in the stream. Offsets increase, with gaps.
        writer: The writer: the id of a task, the idempotency key of a step, or ``workflow``.
        value: The item; ``None`` for a reset.
        is_reset: What this writer wrote before is void: it begins again. A reader that has not read
            the stream from its beginning also gets this for a writer that has written nothing before.
    """

    offset: int
    writer: str
    value: Any
    is_reset: bool = False


class OutputStream:
    """Writes to a named output stream of a run, for what it shows while it works. Items are stored in
    batches, and are not part of the journal."""

    __slots__ = ("_native",)

    def __init__(self, native: NativeOutputWriter) -> None:
        self._native = native

    def write(self, item: Any) -> None:
        """Writes an item. It does not wait.

        Args:
            item: Anything that can be serialised to JSON, at most 256 KiB.

        Raises:
            InvalidDataError: ``item`` cannot be serialised to JSON, is too large, or too much output
                waits to be stored.
        """
        self._native.write(item)

    def end(self) -> None:
        """Ends the stream: readers read no further. A stream that is not ended ends with its run."""
        self._native.end()
