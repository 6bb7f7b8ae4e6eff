"""Decisions that runs of agents over language models wait for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from .._clients.records import RunStatus


@dataclass(frozen=True)
class PendingDecision:
    """A decision that a run waits for: ``await run.signal(pending.signal, pending.approve())``.

    Attributes:
        signal: Name of the signal that carries the decision.
        tool: The tool.
        arguments: The exact arguments of the call.
        in_doubt: Present if the outcome of the call is unknown: code and message. The answer is then
            :meth:`done`, :meth:`repeat` or :meth:`fail`, otherwise :meth:`approve`, :meth:`reject` or
            :meth:`edit`.
        refused: Why the last signal was not accepted.
    """

    signal: str
    tool: str
    arguments: Any
    in_doubt: Mapping[str, str] | None = None
    refused: str | None = None

    def approve(self) -> dict[str, Any]:
        """The call runs."""
        return {"decision": "approve"}

    def reject(self, reason: str) -> dict[str, Any]:
        """The call does not run, and the model gets the reason."""
        return {"decision": "reject", "reason": reason}

    def edit(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The call runs with other arguments."""
        return {"decision": "edit", "arguments": dict(arguments)}

    def done(self, result: str) -> dict[str, Any]:
        """The call in doubt has happened, with this result for the model."""
        return {"resolution": "done", "result": result}

    def repeat(self) -> dict[str, Any]:
        """The call in doubt has not happened, and runs again."""
        return {"resolution": "repeat"}

    def fail(self, reason: str) -> dict[str, Any]:
        """The call in doubt failed, and the model gets the reason."""
        return {"resolution": "fail", "reason": reason}


def pending_decisions(status: RunStatus) -> list[PendingDecision]:
    """The decisions that a run of an :class:`LlmAgent` waits for, from :meth:`RunHandle.status`."""
    progress = status.progress
    if not isinstance(progress, Mapping):
        return []
    rows: list[dict[str, Any]] = cast("Mapping[str, Any]", progress).get("pending_decisions", [])
    return [PendingDecision(**row) for row in rows]
