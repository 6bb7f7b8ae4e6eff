"""Clients of a service: the methods of a client, over HTTP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn, cast

from ._asgi import _built
from ._client import Client
from ._errors import ConfigurationError, RuntimeClosedError
from ._validation import check_text

if TYPE_CHECKING:
    from ._aios import NativeClient, NativeRemoteClient
    from ._projection import ProjectionHandle
    from ._workflow import Workflow


class RemoteClient(Client):
    """A client of a service over its HTTP API: it has the methods of :class:`Client`, and needs
    neither the store nor the broker.

    ``async with aios.RemoteClient("https://aios.example.com/api/v1", token=...) as client`` opens and
    closes it. A client belongs to the event loop and the process that opened it.

    Requests that can be repeated without a second effect are repeated after failures of the network
    and when the service asks to wait. Streams of events connect again after the last event.

    What differs from :class:`Client`:

    - :meth:`start` starts the latest version that the service has registered.
    - :meth:`task` has the retry policy of the service. :meth:`call` is a run too, so it is recorded.
    - :meth:`events` follows the log from now on, without a group. Events that were only published to
      the broker are not in the log.
    - Projections, :meth:`expire_runs` and :meth:`compact` need the store.

    Args:
        url: Where the API is mounted, such as ``https://aios.example.com/api/v1``.
        token: Sent as ``Authorization: Bearer``.
        api_key: Sent as ``X-API-Key``.
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
        token: str | None = None,
        api_key: str | None = None,
        workflows: Iterable[Workflow[Any, Any]] = (),
        timeout: float = 30.0,
        workers: int = 1,
    ) -> None:
        super().__init__(None, workflows=workflows, workers=workers)
        check_text("the URL of a service", url)
        check_text("a token", token)
        check_text("an API key", api_key)
        self._settings = (url, token, api_key, timeout)
        self._native_type = _built("NativeRemoteClient")
        self._remote: NativeRemoteClient | None = None

    async def open(self) -> None:
        """Asks the service who the caller is, and so whether it can be reached.

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
            raise RuntimeClosedError("the client is not open; use `async with`")
        # It has the methods that a client calls.
        return cast("NativeClient", self._remote)

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
