"""Models that make no requests, and a provider on this machine; public in :mod:`aios.testing`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from .._errors import ModelError
from .conversation import envelopes
from .model import BoundModel, ModelFunction, ModelResponse, bind_model_function, to_response

if TYPE_CHECKING:
    from typing import Self

    from .._clients.records import Event, RecordedEvent


class ScriptedModel:
    """A model for an :class:`aios.LlmAgent` that gives an exact sequence of responses.

    Attributes:
        requests: The requests so far, in order.
    """

    __test__ = False

    def __init__(
        self, *responses: str | ModelResponse | Exception, name: str = "test:scripted"
    ) -> None:
        """
        Args:
            responses: Texts and responses, which are returned, and exceptions, which are raised.
            name: Name of the model in price tables.
        """
        self.name = name
        self.requests: list[dict[str, Any]] = []
        self._responses = list(responses)

    async def __call__(self, request: dict[str, Any]) -> str | ModelResponse:
        self.requests.append(request)
        if not self._responses:
            raise ModelError(
                f"request {len(self.requests)} has no response in the script",
                code="MODEL_UNEXPECTED_REQUEST",
            )
        response = self._responses.pop(0)
        if isinstance(response, Exception):
            raise response
        return response

    def assert_finished(self) -> None:
        """Checks that every response was requested.

        Raises:
            AssertionError: Responses are left.
        """
        assert not self._responses, f"{len(self._responses)} responses were never requested"


class FunctionModel:
    """A model that is a function, with a name and capabilities of your choice."""

    __test__ = False

    def __init__(
        self,
        function: ModelFunction,
        *,
        name: str = "test:function",
        native_output: bool = True,
        tools: bool = True,
    ) -> None:
        """
        Args:
            function: Takes the request, and returns a ``str`` or a :class:`aios.ModelResponse`.
            name: Name of the model in price tables.
            native_output: Whether the model follows an output schema.
            tools: Whether the model calls tools.
        """
        self.name = name
        self._function = function
        self._native_output = native_output
        self._tools = tools

    def bind(self) -> BoundModel:
        """Converts the model for the native module."""
        return bind_model_function(
            self._function,
            self,
            name=self.name,
            native_output=self._native_output,
            tools=self._tools,
        )


class SchemaModel:
    """A model that calls every tool once, with arguments that its schema accepts, and then answers
    with output that the schema of the output accepts, or with a text."""

    __test__ = False

    def bind(self) -> BoundModel:
        """Converts the model for the native module."""
        return BoundModel(self, "test:schema", "schema", "{}", [], None)


class Recorded:
    """A model that answers from the journal of a run: the same requests get the same responses.

    Any production run can so be replayed offline, even with other tools. A request that the journal
    does not contain fails with ``MODEL_UNEXPECTED_REQUEST``. An agent asks it for structured output as it
    asked the recorded model.
    """

    __test__ = False

    def __init__(self, journal: Iterable[Event | RecordedEvent]) -> None:
        """
        Args:
            journal: The events of a run, as from :meth:`aios.RunHandle.journal`.
        """
        self._journal = envelopes(journal)

    def bind(self) -> BoundModel:
        """Converts the model for the native module."""
        from .._aios import dumps

        settings = dumps({"journal": self._journal})
        return BoundModel(self, "test:recorded", "recorded", settings, [], None)


@dataclass(frozen=True)
class FakeReply:
    """A reply of a :class:`FakeProvider`; made by its class methods."""

    _row: dict[str, Any]

    @classmethod
    def response(cls, response: str | ModelResponse) -> FakeReply:
        """A response."""
        return cls({"kind": "response", "response": to_response(response, "")})

    @classmethod
    def cut_off(cls, response: str | ModelResponse, pieces: int = 0) -> FakeReply:
        """A response whose connection breaks: of a stream after this many pieces, of any other
        response in the middle of the body."""
        row = to_response(response, "")
        return cls({"kind": "cut_off", "response": row, "pieces": pieces})

    @classmethod
    def stalled(cls, response: str | ModelResponse, pieces: int = 0) -> FakeReply:
        """A response that stops: a stream after this many pieces, any other response before it
        begins. The connection stays open until the client gives up."""
        row = to_response(response, "")
        return cls({"kind": "stalled", "response": row, "pieces": pieces})

    @classmethod
    def status(cls, status: int, message: str) -> FakeReply:
        """An error with this status."""
        return cls({"kind": "status", "status": status, "message": message})

    @classmethod
    def rate_limited(cls, retry_after: float) -> FakeReply:
        """Status 429 with the header ``Retry-After``, in seconds that are rounded up."""
        return cls({"kind": "rate_limited", "retry_after": float(retry_after)})

    @classmethod
    def overloaded(cls) -> FakeReply:
        """Status 529."""
        return cls({"kind": "overloaded"})

    @classmethod
    def context_overflow(cls) -> FakeReply:
        """Status 400 because the request is longer than the context of the model."""
        return cls({"kind": "context_overflow"})

    @classmethod
    def malformed(cls) -> FakeReply:
        """Status 200 with a body that is not JSON."""
        return cls({"kind": "malformed"})

    @classmethod
    def hang(cls) -> FakeReply:
        """No reply at all, until the client gives up."""
        return cls({"kind": "hang"})


class FakeRequest(NamedTuple):
    """A request that a :class:`FakeProvider` received.

    Attributes:
        path: Path, for example ``/v1/messages``.
        headers: The headers, with names in lower case.
        body: The body; ``None`` if it is not JSON.
    """

    path: str
    headers: dict[str, str]
    body: Any


def _request(row: dict[str, Any]) -> FakeRequest:
    return FakeRequest(row["path"], dict(row["headers"]), row["body"])


def _reply(reply: str | ModelResponse | FakeReply) -> dict[str, Any]:
    return (reply if isinstance(reply, FakeReply) else FakeReply.response(reply))._row


class FakeProvider:
    """A server on a free port of this machine that speaks the protocols of OpenAI, Anthropic, Gemini
    and Amazon Bedrock, including streams. It answers with a script of replies, faults included, or
    with a function.

    Example::

        with FakeProvider(FakeReply.rate_limited(1), "Paris") as provider:
            model = aios.Provider("openai:any", base_url=provider.openai_url)
    """

    __test__ = False

    def __init__(
        self,
        *replies: str | ModelResponse | FakeReply,
        respond: Callable[[FakeRequest], str | ModelResponse | FakeReply] | None = None,
    ) -> None:
        """
        Args:
            replies: The replies, in order. A request without a reply gets status 500.
            respond: Makes the reply to a request, in a thread of the server; instead of ``replies``.

        Raises:
            TypeError: There are both replies and a function.
            OSError: No port can be opened.
        """
        from .._aios import NativeFakeProvider

        if replies and respond is not None:
            raise TypeError("a FakeProvider takes replies or a function, not both")
        function = None if respond is None else lambda row: _reply(respond(_request(row)))
        self._native = NativeFakeProvider([_reply(reply) for reply in replies], function)

    @property
    def openai_url(self) -> str:
        """Base URL for OpenAI clients."""
        return self._native.openai_url

    @property
    def anthropic_url(self) -> str:
        """Base URL for Anthropic clients."""
        return self._native.anthropic_url

    @property
    def gemini_url(self) -> str:
        """Base URL for clients of Gemini."""
        return self._native.gemini_url

    @property
    def bedrock_url(self) -> str:
        """Base URL for clients of Amazon Bedrock."""
        return self._native.bedrock_url

    @property
    def requests(self) -> list[FakeRequest]:
        """The requests so far, in order."""
        return [_request(row) for row in self._native.requests()]

    def push(self, reply: str | ModelResponse | FakeReply) -> None:
        """Adds a reply to the script."""
        self._native.push(_reply(reply))

    def assert_finished(self) -> None:
        """Checks that every reply was requested.

        Raises:
            AssertionError: Replies are left.
        """
        left = self._native.replies_left()
        assert not left, f"{left} replies of the provider were never requested"

    def close(self) -> None:
        """Stops the server."""
        self._native.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def forbid_real_requests(forbidden: bool = True) -> None:
    """Forbids or allows requests to real providers in this process. They are allowed by default.

    Forbid them at the start of tests: a model that was not replaced then fails with
    ``MODEL_REQUEST_FORBIDDEN`` instead of spending money. Requests to this machine remain allowed, and
    those that a function makes as a model are not checked.
    """
    from .. import _aios

    _aios.forbid_real_requests(forbidden)
