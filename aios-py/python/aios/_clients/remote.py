"""Clients of a service: the methods of a client, over HTTP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from .. import _aios
from .._aios import DEFAULTS
from .._errors import ConfigurationError, RuntimeClosedError
from .._secret import exposed
from .._service.asgi import _built
from .._types.validation import (
    as_texts,
    check_limit,
    check_number,
    check_str,
    check_text,
    check_texts,
)
from .client import Client
from .records import AgentStatus, Page
from .resources import AgentType, DeadLetter, ManagedAgent, TokenGrant

if TYPE_CHECKING:
    from .._aios import NativeClient, NativeRemoteClient
    from .._projection import ProjectionHandle
    from .._secret import Secret
    from .._workflows.definition import Workflow


class RemoteClient(Client):
    """A client of a service over its HTTP API: it has the methods of :class:`Client`, and needs
    neither the store nor the broker.

    ``async with aios.RemoteClient("https://aios.example.com/api/v1", token=...) as client`` opens and
    closes it. A client belongs to the event loop and the process that opened it.

    Requests that can be repeated without a second effect are repeated after failures of the network
    and when the service asks to wait. Event streams reconnect after the last event.

    What differs from :class:`Client`:

    - :meth:`start` starts the latest version that the service has registered.
    - :meth:`call` is a run too, so it is recorded.
    - :meth:`events` follows the log from now on, without a group. Events that were only published to
      the broker are not in the log.
    - Projections, :meth:`expire_runs`, :meth:`expire_streams` and :meth:`compact` need the store.

    It also manages agents as resources, and handles dead letters of the broker.

    Args:
        url: Where the API is mounted, such as ``https://aios.example.com/api/v1``.
        token: Sent as ``Authorization: Bearer``.
        api_key: Sent as ``X-API-Key``.
        token_grant: How to get tokens of an OAuth2 token endpoint, instead of ``token``.
        workflows: Workflows that :meth:`start` accepts, for their types. Others are started by name.
        timeout: How many seconds each attempt of a request may take.
        workers: Number of native threads.

    Raises:
        ConfigurationError: An argument is invalid, or this build of aios has no HTTP client.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | Secret | None = None,
        api_key: str | Secret | None = None,
        token_grant: TokenGrant | None = None,
        workflows: Iterable[Workflow[Any, Any]] = (),
        timeout: float = 30.0,
        workers: int = 1,
    ) -> None:
        super().__init__(None, workflows=workflows, workers=workers)
        check_str("the URL of a service", url)
        token, api_key = exposed(token), exposed(api_key)
        check_text("a token", token)
        check_text("an API key", api_key)
        check_number(timeout, "timeout")
        if token is not None and token_grant is not None:
            raise ConfigurationError("pass token or token_grant, not both")
        grant = None if token_grant is None else token_grant._exposed()
        self._settings = (url, token, api_key, grant, timeout)
        self._native_type = _built("NativeRemoteClient")
        self._remote: NativeRemoteClient | None = None

    async def open(self) -> None:
        """Asks the service for the caller, which also checks that the service can be reached.

        Raises:
            ConfigurationError: The URL or a credential is invalid, or the client is already open.
            ServiceError: The service can't be reached, or refuses the credentials.
        """
        native = self._begin()
        try:
            self._remote = remote = self._native_type(native, *self._settings)
            await remote.me()
        except BaseException:
            self._dispose()
            raise

    def _dispose(self, wait: float = 5.0) -> None:
        self._remote = None
        super()._dispose(wait)

    def _opened(self) -> NativeClient:
        if self._remote is None:
            raise RuntimeClosedError("this RemoteClient is not open; use `async with`")
        # It has the methods that a client calls.
        return cast("NativeClient", self._remote)

    def _service(self) -> NativeRemoteClient:
        self._opened()
        return cast("NativeRemoteClient", self._remote)

    async def create_agent(
        self, agent: str, name: str, config: Any = None, *, id: str | None = None
    ) -> ManagedAgent:
        """Creates an agent, which every process with a factory of its type hosts.

        Args:
            agent: Type of the agent.
            name: Its name.
            config: The configuration, which matches the schema of the type.
            id: Its id, which otherwise derives from type and name.

        Raises:
            ConfigurationError: The type or the name is invalid, or the configuration does not match.
            ServiceError: An agent with this id exists (``AGENT_EXISTS``), or the request failed.
        """
        check_str("the type of an agent", agent)
        check_str("the name of an agent", name)
        check_text("the id of an agent", id)
        row = await _aios.remote_create_agent(self._service(), agent, name, config, id)
        return ManagedAgent.from_row(row)

    async def agent(self, id: str) -> ManagedAgent:
        """An agent, with the version that a change can expect.

        Raises:
            AgentNotFoundError: There is no such agent.
        """
        check_str("the id of an agent", id)
        return ManagedAgent.from_row(await _aios.remote_agent(self._service(), id))

    async def replace_agent(
        self, id: str, name: str, config: Any = None, *, version: str = "*"
    ) -> ManagedAgent:
        """Gives an agent another name and another configuration.

        Args:
            id: Id of the agent.
            name: The name.
            config: The configuration.
            version: The version that it is expected to have; any by default.

        Raises:
            AgentNotFoundError: There is no such agent.
            ServiceError: It has another version (``PRECONDITION_FAILED``), or was deleted
                (``AGENT_DELETED``).
        """
        check_str("the id of an agent", id)
        check_str("the name of an agent", name)
        check_str("version", version)
        row = await _aios.remote_replace_agent(self._service(), id, name, config, version)
        return ManagedAgent.from_row(row)

    async def delete_agent(self, id: str, *, version: str = "*") -> AgentStatus:
        """Deletes an agent.

        Args:
            id: Id of the agent.
            version: The version that it is expected to have; any by default.

        Raises:
            AgentNotFoundError: There is no such agent.
            ServiceError: See :meth:`replace_agent`.
        """
        check_str("the id of an agent", id)
        check_str("version", version)
        return AgentStatus.from_row(await _aios.remote_delete_agent(self._service(), id, version))

    async def restart_agent(self, id: str) -> AgentStatus:
        """Lets every process that hosts an agent create it again.

        Raises:
            AgentNotFoundError: There is no such agent.
            ServiceError: It was deleted (``AGENT_DELETED``).
        """
        check_str("the id of an agent", id)
        return AgentStatus.from_row(await _aios.remote_restart_agent(self._service(), id))

    async def agent_types(self) -> list[AgentType]:
        """The types of agents that processes host or have hosted, with their schemas.

        Raises:
            ServiceError: The request failed.
        """
        return [AgentType(*row) for row in await _aios.remote_agent_types(self._service())]

    async def dead_letters(
        self,
        *,
        group: str | None = None,
        mailbox: str | None = None,
        after: str | None = None,
        limit: int = DEFAULTS.page_limit,
    ) -> Page[DeadLetter]:
        """A page of the dead letters of a group or a mailbox of the broker, the oldest first.

        Args:
            group: Name of the group, such as ``agents.<type>``.
            mailbox: Name of the mailbox, instead of a group.
            after: Where the page begins: ``next`` of the previous page.
            limit: Maximum number of letters, 1 to 10,000.

        Raises:
            ConfigurationError: Neither or both are given, or an argument is invalid.
            BrokerError: There is no such group or mailbox (``UNKNOWN_ADDRESS``).
            ServiceError: The last letter of the previous page has been redriven or purged
                (``INVALID_CURSOR``).
        """
        kind, name = _address(group, mailbox)
        check_texts(after=after)
        found = _aios.remote_dead_letters(self._service(), kind, name, after, check_limit(limit))
        rows, following = await found
        return Page([DeadLetter.from_row(row) for row in rows], following)

    async def redrive_dead_letters(
        self,
        *,
        group: str | None = None,
        mailbox: str | None = None,
        ids: Iterable[str] | None = None,
    ) -> int:
        """Sends dead letters back to where they came from; returns how many.

        Args:
            group: Name of the group.
            mailbox: Name of the mailbox, instead of a group.
            ids: Ids of their events; all letters by default.

        Raises:
            ConfigurationError: Neither or both are given, or an argument is invalid.
            BrokerError: There is no such group or mailbox (``UNKNOWN_ADDRESS``).
        """
        return await self._handle_dead_letters(group, mailbox, ids, False)

    async def purge_dead_letters(
        self,
        *,
        group: str | None = None,
        mailbox: str | None = None,
        ids: Iterable[str] | None = None,
    ) -> int:
        """Deletes dead letters; returns how many.

        Args:
            group: Name of the group.
            mailbox: Name of the mailbox, instead of a group.
            ids: Ids of their events; all letters by default.

        Raises:
            ConfigurationError: Neither or both are given, or an argument is invalid.
            BrokerError: There is no such group or mailbox (``UNKNOWN_ADDRESS``).
        """
        return await self._handle_dead_letters(group, mailbox, ids, True)

    async def _handle_dead_letters(
        self, group: str | None, mailbox: str | None, ids: Iterable[str] | None, purge: bool
    ) -> int:
        kind, name = _address(group, mailbox)
        chosen = None if ids is None else as_texts(ids, "ids")
        handled = _aios.remote_handle_dead_letters(self._service(), kind, name, chosen, purge)
        return await handled

    def projection_handle(self, name: str) -> ProjectionHandle:
        """Not available over HTTP.

        Raises:
            ConfigurationError: Always.
        """
        _unavailable("projection_handle")

    async def expire_runs(self, older_than: float, **options: Any) -> int:
        """Not available over HTTP.

        Raises:
            ConfigurationError: Always.
        """
        _unavailable("expire_runs")

    async def expire_streams(
        self, kind: Literal["requests", "outputs"], older_than: float, **options: Any
    ) -> int:
        """Not available over HTTP.

        Raises:
            ConfigurationError: Always.
        """
        _unavailable("expire_streams")

    async def compact(self) -> int:
        """Not available over HTTP.

        Raises:
            ConfigurationError: Always.
        """
        _unavailable("compact")


def _unavailable(method: str) -> NoReturn:
    raise ConfigurationError(
        f"{method} needs the store; use aios.Client with the store of the service"
    )


def _address(group: str | None, mailbox: str | None) -> tuple[str, str]:
    check_texts(group=group, mailbox=mailbox)
    if group is not None and mailbox is None:
        return "group", group
    if mailbox is not None and group is None:
        return "mailbox", mailbox
    raise ConfigurationError("dead letters belong to a group or a mailbox: pass one of them")
