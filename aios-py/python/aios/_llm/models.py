"""Models around other models, and models that an official client asks."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .._errors import ConfigurationError, ModelError
from .._types.validation import check_at_least, check_range
from .model import AnyModel, BoundModel, bind_model, bind_model_function

if TYPE_CHECKING:
    from .._aios import NativePieces, NativeResponseEvents


def _wrapped(model: object, kind: str, inner: list[BoundModel], settings: Any) -> BoundModel:
    from .._aios import dumps

    return BoundModel(model, inner[0].name, kind, dumps(settings), inner, None)


class FallbackModel:
    """Asks another model when one fails, times out, refuses, or has a context that is too short.

    A model that asks to wait is left out until then, as long as there is another one. A stream that
    fails after its first piece begins again with a reset. Its name is that of the first model; a
    budget reserves the cost of the most expensive one, and each needs a price.
    """

    def __init__(self, *models: AnyModel, on: Iterable[str] | None = None) -> None:
        """
        Args:
            models: The models, in the order in which they are asked.
            on: Codes of the errors after which the next model is asked, such as
                ``"MODEL_OVERLOADED"``; by default all that another model may not have.

        Raises:
            ConfigurationError: There is no model, or a code is unknown.
        """
        from .._aios import DEFAULTS

        if not models:
            raise ConfigurationError("a FallbackModel has at least one model")
        self._models = models
        self._on = None if on is None else list(on)
        unknown = set(self._on or ()) - set(DEFAULTS.model_errors)
        if unknown:
            raise ConfigurationError(f"no model fails with {', '.join(sorted(unknown))}")

    def bind(self) -> BoundModel:
        """Converts the model for the native module."""
        return _wrapped(self, "fallback", [bind_model(it) for it in self._models], {"on": self._on})


class Circuit:
    """The failures of a provider, as this process has seen them: it opens for ``open_for`` seconds
    after ``failures`` of them in a row. Models with the same object share it."""

    def __init__(self, failures: int = 5, open_for: float = 30.0) -> None:
        """
        Raises:
            ConfigurationError: An argument is out of range.
        """
        self.failures = check_at_least(failures, "failures", 1)
        if not 0 <= open_for < math.inf:
            raise ConfigurationError(f"open_for must be at least 0, not {open_for}")
        self.open_for = float(open_for)

    def __repr__(self) -> str:
        return f"aios.Circuit({self.failures}, {self.open_for})"


class CircuitBreakerModel:
    """Makes no requests for a while after several failures in a row: they fail with
    ``MODEL_CIRCUIT_OPEN``. Agents with the same object share its state."""

    def __init__(
        self,
        model: AnyModel,
        *,
        failures: int | None = None,
        open_for: float | None = None,
        circuit: Circuit | None = None,
    ) -> None:
        """
        Args:
            model: The model.
            failures: Number of failures in a row, at least 1; 5 by default.
            open_for: For how many seconds no requests are made; 30 by default.
            circuit: The circuit, which several models of a provider may share, instead of
                ``failures`` and ``open_for``.

        Raises:
            ConfigurationError: An argument is out of range, or there is a circuit as well as its
                settings.
        """
        if circuit is None:
            circuit = Circuit(
                5 if failures is None else failures, 30.0 if open_for is None else open_for
            )
        elif failures is not None or open_for is not None:
            raise ConfigurationError("failures and open_for are those of the circuit")
        elif not isinstance(circuit, Circuit):
            raise ConfigurationError(f"circuit is an aios.Circuit, not {circuit!r}")
        self._model = model
        self._circuit = circuit

    def bind(self) -> BoundModel:
        """Converts the model for the native module."""
        settings = {
            "circuit": id(self._circuit),
            "failures": self._circuit.failures,
            "open_for": self._circuit.open_for,
        }
        return _wrapped(self, "circuit_breaker", [bind_model(self._model)], settings)


class Rate:
    """The rate of requests that a provider accepts from this process: ``requests`` in each period
    of ``per`` seconds on average. All of them may come at once, and their places become free one by
    one, so a single period may have almost twice as many. Models with the same object share it."""

    def __init__(self, requests: int, per: float) -> None:
        """
        Raises:
            ConfigurationError: An argument is out of range.
        """
        self.requests = check_range(requests, "requests", 1_000_000)
        if not 0 < per < math.inf:
            raise ConfigurationError(f"per must be more than 0 seconds, not {per}")
        self.per = float(per)

    def __repr__(self) -> str:
        return f"aios.Rate({self.requests}, {self.per})"


class RateLimitModel:
    """Makes the requests to a model at a rate: each waits for its turn.

    A request that would wait too long fails with ``MODEL_RATE_LIMITED`` and the time after which it
    may be made again, so that the agent waits on a durable timer, and a :class:`FallbackModel` asks
    another model.
    """

    def __init__(self, model: AnyModel, rate: Rate, *, longest_wait: float = 10.0) -> None:
        """
        Args:
            model: The model.
            rate: The rate, which several models of a provider may share.
            longest_wait: How many seconds a request waits before it fails; less than the
                ``model_timeout`` of the agent.

        Raises:
            ConfigurationError: An argument is invalid.
        """
        if not isinstance(rate, Rate):
            raise ConfigurationError(f"rate is an aios.Rate, not {rate!r}")
        if not 0 <= longest_wait < math.inf:
            raise ConfigurationError(f"longest_wait must be at least 0, not {longest_wait}")
        self._model = model
        self._rate = rate
        self._longest_wait = float(longest_wait)

    def bind(self) -> BoundModel:
        """Converts the model for the native module."""
        settings = {
            "rate": id(self._rate),
            "requests": self._rate.requests,
            "per": self._rate.per,
            "longest_wait": self._longest_wait,
        }
        return _wrapped(self, "rate_limit", [bind_model(self._model)], settings)


class CachedModel:
    """Answers equal requests with the response to the first one, without usage.

    It keeps the latest complete responses in memory, up to its capacity. Agents with the same object
    share them.
    """

    def __init__(self, model: AnyModel, *, capacity: int = 1000) -> None:
        """
        Args:
            model: The model.
            capacity: Maximum number of responses that are kept, at least 1.

        Raises:
            ConfigurationError: ``capacity`` is out of range.
        """
        self._model = model
        self._capacity = check_at_least(capacity, "capacity", 1)

    def bind(self) -> BoundModel:
        """Converts the model for the native module."""
        return _wrapped(self, "cache", [bind_model(self._model)], {"capacity": self._capacity})


class ClientModel:
    """A model that an official client asks: ``openai.OpenAI``, ``anthropic.Anthropic``, their async
    versions, and those for clouds, such as ``openai.AsyncAzureOpenAI``.

    It asks for chat completions of ``openai`` and for messages of ``anthropic``. The client keeps its
    settings, apart from retries: the agent decides and records them.

    Responses are requested as streams if the agent streams. Those of ``anthropic`` always are, because
    its clients refuse requests for whole responses that may take longer than ten minutes. A stream of
    a client that blocks ends with its next piece after the call was cancelled; another request of it
    runs to its end.
    """

    def __init__(self, client: Any, model: str, *, name: str | None = None) -> None:
        """
        Args:
            client: The client.
            model: The provider's name of the model.
            name: Name of the model in price tables; the provider and the model by default.

        Raises:
            ConfigurationError: The client is neither one of ``openai`` nor of ``anthropic``.
        """
        packages = [kind.__module__.partition(".")[0] for kind in type(client).__mro__]
        known = [package for package in packages if package in ("openai", "anthropic")]
        if not known:
            raise ConfigurationError(
                f"{type(client).__qualname__} is no client of openai or anthropic; write a function "
                "that asks it"
            )
        self._protocol = known[0]
        self._model = model
        self._client = client.with_options(max_retries=0)
        self.name = name or f"{self._protocol}:{model}"

    def bind(self) -> BoundModel:
        """Converts the model for the native module."""
        is_async = any(kind.__name__.startswith("Async") for kind in type(self._client).__mro__)
        ask = self._ask_async if is_async else self._ask
        is_openai = self._protocol == "openai"
        # Many other servers enforce the schema of the output letter by letter, so that no tool is
        # called.
        with_tools = is_openai and _is_of_openai(self._client.base_url.host)
        return bind_model_function(
            ask,
            self,
            name=self.name,
            native_output=is_openai,
            native_output_with_tools=with_tools,
            in_pieces=True,
        )

    def _ask(self, request: dict[str, Any], pieces: NativePieces) -> Any:
        try:
            if not self._streams(pieces):
                return self._read(self._create(request))
            reader = self._reader()
            with self._create(request, stream=True) as events:
                for event in events:
                    response = reader.take(_dumped(event), pieces)
                    if response is not None:
                        return response
            return reader.end()
        except Exception as error:
            raise self._error(error) from error

    async def _ask_async(self, request: dict[str, Any], pieces: NativePieces) -> Any:
        try:
            if not self._streams(pieces):
                return self._read(await _awaited(self._create(request)))
            reader = self._reader()
            async with await _awaited(self._create(request, stream=True)) as events:
                async for event in events:
                    response = reader.take(_dumped(event), pieces)
                    if response is not None:
                        return response
            return reader.end()
        except Exception as error:
            raise self._error(error) from error

    def _streams(self, pieces: NativePieces) -> bool:
        """Whether a response is requested as a stream."""
        return pieces.wanted or self._protocol == "anthropic"

    def _reader(self) -> NativeResponseEvents:
        """Builds a response from the events of a stream."""
        from .. import _aios

        return _aios.NativeResponseEvents(self._protocol, self.name, _keys(self._client))

    def _create(self, request: dict[str, Any], *, stream: bool = False) -> Any:
        from .. import _aios

        if self._client.base_url.host not in ("localhost", "127.0.0.1", "::1"):
            _aios.check_real_requests(self.name)
        url = str(self._client.base_url)
        body, headers = _aios.model_request(self._protocol, self._model, url, request)
        for name, value in headers.items():
            # Those of the client are kept: the values of this header are a list.
            own = self._client.default_headers.get(name)
            headers[name] = f"{own},{value}" if isinstance(own, str) and own else value
        if stream:
            body["stream"] = True
        if self._protocol == "openai":
            if stream:
                body["stream_options"] = {"include_usage": True}
            create = self._client.chat.completions.create
        else:
            create = self._client.messages.create
        return create(**body, extra_headers=headers)

    def _read(self, response: Any) -> Any:
        from .. import _aios

        body = response.model_dump(mode="json", warnings=False)
        return _aios.model_response(self._protocol, self.name, body, _keys(self._client))

    def _error(self, error: Exception) -> Exception:
        """The error of the client as one of a model."""
        from .. import _aios

        response = getattr(error, "response", None)
        status = getattr(error, "status_code", None)
        body = getattr(error, "body", None)
        if isinstance(body, dict) and not (isinstance(status, int) and status >= 400):
            # An event of a stream that is an error. A client of openai has read what is in it.
            told = body if "error" in body else {"error": body}
            try:
                _aios.model_response(self._protocol, self.name, told, _keys(self._client))
            except Exception as error_of_stream:
                return error_of_stream
        if isinstance(status, int) and response is not None:
            delay = _delay(response.headers)
            keys = _keys(self._client)
            return _aios.model_status_error(self.name, status, delay, response.text, keys)
        kinds = _kinds(error)
        # While a stream is read, errors of the connection are those of the HTTP library.
        is_cut_off = "ReadError" in kinds and "APIConnectionError" not in kinds
        malformed = {"APIResponseValidationError", "JSONDecodeError", "RemoteProtocolError"}
        if is_cut_off or kinds & malformed:
            message = f"the response of {self.name} is malformed or cut off"
            return ModelError(message, code="MODEL_INVALID_RESPONSE")
        if kinds & {"APITimeoutError", "TimeoutException"}:
            return ModelError(f"{self.name} did not answer in time", code="MODEL_TIMEOUT")
        if "APIConnectionError" in kinds:
            return ModelError(f"{self.name} cannot be reached", code="MODEL_UNAVAILABLE")
        return error


async def _awaited(created: Any) -> Any:
    """The value of a call that may be awaitable."""
    return await created if inspect.isawaitable(created) else created


def _dumped(event: Any) -> Any:
    """An event of a stream as the provider has sent it."""
    return event.model_dump(mode="json", warnings=False, exclude_unset=True)


def _keys(client: Any) -> list[str]:
    """The keys of a client, which providers quote in errors, including clients for clouds."""
    names = ("api_key", "auth_token", "access_token", "aws_secret_key", "aws_session_token")
    keys = [getattr(client, name, None) for name in (*names, "_azure_ad_token")]
    return [key for key in keys if isinstance(key, str) and key]


def _is_of_openai(host: str) -> bool:
    """Whether a server is one of OpenAI, or of Azure for it."""
    known = ("openai.com", "openai.azure.com")
    return any(host == name or host.endswith(f".{name}") for name in known)


def _delay(headers: Mapping[str, str]) -> str | None:
    """The delay that a provider asks for, as in a header ``Retry-After``."""
    try:
        return str(float(headers["retry-after-ms"]) / 1000)
    except (KeyError, ValueError):
        return headers.get("retry-after")


def _kinds(error: BaseException) -> set[str]:
    """The names of the classes of an error and of its causes."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    cause = error.__cause__
    return kinds if cause is None else kinds | _kinds(cause)
