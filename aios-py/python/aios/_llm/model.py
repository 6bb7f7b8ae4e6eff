"""Language models: those of providers, and functions. Wrappers are in `models.py`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast, runtime_checkable

from .._errors import ConfigurationError
from .._secret import Secret, exposed
from .functions import BoundFunction, bind_function

if TYPE_CHECKING:
    from .._aios import NativePieces

#: The name of the environment variable with the key of a provider; ``None`` if it needs no key.
_KEYS = {
    "openai": "OPENAI_API_KEY",
    "openai-responses": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "gemini": "GEMINI_API_KEY",
    "bedrock": "AWS_BEARER_TOKEN_BEDROCK",
    "ollama": None,
}


#: Why a response ended, apart from reasons that only one provider has.
_FINISH_REASONS = ("stop", "tool_calls", "length", "refusal")


class BoundModel(NamedTuple):
    """A model as the native module takes it.

    Attributes:
        owner: The model. Agents that have the same object share it. It is kept here, because the
            identity of an object that is gone may be that of another one.
        name: Name of the model.
        kind: ``"provider"``, ``"function"``, or the kind of a wrapper or of a model for tests.
        settings: The settings of this kind, as JSON.
        models: The wrapped models.
        invoke: The function.
    """

    owner: object
    name: str
    kind: str
    settings: str
    models: list[BoundModel]
    invoke: BoundFunction | None

    @property
    def key(self) -> int:
        """Identity of the model."""
        return id(self.owner)

    def functions(self) -> list[BoundFunction]:
        """The functions of the model and of those that it wraps."""
        own = [] if self.invoke is None else [self.invoke]
        return [*own, *(found for model in self.models for found in model.functions())]


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool in the response of a model.

    Attributes:
        name: Name of the tool.
        arguments: The arguments; a string is taken as JSON text.
        id: Id of the call.
    """

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict[str, Any])
    id: str = "call"


@dataclass(frozen=True)
class ModelResponse:
    """The response of a model that is a Python function.

    Attributes:
        text: The text.
        tool_calls: Calls of tools.
        input_tokens: Number of input tokens, including cached ones.
        output_tokens: Number of output tokens, including reasoning.
        cached_input_tokens: Number of input tokens that came from the provider's cache; a part of
            ``input_tokens``.
        reasoning_tokens: Number of output tokens of reasoning; a part of ``output_tokens``.
        reasoning: The text of the model's reasoning.
        finish_reason: Why the response ended: ``"stop"``, ``"tool_calls"``, ``"length"`` if it was cut
            off at the maximum number of tokens, ``"refusal"``, or the provider's word for another reason,
            which makes an agent take the response for incomplete. By default, it is complete.
    """

    text: str = ""
    tool_calls: Sequence[ToolCall] = ()
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    reasoning: str = ""
    finish_reason: str | None = None


def to_response(value: Any, name: str) -> Any:
    """A response as JSON: from a text, a :class:`ModelResponse`, or JSON of the native module."""
    from .._aios import dumps

    if isinstance(value, Mapping):
        return {"model": name, **cast("Mapping[str, Any]", value)}
    if isinstance(value, str):
        value = ModelResponse(value)
    if not isinstance(value, ModelResponse):
        raise TypeError(f"a model returns a str, an aios.ModelResponse or a dict, not {value!r}")
    content: list[dict[str, Any]] = []
    if value.reasoning:
        content.append({"type": "reasoning", "text": value.reasoning})
    if value.text:
        content.append({"type": "text", "text": value.text})
    for call in value.tool_calls:
        arguments = call.arguments if isinstance(call.arguments, str) else dumps(call.arguments)
        content.append(
            {"type": "tool_call", "id": call.id, "name": call.name, "arguments": arguments}
        )
    usage = {
        "input_tokens": value.input_tokens,
        "cached_input_tokens": value.cached_input_tokens,
        "output_tokens": value.output_tokens,
        "reasoning_tokens": value.reasoning_tokens,
    }
    reason = value.finish_reason or ("tool_calls" if value.tool_calls else "stop")
    known = reason if reason in _FINISH_REASONS else {"other": reason}
    return {"model": name, "content": content, "finish_reason": known, "usage": usage}


