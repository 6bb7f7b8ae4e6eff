"""The HTTP API as an ASGI application, and on a socket of its own."""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import quote

from .. import _aios, _trace
from .._errors import ConfigurationError
from .._types.validation import as_list, as_texts, check_at_least, check_text

if TYPE_CHECKING:
    from .._aios import NativeApi, NativeClient, NativeExchange
    from .._clients.client import Client
    from .settings import HttpSettings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
#: The headers of W3C Trace Context.
_TRACE_HEADERS = (b"traceparent", b"tracestate")
#: Characters that need no escape in a path.
_PLAIN = "/:@!$&'()*+,;=~"
#: Ids of requests that are taken from clients.
_REQUEST_ID = re.compile("[A-Za-z0-9_.:-]{1,100}")


class ApiKey(NamedTuple):
    """A key that a caller sends as ``X-API-Key``. The service knows only its hash.

    A key must be random and at least 128 bits long, for example ``secrets.token_hex(32)``.

    Attributes:
        hash: :meth:`hash_of` the key: SHA-256 as 64 hexadecimal digits.
        subject: Whose key it is; it becomes ``user_id`` of the events that the caller causes.
        permissions: What the caller may do: ``resource:action`` such as ``runs:read`` or ``runs:*``,
            or ``*`` for everything.
        expires_at: When the key ends, with a time zone; never by default.
    """

    hash: str
    subject: str
    permissions: Sequence[str] = ()
    expires_at: datetime.datetime | None = None

    @staticmethod
    def hash_of(key: str) -> str:
        """The hash of a key.

        Raises:
            ConfigurationError: This build of aios has no HTTP API.
        """
        return cast("str", _built("hash_api_key")(key))


class TokenIssuer(NamedTuple):
    """An issuer of JSON Web Tokens, which callers send as ``Authorization: Bearer``.

    The caller is ``sub``. Texts of ``scope``, ``scp`` and ``permissions`` that are permissions are
    granted, and those of the ``roles`` that are known here.

    Attributes:
        issuer: What ``iss`` must be.
        audience: What ``aud`` must be or contain.
        keys: Path of a file with the key set of the issuer (JWKS), which may be replaced while the
            service runs, or the URL of the key set, which begins with ``https://``. By default, the URL is
            that of the discovery document of the issuer (OpenID Connect). Keys are fetched again when
            tokens name others.
        leeway: Difference between clocks that ``exp`` and ``nbf`` tolerate, in seconds.
        roles: Permissions of each role that the claim ``roles`` may name.
    """

    issuer: str
    audience: str
    keys: str | None = None
    leeway: float = 30.0
    roles: Mapping[str, Sequence[str]] = {}


class _Key(NamedTuple):
    """A key as the native module takes it."""

    hash: str
    subject: str
    permissions: list[str]
    expires_at: int | None


class _Issuer(NamedTuple):
    """An issuer as the native module takes it."""

    issuer: str
    audience: str
    keys: str | None
    leeway: float
    roles: dict[str, list[str]]


class _Options(NamedTuple):
    """Options as the native module takes them."""

    keys: list[_Key]
    issuers: list[_Issuer]
    allow_loopback: bool
    max_body_bytes: int
    request_timeout: float
    stream_lifetime: float
    rate_limit: tuple[int, float] | None
    cors_origins: list[str]


