"""The conversation of a run of an agent over a language model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .._clients.records import Event, RecordedEvent
from .._errors import ConfigurationError, RunNotFoundError

if TYPE_CHECKING:
    from .._clients.client import Client
    from .._clients.handle import RunHandle
    from .._clients.records import RunStatus

#: Number of events that are read at once.
_PAGE = 1000
#: Number of runs that are read at once.
_RUNS = 100


@dataclass(frozen=True)
class Turn:
    """One response of the model.

    Attributes:
        messages: The messages of the conversation before the response.
        response: The response: its ``content``, ``finish_reason``, ``usage`` and ``model``.
        handovers: The names of the agents that had taken over: the last one made the response; the first
            agent if there is none.
    """

    messages: list[dict[str, Any]]
    response: dict[str, Any]
    handovers: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class ConversationRun:
    """A run of a conversation; see :meth:`Conversation.runs`.

    Attributes:
        run: The run.
        continues: The run that it continues: its ``run_id``, and ``turns``, the number of its turns that
            are kept. ``None`` for the first run.
    """

    run: RunStatus
    continues: dict[str, Any] | None


@dataclass(frozen=True)
class Conversation:
    """The turns of a run so far, and what they cost. A new run can continue them, or begin again at
    any turn, without paying for the earlier turns.

    Attributes:
        turns: The turns, in order.
        messages: All messages, including the last response.
        transcript: All messages of the run, including those that a :class:`Compaction` has replaced,
            without its summaries. Those that an earlier run replaced are in the transcript of the run that
            this one continues.
        spent: The sums of the run as settled in its log: ``requests``, ``usage``, ``cost`` and
            ``tool_calls``.
        instructions: The instructions with which the prompt replaced those of the agent, if it did.
        subject: The subject of the prompt, if it named one.
        continues: The run whose conversation this one continues: its ``run_id``, and ``turns``, the
            number of its turns that are kept.
        handovers: The names of the agents that have taken over by now; empty if the first agent has the
            conversation.
    """

    turns: list[Turn]
    messages: list[dict[str, Any]]
    transcript: list[dict[str, Any]]
    spent: dict[str, Any]
    instructions: str | None = None
    subject: str | None = None
    continues: dict[str, Any] | None = None
    handovers: list[str] = field(default_factory=list[str])
    _begun_with: list[str] = field(default_factory=list[str], repr=False)
    _results: dict[str, Any] | None = field(default=None, repr=False)
    _run_id: str | None = field(default=None, repr=False)

    @classmethod
    async def of(cls, run: RunHandle[Any]) -> Conversation:
        """Reads the conversation of a run.

        Raises:
            StoreError: The store failed.
        """
        events: list[RecordedEvent] = []
        while page := await run.journal(events[-1].version if events else 0, _PAGE):
            events.extend(page)
        return replace(cls.from_journal(events), _run_id=run.id)

    @staticmethod
    async def runs(client: Client, run_id: str) -> list[ConversationRun]:
        """Lists the runs of the conversation that a run belongs to, in the order of their starts: the
        first one, and all that continue it, directly or indirectly. A conversation that was continued or
        begun again more than once is a tree, whose branches ``continues`` tells. Runs that retention has
        removed are missing, and so are the runs before them.

        Reads the first event of each run that was started since the first run of the conversation.

        Args:
            client: An open client or runtime with the store.
            run_id: A run of the conversation.

        Raises:
            RunNotFoundError: There is no run with this id.
            StoreError: The store failed.
        """
        first = await (await client.handle(run_id)).status()
        seen = {run_id}
        while (origin := await _origin(client, first.id)) and origin["run_id"] not in seen:
            seen.add(origin["run_id"])
            try:
                before = await (await client.handle(origin["run_id"])).status()
            except RunNotFoundError:
                break
            if before.created_at > first.created_at:
                break
            first = before
        found: list[ConversationRun] = []
        known = {first.id}
        after: str | None = None
        while True:
            page = await client.runs(created_after=first.created_at, after=after, limit=_RUNS)
            rows = [ConversationRun(run, await _origin(client, run.id)) for run in page.rows]
            before_page = -1
            # Runs of one moment may stand in any order.
            while before_page != len(known):
                before_page = len(known)
                known |= {
                    it.run.id for it in rows if it.continues and it.continues["run_id"] in known
                }
            found += (it for it in rows if it.run.id in known)
            if page.next is None:
                return found
            after = page.next

    @classmethod
    def from_journal(cls, journal: Iterable[Event | RecordedEvent]) -> Conversation:
        """Reads the conversation from the events of a journal. Prompts that continue it do not say
        which run they continue: the events do not tell.

        Raises:
            InvalidDataError: An event cannot be read.
        """
        from .._aios import read_conversation

        row = read_conversation(envelopes(journal))
        turns = [Turn(*turn) for turn in row["turns"]]
        return cls(
            turns,
            row["messages"],
            row["transcript"],
            row["spent"],
            row["instructions"],
            row["subject"],
            row["continues"],
            row["handovers"],
            row["begun_with"],
            row["results"],
        )

    def continued(self, text: str, instructions: str | None = None) -> dict[str, Any]:
        """The prompt of a new run that continues the conversation with another message. It begins
        with the agent that has the conversation. It contains the results of the last response's calls. The result of a call that the journal has no
        result for says that it is unknown. It has the subject of the prompt with which this run began.

        Args:
            text: The message.
            instructions: Other instructions than those of the prompt with which this run began, which
                are kept only if the new run begins with the same agent.
        """
        message = {"role": "user", "content": [{"type": "text", "text": text}]}
        results = [] if self._results is None else [self._results]
        messages = [*self.messages, *results, message]
        return self._prompt(messages, instructions, self.handovers, len(self.turns))

    def from_turn(self, turn: int, instructions: str | None = None) -> dict[str, Any]:
        """The prompt of a new run that begins with this turn, from 1: the turns before it are kept,
        and the turn and those after it are requested again. It begins with the agent that made the
        response of the turn, and has the subject of the prompt with which this run began.

        Args:
            turn: Number of the turn.
            instructions: Other instructions than those of the prompt with which this run began, which
                are kept only if the new run begins with the same agent.

        Raises:
            ConfigurationError: The conversation has no such turn.
        """
        if not 1 <= turn <= len(self.turns):
            raise ConfigurationError(
                f"the conversation has {len(self.turns)} turns, no turn {turn}"
            )
        begun = self.turns[turn - 1]
        return self._prompt(begun.messages, instructions, begun.handovers, turn - 1)

    def _prompt(
        self,
        messages: list[dict[str, Any]],
        instructions: str | None,
        handovers: list[str],
        kept: int,
    ) -> dict[str, Any]:
        """A prompt with these messages, like that of the run, which keeps this many turns."""
        if instructions is None and handovers == self._begun_with:
            instructions = self.instructions
        link = {"run_id": self._run_id, "turns": kept}
        row = {
            "messages": messages,
            "instructions": instructions,
            "subject": self.subject,
            "handovers": handovers or None,
            "continues": None if self._run_id is None else link,
        }
        return {name: given for name, given in row.items() if given is not None}


async def _origin(client: Client, run_id: str) -> dict[str, Any] | None:
    """The run that a run continues, if any. Other workflows have other input."""
    journal = await (await client.handle(run_id)).journal(0, 1)
    given = journal[0].event.data.get("input") if journal else None
    continues = given.get("continues") if isinstance(given, dict) and "messages" in given else None
    return continues if isinstance(continues, dict) and "run_id" in continues else None


def envelopes(journal: Iterable[Event | RecordedEvent]) -> list[str]:
    """The events of a journal as JSON."""
    from .._aios import dumps

    events = (event.event if isinstance(event, RecordedEvent) else event for event in journal)
    return [dumps(event.to_envelope()) for event in events]