@dataclass(frozen=True)
class AwsCredentials:
    """Credentials of AWS."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls) -> AwsCredentials | None:
        """Those of ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY`` and ``AWS_SESSION_TOKEN``."""
        key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
        if not key or not secret:
            return None
        return cls(key, secret, os.environ.get("AWS_SESSION_TOKEN") or None)


@dataclass(frozen=True)
class Provider:
    """A model of a provider, or of a server that speaks its protocol.

    Attributes:
        model: ``"openai:<model>"`` (chat completions), ``"openai-responses:<model>"``,
            ``"anthropic:<model>"``, ``"gemini:<model>"``, ``"bedrock:<model>"`` or
            ``"ollama:<model>"``.
        api_key: The key; by default that of ``OPENAI_API_KEY``, ``ANTHROPIC_API_KEY``,
            ``GEMINI_API_KEY`` or ``AWS_BEARER_TOKEN_BEDROCK``. Ollama needs none.
        base_url: The base URL, as the official clients of the protocol expect it.
        timeout: Timeout of a request in seconds; 240 by default.
        region: The region of Amazon Bedrock; ``AWS_REGION`` by default.
        aws_credentials: Credentials that sign the requests to Amazon Bedrock instead of a key; those
            of the environment by default if there is no key.
    """

    model: str
    api_key: str | Secret | None = field(default=None, repr=False)
    base_url: str | None = None
    timeout: float | None = None
    region: str | None = None
    aws_credentials: AwsCredentials | None = None

    def bind(self) -> BoundModel:
        """Converts the model for the native module.

        Raises:
            ConfigurationError: The provider is unknown, or there is no key or region.
        """
        from .._aios import dumps

        protocol, _, model = self.model.partition(":")
        if protocol not in _KEYS or not model:
            raise ConfigurationError(
                f"{self.model!r} is not a model: write '<provider>:<model>' with one of "
                f"{', '.join(_KEYS)} as the provider, or pass a function"
            )
        variable = _KEYS[protocol]
        # A variable that is set to nothing is no key.
        key = exposed(self.api_key) or None
        if key is None and variable is not None:
            key = os.environ.get(variable) or None
        credentials, region = self._aws(protocol, key)
        is_known = key is not None or credentials is not None or self.base_url is not None
        if variable is not None and not is_known:
            raise ConfigurationError(
                f"{self.model} needs a key: set {variable}, or pass "
                "aios.Provider(model, api_key=...)"
            )
        settings = {
            "protocol": protocol,
            "model": model,
            "api_key": key or "",
            "base_url": self.base_url,
            "timeout": self.timeout,
            "region": region,
            "aws_credentials": credentials,
        }
        return BoundModel(self, self.model, "provider", dumps(settings), [], None)

    def _aws(
        self, protocol: str, key: str | None
    ) -> tuple[tuple[str, str, str | None] | None, str | None]:
        """The credentials and the region for Amazon Bedrock."""
        if protocol != "bedrock":
            return None, None
        region = self.region or os.environ.get("AWS_REGION")
        if not region:
            raise ConfigurationError(
                f"{self.model} needs a region: set AWS_REGION, or pass "
                "aios.Provider(model, region=...)"
            )
        credentials = self.aws_credentials
        if credentials is None and key is None:
            credentials = AwsCredentials.from_environment()
        if credentials is None:
            return None, region
        return (
            (credentials.access_key_id, credentials.secret_access_key, credentials.session_token),
            region,
        )


#: A model that is a function. It takes the request as a ``dict``, and returns a ``str`` or a
#: :class:`ModelResponse`, or yields the pieces of a text.
ModelFunction = Callable[[dict[str, Any]], Any]


@runtime_checkable
class Model(Protocol):
    """A model that is an object: a :class:`Provider`, a :class:`ClientModel`, a wrapper such as
    :class:`FallbackModel`, or a model of :mod:`aios.testing`."""

    def bind(self) -> BoundModel:
        """Converts the model for the native module."""
        ...


#: The kinds of models that an :class:`aios.LlmAgent` takes.
AnyModel = str | Model | ModelFunction


def bind_model(model: AnyModel) -> BoundModel:
    """Converts a model for the native module.

    Raises:
        ConfigurationError: The provider is unknown, or there is no key; it is not a model.
    """
    if isinstance(model, str):
        return Provider(model).bind()
    if isinstance(model, Model) and not isinstance(model, type):
        return model.bind()
    if not callable(model):
        raise ConfigurationError(f"a model is a name, a function or a model object, not {model!r}")
    return bind_model_function(model, model)


def bind_model_function(
    model: Callable[..., Any],
    owner: object,
    *,
    name: str | None = None,
    native_output: bool = True,
    native_output_with_tools: bool | None = None,
    tools: bool = True,
    in_pieces: bool = False,
) -> BoundModel:
    """Converts a function for the native module. Its output with tools is like that without them
    unless ``native_output_with_tools`` says otherwise. With ``in_pieces``, the function takes what
    its pieces are passed to as well, and its result is JSON."""
    from .._aios import dumps

    own: str = getattr(model, "name", "") or f"python:{getattr(model, '__name__', 'model')}"
    name = name or own
    respond: Callable[..., Any] = model
    if not in_pieces:
        respond, in_pieces = _responding(model, name)
    with_tools = native_output if native_output_with_tools is None else native_output_with_tools
    settings = {
        "native_output": native_output,
        "native_output_with_tools": with_tools,
        "tools": tools,
        "in_pieces": in_pieces,
    }
    invoke = bind_function(respond, None)
    return BoundModel(owner, name, "function", dumps(settings), [], invoke)


def _responding(model: ModelFunction, name: str) -> tuple[Callable[..., Any], bool]:
    """The function that a model is, with its result as JSON, and whether it responds in pieces."""
    from .._types.signature import is_async, is_async_generator, is_generator

    if is_async_generator(model):

        async def respond_in_pieces(request: dict[str, Any], pieces: NativePieces) -> Any:
            text: list[str] = []
            last: Any = None
            async for piece in model(request):
                last = _take(piece, last, text, pieces)
            return to_response(_joined(last, text), name)

        return respond_in_pieces, True
    if is_generator(model):

        def respond_in_plain_pieces(request: dict[str, Any], pieces: NativePieces) -> Any:
            text: list[str] = []
            last: Any = None
            for piece in model(request):
                last = _take(piece, last, text, pieces)
            return to_response(_joined(last, text), name)

        return respond_in_plain_pieces, True
    if is_async(model):

        async def respond_async(request: dict[str, Any]) -> Any:
            return to_response(await model(request), name)

        return respond_async, False

    def respond(request: dict[str, Any]) -> Any:
        return to_response(model(request), name)

    return respond, False


def _take(piece: Any, last: Any, text: list[str], pieces: NativePieces) -> Any:
    """Takes what a model yields, and returns the response that it has yielded so far."""
    if last is not None:
        raise TypeError("a model yields nothing after its aios.ModelResponse")
    if not isinstance(piece, str):
        return piece
    if piece:
        text.append(piece)
        pieces.text(piece)
    return None


def _joined(last: Any, text: list[str]) -> Any:
    """The whole response of a model that responds in pieces."""
    if last is None:
        return "".join(text)
    if isinstance(last, ModelResponse) and not last.text:
        return replace(last, text="".join(text))
    return last
