"""Agents over language models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    NamedTuple,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from ._errors import ConfigurationError, InvalidParametersError
from ._model import AnyModel, BoundModel, bind_model
from ._tool import BoundTool, Tool, tool
from ._workflow import MISSING, Workflow

if TYPE_CHECKING:
    from ._records import RunStatus
    from ._retry import RetryPolicy

O = TypeVar("O")


class BoundLlmAgent(NamedTuple):
    """An agent as the native module takes it."""

    name: str
    model: BoundModel
    tools: list[BoundTool]
    output: tuple[str, str] | None
    model_retry: tuple[Any, ...] | None
    options: str


@dataclass(frozen=True)
class Price:
    """The price of a model in dollars for a million tokens."""

    input: float
    output: float
    cached_input: float | None = None


@dataclass(frozen=True)
class Budget:
    """Limits of each run of an agent. A limit that is ``None`` does not apply.

    Attributes:
        requests: Requests to models, including failed ones.
        input_tokens: Input tokens, including cached ones.
        output_tokens: Output tokens, including reasoning.
        cost: Dollars, according to ``prices``.
        tool_calls: Tool calls that run.
        wall_time: Seconds since the start of the run.
        soft_percent: Share of a limit, 1 to 100, at which the model is warned.
        at_limit: ``"fail"`` fails the run with ``BUDGET_EXCEEDED``; ``"ask"`` waits for the signal
            ``budget`` with ``{"decision": "raise", "limits": {...}}`` or ``{"decision": "stop"}``.
        prices: The prices of models by name, such as ``"openai:gpt-5"``.
        unknown_price: Whether a model without a price is an error if the cost is limited, or free.
    """

    requests: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None
    tool_calls: int | None = None
    wall_time: float | None = None
    soft_percent: int = 80
    at_limit: Literal["fail", "ask"] = "fail"
    prices: Mapping[str, Price] = field(default_factory=dict[str, Price])
    unknown_price: Literal["fail", "free"] = "fail"

    def to_json(self) -> dict[str, Any]:
        """The budget as the native module takes it."""
        prices = [
            (model, price.input, price.output, price.cached_input)
            for model, price in self.prices.items()
        ]
        return {
            "requests": self.requests,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost": self.cost,
            "tool_calls": self.tool_calls,
            "wall_time": self.wall_time,
            "soft_percent": self.soft_percent,
            "ask": self.at_limit == "ask",
            "prices": prices,
            "unknown_price_is_free": self.unknown_price == "free",
        }


class _Options(TypedDict, total=False):
    """The options of an agent, apart from the type of its output."""

    instructions: str | None
    tools: Iterable[Tool | Callable[..., Any]]
    budget: Budget | None
    streaming: bool
    version: int
    max_output_tokens: int | None
    temperature: float | None
    model_timeout: float
    max_turns: int
    max_faults: int
    model_retry: RetryPolicy | None
    max_identical_calls: int
    max_argument_bytes: int


class LlmAgent(Workflow[Any, O], Generic[O]):
    """An agent over a language model: a workflow whose model calls and tool calls are recorded.

    Pass it to a :class:`aios.Runtime` among its ``agents``, and start a run with a text, or with
    ``{"messages": [...]}``. The loop is the one of the Rust crate ``aios-llm``: a recorded call is
    never made again, whatever crashes.

    Args:
        name: ``[a-z][a-z0-9_]*``, at most 94 bytes: the name of the workflow.
        model: A name such as ``"anthropic:<model>"`` (see :class:`Provider`), a
            :class:`Provider`, a
            :class:`ClientModel`, a wrapper such as :class:`FallbackModel`, or a function that takes
            the request as a ``dict`` and returns a ``str`` or a :class:`ModelResponse`. A generator
            yields the pieces of a text, and may yield a :class:`ModelResponse` at the end.
        instructions: The system prompt.
        tools: Functions decorated with :func:`tool`, or plain functions.
        output_type: The type of the result: a dataclass, a ``TypedDict``, a model of pydantic or
            msgspec, or any other type with a schema. Text by default.
        budget: Limits of each run.
        streaming: Whether tokens, partial output and the progress of tools are written to the output
            stream ``tokens`` of the run; see :meth:`aios.RunHandle.stream`.
        version: From 1. Change it with the instructions or tools if runs of the earlier version have
            to continue unchanged.
        max_output_tokens: Maximum number of output tokens of each response.
        temperature: Sampling temperature.
        model_timeout: Timeout of one model call in seconds.
        model_retry: Retry policy of model calls; :class:`RetryPolicy` by default. A longer
            ``Retry-After`` of the provider is respected.
        max_turns: Maximum number of responses in one run.
        max_faults: How many consecutive responses may be faulty.
        max_identical_calls: How many of the latest ten calls may be identical.
        max_argument_bytes: Maximum size of the arguments of a call. Larger ones are a fault.

    Raises:
        ConfigurationError: An argument is invalid.
    """

    @overload
    def __init__(
        self: LlmAgent[str],
        name: str,
        model: AnyModel,
        *,
        output_type: None = None,
        **options: Unpack[_Options],
    ) -> None: ...

    @overload
    def __init__(
        self,
        name: str,
        model: AnyModel,
        *,
        output_type: type[O],
        **options: Unpack[_Options],
    ) -> None: ...

    def __init__(
        self,
        name: str,
        model: AnyModel,
        *,
        output_type: type[O] | None = None,
        **options: Unpack[_Options],
    ) -> None:
        from ._aios import DEFAULTS
        from ._convert import Converter
        from ._validation import as_list, check_at_least, check_name

        unknown = options.keys() - _Options.__annotations__.keys()
        if unknown:
            raise TypeError(f"LlmAgent has no option {', '.join(sorted(unknown))}")
        check_name(name, "the name of an agent")
        self.name = name
        self.version = check_at_least(options.get("version", 1), "version", 1)
        tools = as_list(options.get("tools", ()), "tools")
        self.tools = [made if isinstance(made, Tool) else tool(made) for made in tools]
        if not (isinstance(model, str) or callable(model) or hasattr(model, "bind")):
            raise ConfigurationError(
                f"a model is a name, a function or a model object, not {model!r}"
            )
        self.model = model
        try:
            self._output = Converter(str if output_type is None else output_type)
        except TypeError as error:
            raise ConfigurationError(f"agent {name}: {error}") from error
        self._output_type = output_type
        budget = options.get("budget")
        self._model_retry = options.get("model_retry")
        self._options: dict[str, Any] = {
            "instructions": options.get("instructions"),
            "version": self.version,
            "max_output_tokens": options.get("max_output_tokens"),
            "temperature": options.get("temperature"),
            "model_timeout": options.get("model_timeout", 300.0),
            "max_turns": options.get("max_turns", 50),
            "max_faults": options.get("max_faults", 3),
            "max_identical_calls": options.get("max_identical_calls", 3),
            "max_argument_bytes": options.get("max_argument_bytes", DEFAULTS.max_argument_bytes),
            "streaming": options.get("streaming", False),
            "budget": None if budget is None else budget.to_json(),
        }

    def input(self, value: Any) -> Any:
        """The prompt of a run.

        Raises:
            InvalidParametersError: It is missing.
        """
        if value is MISSING:
            raise InvalidParametersError(f"agent {self.name} requires a prompt", retryable=False)
        return value

    def read_result(self, value: Any) -> O:
        """Converts a result of a run to ``output_type``.

        Raises:
            InvalidResultError: It does not match the type.
        """
        from ._results import read_result

        return cast("O", read_result(self._output, value, f"the result of agent {self.name}"))

    def bind(self) -> BoundLlmAgent:
        """Converts the agent for the native module."""
        from ._aios import dumps

        output = None
        if self._output_type is not None:
            kind = getattr(self._output_type, "__name__", "output")
            output = (kind, dumps(_root_schema(self._output.schema)))
        return BoundLlmAgent(
            self.name,
            bind_model(self.model),
            [made.bind() for made in self.tools],
            output,
            None if self._model_retry is None else tuple(self._model_retry),
            dumps(self._options),
        )

    def __repr__(self) -> str:
        return f"<aios.LlmAgent {self.name}@{self.version}>"


def _root_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with the definition that it refers to at its root, because providers want an object
    there."""
    reference = schema.get("$ref")
    if not isinstance(reference, str):
        return schema
    definitions = schema.get("$defs", {})
    name = reference.rpartition("/")[2]
    return {**definitions[name], "$defs": definitions}


@dataclass(frozen=True)
class PendingDecision:
    """A decision that a run waits for: ``await run.signal(pending.signal, pending.approve())``.

    Attributes:
        signal: Name of the signal that carries the decision.
        tool: The tool.
        arguments: The exact arguments of the call.
        in_doubt: Present if the call was in progress at a crash: code and message. The answer is then
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
