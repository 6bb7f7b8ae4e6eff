"""Language models: those of providers, and functions."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from ._errors import ConfigurationError
from ._tool import BoundFunction, bind_function

#: The name of the environment variable with the key of a provider.
_KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}


class BoundModel(NamedTuple):
    """A model as the native module takes it."""

    name: str
    provider: str | None
    invoke: BoundFunction | None
    native_output: bool
    tools: bool


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
        input_tokens: Number of input tokens.
        output_tokens: Number of output tokens.
    """

    text: str = ""
    tool_calls: Sequence[ToolCall] = ()
    input_tokens: int = 0
    output_tokens: int = 0


def to_response(value: Any, name: str) -> Any:
    """A response as JSON: from a text, a :class:`ModelResponse`, or JSON of the native module."""
    from ._aios import dumps

    if isinstance(value, Mapping):
        return {"model": name, **cast("Mapping[str, Any]", value)}
    if isinstance(value, str):
        value = ModelResponse(value)
    if not isinstance(value, ModelResponse):
        raise TypeError(f"a model returns a str, an aios.ModelResponse or a dict, not {value!r}")
    content: list[dict[str, Any]] = []
    if value.text:
        content.append({"type": "text", "text": value.text})
    for call in value.tool_calls:
        arguments = call.arguments if isinstance(call.arguments, str) else dumps(call.arguments)
        content.append(
            {"type": "tool_call", "id": call.id, "name": call.name, "arguments": arguments}
        )
    usage = {"input_tokens": value.input_tokens, "output_tokens": value.output_tokens}
    reason = "tool_calls" if value.tool_calls else "stop"
    return {"model": name, "content": content, "finish_reason": reason, "usage": usage}


@dataclass(frozen=True)
class Provider:
    """A model of a provider, or of a server that speaks its protocol.

    Attributes:
        model: ``"openai:<model>"`` or ``"anthropic:<model>"``.
        api_key: The key; by default that of ``OPENAI_API_KEY`` or ``ANTHROPIC_API_KEY``.
        base_url: The base URL, as the official clients of the protocol expect it.
        timeout: Timeout of a request in seconds; 300 by default.
    """

    model: str
    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = None
    timeout: float | None = None

    def bind(self) -> BoundModel:
        """Converts the model for the native module.

        Raises:
            ConfigurationError: The provider is unknown, or there is no key.
        """
        from ._aios import dumps

        protocol, _, model = self.model.partition(":")
        if protocol not in _KEYS or not model:
            raise ConfigurationError(
                f"{self.model!r} is not a model: write 'openai:<model>' or 'anthropic:<model>', or "
                "pass a function"
            )
        key = self.api_key if self.api_key is not None else os.environ.get(_KEYS[protocol])
        if key is None and self.base_url is None:
            raise ConfigurationError(
                f"{self.model} needs a key: set {_KEYS[protocol]}, or pass "
                "aios.Provider(model, api_key=...)"
            )
        settings = {
            "protocol": protocol,
            "model": model,
            "api_key": key or "",
            "base_url": self.base_url,
            "timeout": self.timeout,
        }
        return BoundModel(self.model, dumps(settings), None, True, True)


#: A model that is a function.
Model = Callable[[dict[str, Any]], Any]


def _responding(model: Model, name: str) -> Callable[..., Any]:
    """The function that a model is, with its result as JSON."""
    from ._signature import is_async

    if is_async(model):

        async def respond_async(request: dict[str, Any]) -> Any:
            return to_response(await model(request), name)

        return respond_async

    def respond(request: dict[str, Any]) -> Any:
        return to_response(model(request), name)

    return respond


def bind_model(model: str | Provider | Model) -> BoundModel:
    """Converts a model for the native module.

    Raises:
        ConfigurationError: The provider is unknown, or there is no key.
    """
    if isinstance(model, str):
        model = Provider(model)
    if isinstance(model, Provider):
        return model.bind()
    name = getattr(model, "name", None) or f"python:{getattr(model, '__name__', 'model')}"
    return BoundModel(name, None, bind_function(_responding(model, name), None), True, True)
