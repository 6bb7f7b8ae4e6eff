"""The conversation of a run of an agent over a language model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._clients.records import Event, RecordedEvent
from .._errors import ConfigurationError

if TYPE_CHECKING:
    from .._clients.handle import RunHandle

#: Number of events that are read at once.
_PAGE = 1000


@dataclass(frozen=True)
class Turn:
    """One response of the model.

    Attributes:
        messages: The messages of the conversation before the response.
        response: The response: its ``content``, ``finish_reason``, ``usage`` and ``model``.
    """

    messages: list[dict[str, Any]]
    response: dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """The turns of a run so far, and what they cost. A new run can continue them, or begin again at
    any turn, without paying for the earlier turns.

    Attributes:
        turns: The turns, in order.
        messages: All messages, including the last response.
        transcript: All messages, including those that a :class:`Compaction` has replaced, without its
            summaries.
        spent: The sums of the run as settled in its log: ``requests``, ``usage``, ``cost`` and
            ``tool_calls``.
    """

    turns: list[Turn]
    messages: list[dict[str, Any]]
    transcript: list[dict[str, Any]]
    spent: dict[str, Any]
    _results: dict[str, Any] | None = field(default=None, repr=False)

    @classmethod
    async def of(cls, run: RunHandle[Any]) -> Conversation:
        """Reads the conversation of a run.

        Raises:
            StoreError: The store failed.
        """
        events: list[RecordedEvent] = []
        while page := await run.journal(events[-1].version if events else 0, _PAGE):
            events.extend(page)
        return cls.from_journal(events)

    @classmethod
    def from_journal(cls, journal: Iterable[Event | RecordedEvent]) -> Conversation:
        """Reads the conversation from the events of a journal.

        Raises:
            InvalidDataError: An event cannot be read.
        """
        from .._aios import read_conversation

        row = read_conversation(envelopes(journal))
        turns = [Turn(messages, response) for messages, response in row["turns"]]
        return cls(turns, row["messages"], row["transcript"], row["spent"], row["results"])

    def continued(self, text: str) -> dict[str, Any]:
        """The prompt of a new run that continues the conversation with another message. It
        contains the results of the last response's calls. The result of a call that the journal has no
        result for says that it is unknown."""
        message = {"role": "user", "content": [{"type": "text", "text": text}]}
        results = [] if self._results is None else [self._results]
        return {"messages": [*self.messages, *results, message]}

    def from_turn(self, turn: int, instructions: str | None = None) -> dict[str, Any]:
        """The prompt of a new run that begins with this turn, from 1: the turns before it are kept,
        and the turn and those after it are requested again.

        Args:
            turn: Number of the turn.
            instructions: Other instructions than those of the agent.

        Raises:
            ConfigurationError: The conversation has no such turn.
        """
        if not 1 <= turn <= len(self.turns):
            raise ConfigurationError(
                f"the conversation has {len(self.turns)} turns, no turn {turn}"
            )
        prompt: dict[str, Any] = {"messages": self.turns[turn - 1].messages}
        return prompt if instructions is None else {**prompt, "instructions": instructions}


def envelopes(journal: Iterable[Event | RecordedEvent]) -> list[str]:
    """The events of a journal as JSON."""
    from .._aios import dumps

    events = (event.event if isinstance(event, RecordedEvent) else event for event in journal)
    return [dumps(event.to_envelope()) for event in events]
