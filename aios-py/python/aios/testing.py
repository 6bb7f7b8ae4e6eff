"""Tests of workflows without a store, a broker or waiting: scripted agents, virtual time, and
replay of saved journals with the current code.

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
from ._clients.connection import to_native
from ._clients.records import Event, Failure, RecordedEvent, failure
from ._errors import ConfigurationError, build
from ._llm.agent import LlmAgent
from ._llm.conversation import envelopes
from ._llm.fakes import (
    FakeProvider,
    FakeReply,
    FakeRequest,
    FunctionModel,
    Recorded,
    SchemaModel,
    ScriptedModel,
    forbid_real_requests,
)
from ._runtime import Runtime
from ._types.validation import check_number, check_str
from ._workflows.definition import MISSING, ContinueAsNew, Workflow

if TYPE_CHECKING:
    from typing import Self

I = TypeVar("I")
O = TypeVar("O")

__all__ = [
    "FakeProvider",
    "FakeReply",
    "FakeRequest",
    "FunctionModel",
    "Recorded",
    "SchemaModel",
    "ScriptedModel",
    "TestedRun",
    "WorkflowTest",
    "forbid_real_requests",
    "replay",
]


class TestedRun(Generic[O]):
    """The outcome of a tested run.

    Attributes:
        elapsed: Virtual time that has passed, in seconds.
        journal: The journal, which can be saved and passed to :func:`replay`.
        failure: Why the run failed. ``RUN_STALLED`` means that it waits for something that was not
            scripted, and ``CONTINUED_AS_NEW`` that it continues as a new run, whose input is in the
            last event of the journal.
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
        """Returns the result of the workflow.

        Raises:
            RunError: The run failed, was cancelled, is stuck, or continues as a new one; ``__cause__``
                is its failure.
        """
        if self.failure is None:
            return self._workflow.read_result(self._result)
        code, message, details = self.failure
        kind = "run_cancelled" if code == "RUN_CANCELLED" else "run_failed"
        if code != ContinueAsNew.default_code:
            message = f"the run failed: {message}"
        raise build(kind, code, message, details, False, self.failure)


class WorkflowTest(Generic[I, O]):
    """A workflow under test with scripted agents, children and external events."""

    __test__ = False

    def __init__(self, workflow: Workflow[I, O]) -> None:
        self._workflow = _testable(workflow)
        self._agents: list[tuple[str, Callable[[Any], Any]]] = []
        self._children: list[tuple[str, Callable[[Any], Any]]] = []
        self._external: list[tuple[float, str, str, Any]] = []

    def agent(self, agent_type: str, answer: Callable[[Any], Any]) -> Self:
        """Scripts the agents of a type: ``answer(parameters)`` returns the answer or raises.

        Raises:
            ConfigurationError: ``answer`` is not a plain function.
        """
        _check_answer(answer, f"agent {agent_type!r}")
        self._agents.append((agent_type, answer))
        return self

    def child(self, workflow: str, answer: Callable[[Any], Any]) -> Self:
        """Scripts the runs of a child workflow: ``answer(input)`` returns the result or raises.

        Raises:
            ConfigurationError: ``answer`` is not a plain function.
        """
        _check_answer(answer, f"child {workflow!r}")
        self._children.append((workflow, answer))
        return self

    def signal(self, after: float, name: str, payload: Any = None) -> Self:
        """Sends a signal ``after`` seconds after the start. If no signal can have the name, the run
        fails with ``INVALID_SIGNAL_NAME`` before it begins."""
        self._add(after, "signal", name, payload)
        return self

    def cancel(self, after: float, reason: str = "") -> Self:
        """Requests cancellation ``after`` seconds after the start."""
        self._add(after, "cancel", reason, None)
        return self

    def pause(self, after: float) -> Self:
        """Pauses the run ``after`` seconds after the start."""
        self._add(after, "pause", "", None)
        return self

    def resume(self, after: float) -> Self:
        """Resumes the run ``after`` seconds after the start."""
        self._add(after, "resume", "", None)
        return self

    def _add(self, after: float, kind: str, name: str, payload: Any) -> None:
        check_number(after, "after")
        check_str("a reason" if kind == "cancel" else "the name of a signal", name)
        self._external.append((after, kind, name, payload))

    async def run(self, input: I = MISSING) -> TestedRun[O]:
        """Runs the workflow until it ends, or waits for something that is not scripted. When everything
        waits, virtual time jumps to the next timer or external event. Steps are executed."""
        host = Runtime(None, workflows=[self._workflow], threads=2)
        native = host._begin()
        try:
            result, failed, elapsed, events = await _aios.run_test(
                native,
                to_native(self._workflow),
                self._workflow.input(input),
                self._agents,
                self._children,
                self._external,
            )
        finally:
            host._dispose()
        journal = [Event.from_envelope(event) for event in events]
        return TestedRun(self._workflow, result, failure(failed), elapsed, journal)

    def run_sync(self, input: I = MISSING) -> TestedRun[O]:
        """Same as :meth:`run`, for tests that are not async."""
        return asyncio.run(self.run(input))


async def replay(workflow: Workflow[Any, Any], journal: Iterable[Event | RecordedEvent]) -> None:
    """Replays a saved journal. Executes nothing that is not recorded.

    Raises:
        JournalMismatchError: The current code would block the run; ``details`` names the operation,
            what is recorded and what was requested.
        InvalidDataError: The events are not a journal.
    """
    host = Runtime(None, workflows=[_testable(workflow)], threads=1)
    native = host._begin()
    try:
        await _aios.replay(native, to_native(workflow), envelopes(journal))
    finally:
        host._dispose()


def _testable(workflow: Workflow[I, O]) -> Workflow[I, O]:
    """The workflow.

    Raises:
        ConfigurationError: It is an agent over a language model, which is not written in Python.
    """
    if isinstance(workflow, LlmAgent):
        raise ConfigurationError(
            f"{workflow!r} is an agent over a language model: run it in a Runtime, with a model of "
            "aios.testing such as ScriptedModel"
        )
    return workflow


def _check_answer(answer: Callable[[Any], Any], what: str) -> None:
    from ._types.signature import is_async

    if not callable(answer) or is_async(answer):
        raise ConfigurationError(
            f"the answer of {what} is a plain function of one value, not {answer!r}"
        )
