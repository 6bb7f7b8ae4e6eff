"""Tests of workflows without a store, a broker or waiting: scripted agents, virtual time, and the
replay of saved journals against today's code.

    async def test_reminder() -> None:
        run = await (
            WorkflowTest(remind)
            .agent("mailer", lambda text: f"sent: {text}")
            .run(30)
        )
        assert run.result() == "sent: time is up"
        assert run.elapsed == 30 * 86_400
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from . import _aios
from ._client import Runtime, given
from ._errors import build
from ._records import Event, Failure, RecordedEvent, failure
from ._workflow import MISSING, Workflow

if TYPE_CHECKING:
    from typing import Self

I = TypeVar("I")
O = TypeVar("O")

__all__ = ["TestedRun", "WorkflowTest", "replay"]


class TestedRun(Generic[O]):
    """A run that was tested.

    Attributes:
        elapsed: How much virtual time has passed, in seconds.
        journal: The journal, to be saved and given to :func:`replay` later.
        failure: What went wrong; with the code ``RUN_STUCK`` that nothing scripted lets it go on.
    """

    __test__ = False

    def __init__(
        self,
        workflow: Workflow[Any, O],
        result: Any,
        failure: Failure | None,
        elapsed: float,
        journal: list[Event],
    ) -> None:
        self._workflow = workflow
        self._result = result
        self.failure = failure
        self.elapsed = elapsed
        self.journal = journal

    def result(self) -> O:
        """What the workflow returned.

        Raises:
            RunError: It failed, was cancelled or is stuck; the cause says why.
        """
        if self.failure is None:
            return self._workflow.read_result(self._result)
        code, message, details = self.failure
        kind = "run_cancelled" if code == "RUN_CANCELLED" else "run_failed"
        raise build(kind, code, f"the run failed: {message}", details, False, self.failure)


class WorkflowTest(Generic[I, O]):
    """A workflow under test, and what surrounds it."""

    __test__ = False

    def __init__(self, workflow: Workflow[I, O]) -> None:
        self._workflow = workflow
        self._agents: list[tuple[str, Callable[[Any], Any]]] = []
        self._children: list[tuple[str, Callable[[Any], Any]]] = []
        self._outside: list[tuple[float, str, str, Any]] = []

    def agent(self, agent_type: str, answer: Callable[[Any], Any]) -> Self:
        """Scripts the agents of a type: ``answer(parameters)`` returns what they answer, or raises."""
        self._agents.append((agent_type, answer))
        return self

    def child(self, workflow: str, answer: Callable[[Any], Any]) -> Self:
        """Scripts the runs of a child workflow: ``answer(input)`` returns its result, or raises."""
        self._children.append((workflow, answer))
        return self

    def signal(self, after: float, name: str, payload: Any = None) -> Self:
        """Sends a signal, ``after`` seconds from the start."""
        self._outside.append((after, "signal", name, payload))
        return self

    def cancel(self, after: float, reason: str = "") -> Self:
        """Asks for cancellation, ``after`` seconds from the start."""
        self._outside.append((after, "cancel", reason, None))
        return self

    def pause(self, after: float) -> Self:
        """Pauses the run, ``after`` seconds from the start."""
        self._outside.append((after, "pause", "", None))
        return self

    def resume(self, after: float) -> Self:
        """Lets the run go on, ``after`` seconds from the start."""
        self._outside.append((after, "resume", "", None))
        return self

    async def run(self, input: I = MISSING) -> TestedRun[O]:
        """Runs the workflow until it ends, or until nothing that is scripted can let it go on. Time
        passes only where everything waits, and then at once. Steps run for real."""
        host = Runtime(None, workflows=[self._workflow], threads=2)
        core = host._begin()
        try:
            result, failed, elapsed, events = await _aios.run_test(
                core,
                given(self._workflow),
                self._workflow.input(input),
                self._agents,
                self._children,
                self._outside,
            )
        finally:
            host._dispose()
        journal = [Event.from_envelope(event) for event in events]
        return TestedRun(self._workflow, result, failure(failed), elapsed, journal)

    def run_sync(self, input: I = MISSING) -> TestedRun[O]:
        """:meth:`run`, for tests that are not async."""
        return asyncio.run(self.run(input))


async def replay(workflow: Workflow[Any, Any], journal: Iterable[Event | RecordedEvent]) -> None:
    """Replays a saved journal. Nothing is executed that is not recorded.

    Raises:
        JournalMismatchError: Today's code would block the run; ``details`` name the operation, what
            is recorded and what was asked.
        InvalidDataError: The events are no journal.
    """
    envelopes = [
        _aios.dumps((event.event if isinstance(event, RecordedEvent) else event).to_envelope())
        for event in journal
    ]
    host = Runtime(None, workflows=[workflow], threads=1)
    core = host._begin()
    try:
        await _aios.replay(core, given(workflow), envelopes)
    finally:
        host._dispose()
