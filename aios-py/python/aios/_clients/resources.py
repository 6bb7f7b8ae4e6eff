"""Resources of a service: agents, types of agents, dead letters, and how a client gets tokens."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .._secret import Secret, exposed
from .records import AgentStatus


class ManagedAgent(NamedTuple):
    """An agent that a service manages.

    Attributes:
        agent: The agent. Its status is ``"waiting"`` while no process hosts it.
        version: The version of its desired state, which changes when it is replaced, deleted or
            restarted.
    """

    agent: AgentStatus
    version: str

    @classmethod
    def from_row(cls, row: tuple[dict[str, Any], str]) -> ManagedAgent:
        """Reads a row of the native module."""
        return cls(AgentStatus.from_row(row[0]), row[1])


class AgentType(NamedTuple):
    """A type of agents that processes host or have hosted.

    Attributes:
        name: Name of the type.
        config_schema: JSON Schema of the configuration, if agents of this type can be created.
        parameters_schema: JSON Schema of the parameters of tasks, if it is known.
        output_schema: JSON Schema of the output of tasks, if it is known.
    """

    name: str
    config_schema: dict[str, Any] | None
    parameters_schema: dict[str, Any] | None
    output_schema: dict[str, Any] | None


class DeadLetter(NamedTuple):
    """An event whose delivery was given up.

    Attributes:
        event_id: Id of the event.
        event_type: Type of the event.
        data: Data of the event.
        metadata: Metadata of the event.
        reason: Why it was given up.
        attempts: How often it was tried.
        first_failure: When it failed for the first time.
    """

    event_id: str
    event_type: str
    data: Any
    metadata: dict[str, Any]
    reason: str
    attempts: int
    first_failure: datetime.datetime

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> DeadLetter:
        """Reads a row of the native module."""
        failed = datetime.datetime.fromisoformat(row["first_failure"])
        return cls(**{**row, "first_failure": failed})


@dataclass(frozen=True)
class TokenGrant:
    """How a client gets tokens of an OAuth2 token endpoint, which are renewed before they expire.

    Attributes:
        url: URL of the token endpoint.
        subject: Id of the client, or name of the user.
        secret: Secret of the client, or password of the user.
        is_user: Whether it is a user of an endpoint for development (``grant_type=password``).
        scope: The permissions to ask for, separated by spaces.
        audience: The parameter ``audience``, which some providers need.
    """

    url: str
    subject: str
    secret: str | Secret = field(repr=False)
    is_user: bool = False
    scope: str | None = None
    audience: str | None = None

    @classmethod
    def client_credentials(
        cls,
        url: str,
        client_id: str,
        secret: str | Secret,
        *,
        scope: str | None = None,
        audience: str | None = None,
    ) -> TokenGrant:
        """Gets tokens for a client (``grant_type=client_credentials``)."""
        return cls(url, client_id, secret, False, scope, audience)

    @classmethod
    def password(
        cls, url: str, user: str, password: str | Secret, *, scope: str | None = None
    ) -> TokenGrant:
        """Gets tokens for a user of an endpoint for development (``grant_type=password``)."""
        return cls(url, user, password, True, scope)

    def _exposed(self) -> TokenGrant:
        """The grant as the native module takes it."""
        secret = exposed(self.secret) or ""
        return TokenGrant(self.url, self.subject, secret, self.is_user, self.scope, self.audience)