class Asgi:
    """An ASGI application that serves the HTTP API of a runtime; see :func:`asgi`."""

    def __init__(
        self, runtime: Client, options: _Options, prefix: str, *, health: bool, metrics: bool
    ) -> None:
        self._runtime = runtime
        self._options = options
        self._metrics = metrics
        self._native = self._api(prefix, health=health, metrics=metrics)
        self._servers: list[NativeApi] = []

    def _api(self, prefix: str, *, health: bool, metrics: bool = False) -> NativeApi:
        return cast("NativeApi", _built("NativeApi")(prefix, health, metrics, *self._options))

    async def listen(
        self, address: str, *, prefix: str = "/api/v1", accept_delay: float = 0.0
    ) -> str:
        """Serves the API on a socket too, from native threads, until the runtime is closed. Its health
        is at ``/health/live``, ``/health/ready`` and ``/health/startup``, and its metrics are at
        ``/metrics`` if the application has them.

        Args:
            address: ``host:port``; a port of 0 stands for a free one.
            prefix: Path of the API.
            accept_delay: How many seconds connections are accepted and requests are served after the
                runtime began to close. Meanwhile ``/health/ready`` answers that the process is not
                ready, so that a load balancer sends requests to others.

        Returns:
            The URL of the API.

        Raises:
            ConfigurationError: Nothing can listen there, or the prefix is invalid.
            RuntimeClosedError: The runtime is not open.
        """
        return await self._listen(address, prefix, accept_delay, metrics=self._metrics)

    async def _listen(
        self, address: str, prefix: str, accept_delay: float, *, metrics: bool
    ) -> str:
        """Same as :meth:`listen`, with ``/metrics`` if wanted, also if the application has none."""
        api = self._api(prefix, health=True, metrics=metrics)
        bound = await api.listen(self._runtime._opened(), address, accept_delay)
        self._servers.append(api)
        return f"http://{bound}{prefix}"

    def _set_limits(self, http: HttpSettings) -> None:
        """Sets limits of requests, including requests in progress."""
        for api in (self._native, *self._servers):
            api.set_limits(http.max_body_bytes, http.request_timeout, _rate(http))

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serves a request, or opens and closes the runtime with the server."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        else:
            raise ConfigurationError(f"aios.asgi serves no {scope['type']!r}")

    async def _live(self, receive: Receive, send: Send) -> None:
        """Opens the runtime unless the program has opened it, and closes what was opened here."""
        await receive()
        opens = self._runtime._native is None
        try:
            if opens:
                await self._runtime.open()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": f"{error}"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            if opens:
                await self._runtime.close()
        except Exception as error:
            await send({"type": "lifespan.shutdown.failed", "message": f"{error}"})
            return
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        import asyncio

        native = self._runtime._native
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        if native is None:
            await _refuse(scope, send)
            return
        more = message.get("more_body", False)
        exchange = self._begin(native, scope, message.get("body", b""), more)
        answering = asyncio.ensure_future(_answer(exchange, send))
        listening = asyncio.ensure_future(_listen(exchange, receive, more))
        # The request ends when the last reference to the exchange does.
        del exchange
        try:
            await asyncio.wait({answering, listening}, return_when=asyncio.FIRST_COMPLETED)
            done = answering if answering.done() else listening
        finally:
            answering.cancel()
            listening.cancel()
            await asyncio.gather(answering, listening, return_exceptions=True)
        done.result()

    def _begin(
        self, native: NativeClient, scope: Mapping[str, Any], body: bytes, more: bool
    ) -> NativeExchange:
        root = quote(scope.get("root_path", ""), safe=_PLAIN).rstrip("/")
        path = _path(scope, root)
        query = scope.get("query_string", b"").decode("latin-1")
        client = scope.get("client")
        return self._native.request(
            native,
            scope["method"],
            f"{path}?{query}" if query else path,
            _headers(scope),
            None if client is None else (str(client[0]), int(client[1] or 0)),
            root,
            body,
            more,
        )


