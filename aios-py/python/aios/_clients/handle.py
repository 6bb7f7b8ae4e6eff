"""Handles of runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .._types.validation import check_limit, check_position, check_str
from .following import Following
from .output import OutputItem
from .records import RecordedEvent, RunStatus

if TYPE_CHECKING:
    from .._aios import NativeOutputStream, NativeRunHandle
    from .._workflows.definition import Workflow

O = TypeVar("O")


class RunHandle(Generic[O]):
    """A run, whichever process executes it. Dropping the handle does not affect the run."""

    __slots__ = ("_native", "_workflow")

    def __init__(self, native: NativeRunHandle, workflow: Workflow[Any, O] | None) -> None:
        self._native = native
        self._workflow = workflow

    @property
    def id(self) -> str:
        """Id of the run."""
        return self._native.id

    async def result(self) -> O:
        """Waits until the run ends and returns its result. Follows a run that continued as new.

        Raises:
            RunFailedError: The run failed; ``__cause__`` is its failure.
            RunCancelledError: The run was cancelled.
            RunBlockedError: The run cannot progress until something changes, usually its code.
        """
        value = await self._native.result()
        return value if self._workflow is None else self._workflow.read_result(value)

    async def status(self) -> RunStatus:
        """The status of the run, and what its workflow last reported."""
        return RunStatus.from_row(await self._native.status())

    async def signal(self, name: str, payload: Any = None) -> None:
        """Sends a signal. It is kept until the workflow waits for it.

        Args:
            name: Name of the signal.
            payload: Its payload; anything that can be serialised to JSON.

        Raises:
            RunEndedError: The run has ended.
            InvalidDataError: ``payload`` cannot be serialised to JSON.
        """
        check_str("the name of a signal", name)
        await self._native.signal(name, payload)

    async def cancel(self, reason: str = "") -> None:
        """Requests cancellation: the workflow is stopped at its current ``await``, and its
        compensations run.

        Raises:
            RunEndedError: The run has ended.
        """
        check_str("a reason", reason)
        await self._native.cancel(reason)

    async def terminate(self, reason: str = "") -> None:
        """Ends the run as cancelled at once, without the rest of its compensations, for example because one
        of them never ends. Prefer :meth:`cancel`, which lets them finish.

        Raises:
            RunEndedError: The run has ended.
        """
        check_str("a reason", reason)
        await self._native.terminate(reason)

    async def pause(self) -> None:
        """Pauses the run. Tasks already in flight continue, and their results are recorded.

        Raises:
            RunEndedError: The run has ended.
        """
        await self._native.pause()

    async def resume(self) -> None:
        """Resumes a paused run.

        Raises:
            RunEndedError: The run has ended.
        """
        await self._native.resume()

    async def journal(self, after: int = 0, limit: int = 1000) -> list[RecordedEvent]:
        """The run's events with a version above ``after``, at most ``limit``.

        Raises:
            ConfigurationError: ``after`` or ``limit`` is out of range.
        """
        check_position(after, "after")
        rows = await self._native.journal(after, check_limit(limit))
        return [RecordedEvent.from_row(row) for row in rows]

    def events(self, after: int = 0) -> AsyncIterator[RecordedEvent]:
        """Yields the run's events with a version above ``after``: first the existing ones, then new
        ones, up to the event that ends the run.

        Only the run with this id is followed, not the run that it continues as. If a wait is
        cancelled, the next one continues without a gap.

        Raises:
            RunNotFoundError: There is no such run.
            ConfigurationError: ``after`` is out of range.
        """

        native = self._native.reader()

        async def read(after: int) -> list[tuple[int, RecordedEvent]] | None:
            check_position(after, "after")
            rows = await native.events(after)
            if rows is None:
                return None
            found = (RecordedEvent.from_row(row) for row in rows)
            return [(recorded.version, recorded) for recorded in found]

        return Following(read, after)

    def stream(self, name: str, after: int = 0) -> AsyncIterator[OutputItem]:
        """Yields the items of an output stream of the run with an offset above ``after``: first the
        existing ones, then new ones, up to the end of the stream or of the run.

        A reader that continues with the offset of the last item that it has handled misses none. If a
        wait is cancelled, the next one continues without a gap.

        The items are those of the run with exactly this id, and end with it. A run that it continues as
        has its own streams; its id is that of :meth:`status`.

        Args:
            name: Name of the stream; ``"tokens"`` for what an :class:`LlmAgent` streams.
            after: Offset of the last item that was handled.

        Raises:
            RunNotFoundError: There is no such run.
            InvalidDataError: The name of the stream is invalid.
            ConfigurationError: ``after`` is out of range.
        """
        reader: NativeOutputStream | None = None

        async def read(after: int) -> list[tuple[int, OutputItem]] | None:
            nonlocal reader
            check_str("the name of a stream", name)
            check_position(after, "after")
            # Items that a cancelled read has taken are read again.
            current, reader = reader or self._native.stream(name, after), None
            rows = await current.next()
            reader = current
            if rows is None:
                return None
            return [
                (offset, OutputItem(offset, writer, value, not is_item))
                for offset, writer, is_item, value in rows
            ]

        return Following(read, after)

    async def fork(self, operation: int, new_id: str) -> RunHandle[O]:
        """Starts a new run that copies this run's journal up to an operation, and executes the
        current code from there.

        Args:
            operation: Number of the first operation that is not copied.
            new_id: Id of the new run.

        Raises:
            OperationNotFoundError: The journal has no such operation.
            RunExistsError: A run with the new id exists.
            ConfigurationError: ``operation`` is out of range.
        """
        check_str("a run id", new_id)
        check_position(operation, "operation")
        return RunHandle(await self._native.fork(operation, new_id), self._workflow)

    async def retry(self, new_id: str) -> RunHandle[O]:
        """Starts a new run that does the failed operation of this run again, with the current code.

        Results of earlier operations and all signals are kept; the failed operation and those with a
        higher number are done again. Compensations that this run has made are not undone.

        Args:
            new_id: Id of the new run.

        Raises:
            RunNotFailedError: The run has not failed.
            NoFailedOperationError: The run failed by its own code.
            RunExistsError: A run with the new id exists.
        """
        check_str("a run id", new_id)
        return RunHandle(await self._native.retry(new_id), self._workflow)

    def __repr__(self) -> str:
        return f"<aios.RunHandle {self.id}>"