def _headers(scope: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """The headers of a request. The trace is that of the span in which the program serves it, if there is
    one, because that is the caller of what the request starts."""
    headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    span = _trace.span_headers()
    if span is None:
        return headers
    parent, state = span
    headers = [it for it in headers if it[0].lower() not in _TRACE_HEADERS]
    headers.append((b"traceparent", parent.encode()))
    if state:
        headers.append((b"tracestate", state.encode()))
    return headers


def _path(scope: Mapping[str, Any], root: str) -> str:
    """The path of a request below the path at which the application is mounted, as it was sent."""
    raw = scope.get("raw_path")
    path = quote(scope["path"], safe=_PLAIN) if raw is None else raw.decode("latin-1")
    if root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return path or "/"


async def _answer(exchange: NativeExchange, send: Send) -> None:
    status, headers, body = await exchange.head()
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if body is not None:
        await send({"type": "http.response.body", "body": body})
        return
    while (part := await exchange.next()) is not None:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _listen(exchange: NativeExchange, receive: Receive, more: bool) -> None:
    """Passes on the body of the request, and returns when the client is gone."""
    while (message := await receive())["type"] != "http.disconnect":
        if more:
            more = message.get("more_body", False)
            await exchange.feed(message.get("body", b""), more)


async def _refuse(scope: Mapping[str, Any], send: Send) -> None:
    text = (
        '{"error":{"code":"RUNTIME_CLOSED","message":"the runtime that serves the API is not open",'
        '"details":{}},"meta":{"request_id":"%s","timestamp":"%s"}}'
    )
    id = _request_id(scope)
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None).isoformat() + "Z"
    headers = [
        (b"content-type", b"application/json"),
        (b"retry-after", b"1"),
        (b"x-request-id", id.encode()),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": (text % (id, now)).encode()})


def _request_id(scope: Mapping[str, Any]) -> str:
    """The id that the client gave the request, as the API takes it, or a new one."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    text = bytes(given).decode("latin-1")
    return text if _REQUEST_ID.fullmatch(text) else str(uuid.uuid4())


async def listen_for_health(
    runtime: Client, address: str, accept_delay: float, *, metrics: bool
) -> str:
    """Serves the health of a process without an API on a socket, and ``/metrics`` if wanted; see
    :meth:`Asgi.listen`."""
    api = cast("NativeApi", _built("NativeApi").health_alone(metrics))
    bound = await api.listen(runtime._opened(), address, accept_delay)
    return f"http://{bound}/health/ready"


def asgi_of(runtime: Client, http: HttpSettings) -> Asgi:
    """The API with the limits of settings."""
    return asgi(
        runtime,
        max_body_bytes=http.max_body_bytes,
        request_timeout=http.request_timeout,
        rate_limit=_rate(http),
    )


def record_metrics() -> None:
    """Begins to record the metrics of this process."""
    _built("record_metrics")()


def _rate(http: HttpSettings) -> tuple[int, float] | None:
    limit = http.rate_limit
    return None if limit is None else (limit.requests, limit.per)


def asgi(
    runtime: Client,
    *,
    prefix: str = "",
    health: bool = False,
    metrics: bool = False,
    api_keys: Iterable[ApiKey] = (),
    token_issuers: Iterable[TokenIssuer] = (),
    allow_loopback: bool | None = None,
    max_body_bytes: int = 2 * 1024 * 1024,
    request_timeout: float = 30.0,
    stream_lifetime: float = 600.0,
    rate_limit: tuple[int, float] | None = None,
    cors_origins: Iterable[str] = (),
) -> Asgi:
    """The HTTP API of a runtime or client as an ASGI application, to mount into FastAPI or Starlette::

        app = FastAPI(lifespan=lifespan)  # opens and closes the runtime
        app.mount("/api/v1", aios.asgi(runtime, api_keys=[...]))

    Requests are answered by native threads; bodies and events are streamed with bounded buffers, and a
    request whose client is gone ends. If an ASGI server runs the application itself, it opens the
    runtime at its start and closes it at its end.

    Args:
        runtime: A runtime or client with a store. It belongs to the event loop of the server.
        prefix: Path before all paths of the API, such as ``/api/v1``; none by default.
        health: Whether to serve ``/health/live``, ``/health/ready`` and ``/health/startup`` too, before
            the prefix and without credentials.
        metrics: Whether to serve ``/metrics`` too, as OpenMetrics text, before the prefix and without
            credentials. The metrics of the whole process are recorded from this call on, so call it before
            the runtime is opened.
        api_keys: Keys of callers.
        token_issuers: Issuers of tokens of callers.
        allow_loopback: Whether callers on the same machine need no credentials and may do everything.
            The default is ``True`` if there are neither keys nor issuers. Pass ``False`` behind a proxy on
            the same machine.
        max_body_bytes: Largest body of a request.
        request_timeout: How many seconds a request may take.
        stream_lifetime: After how many seconds an event stream ends; its client then reconnects.
        rate_limit: How many requests in how many seconds a caller may send; unlimited by default.
        cors_origins: Origins whose web pages may call the API from a browser, such as
            ``https://console.example``. Requests from pages of any other origin but that of the API itself
            are refused, whatever a middleware of the application permits.

    Raises:
        ConfigurationError: An option is invalid, or this build of aios has no HTTP API.
    """
    from .._clients.client import Client

    if not isinstance(runtime, Client):
        raise ConfigurationError(f"expected an aios.Runtime or aios.Client, not {runtime!r}")
    keys = [_key(key) for key in as_list(api_keys, "api_keys")]
    issuers = [_issuer(issuer) for issuer in as_list(token_issuers, "token_issuers")]
    if allow_loopback is None:
        allow_loopback = not keys and not issuers
    if runtime._store is None:
        raise ConfigurationError("the HTTP API needs a store; pass `store=` to the runtime")
    options = _Options(
        keys,
        issuers,
        allow_loopback,
        check_at_least(max_body_bytes, "max_body_bytes", 1),
        request_timeout,
        stream_lifetime,
        rate_limit,
        as_texts(cors_origins, "cors_origins"),
    )
    check_text("prefix", prefix)
    if metrics:
        record_metrics()
    return Asgi(runtime, options, prefix, health=health, metrics=metrics)


def _key(key: Any) -> _Key:
    if not isinstance(key, ApiKey):
        raise ConfigurationError(f"api_keys: expected an aios.ApiKey, not {type(key).__name__}")
    micros = None
    if key.expires_at is not None:
        if key.expires_at.tzinfo is None:
            raise ConfigurationError("ApiKey.expires_at must have a time zone")
        micros = (key.expires_at - _EPOCH) // datetime.timedelta(microseconds=1)
    return _Key(key.hash, key.subject, _permissions(key.permissions), micros)


def _issuer(issuer: Any) -> _Issuer:
    if not isinstance(issuer, TokenIssuer):
        kind = type(issuer).__name__
        raise ConfigurationError(f"token_issuers: expected an aios.TokenIssuer, not {kind}")
    roles = {role: _permissions(texts) for role, texts in issuer.roles.items()}
    name, audience, keys, leeway, _ = issuer
    return _Issuer(name, audience, None if keys is None else str(keys), leeway, roles)


def _permissions(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise ConfigurationError(f"permissions are a list: pass [{texts!r}] instead of {texts!r}")
    return as_list(texts, "permissions")


def _built(name: str, feature: str = "service") -> Any:
    """A part of the native module that not every build has."""
    found = getattr(_aios, name, None)
    if found is None:
        raise ConfigurationError(f"this build of aios was made without the feature `{feature}`")
    return found
