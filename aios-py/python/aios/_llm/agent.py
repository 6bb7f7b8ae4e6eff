"""Agents over language models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
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

from .._errors import ConfigurationError, InvalidParametersError
from .._retry import retry_row
from .._types.validation import as_list, check_at_least, check_name
from .._workflows.definition import MISSING, Workflow
from .budget import Budget, SubjectBudget
from .exact import is_exact as schema_says_all
from .functions import BoundFunction, bind_check
from .guardrail import BoundGuardrail, Guardrail
from .model import AnyModel, BoundModel, bind_model
from .options import check_options
from .tool import BoundTool, Tool, tool

if TYPE_CHECKING:
    from .._retry import RetryPolicy

O = TypeVar("O")
T = TypeVar("T")


class BoundHandover(NamedTuple):
    """An agent that can take over, as the native module takes it."""

    name: str
    description: str
    agent: BoundLlmAgent


class BoundLlmAgent(NamedTuple):
    """An agent as the native module takes it."""

    name: str
    is_workflow_only: bool
    model: BoundModel
    cheaper_model: BoundModel | None
    tools: list[BoundTool]
    guardrails: list[BoundGuardrail]
    handovers: list[BoundHandover]
    output: tuple[str, str, BoundFunction | None] | None
    model_retry: tuple[Any, ...] | None
    options: str

    def functions(self) -> list[tuple[str, BoundFunction]]:
        """The functions of the agent and of those that can take over, with the names of their
        threads."""
        models = [self.model, *([] if self.cheaper_model is None else [self.cheaper_model])]
        own = [(self.name, function) for model in models for function in model.functions()]
        own += [(tool.name, tool.invoke) for tool in self.tools if tool.invoke is not None]
        own += [(guardrail.name, guardrail.invoke) for guardrail in self.guardrails]
        return [*own, *(found for other in self.handovers for found in other.agent.functions())]


@dataclass(frozen=True)
class Prompt:
    """The input of an agent: a text of the user, or the messages of a conversation.

    Attributes:
        messages: A text, or messages as in :attr:`Conversation.messages`.
        instructions: Instructions that replace those of the agent.
        subject: The subject whose :class:`SubjectBudget` the run is charged to: a customer, say.
    """

    messages: str | Sequence[Mapping[str, Any]]
    instructions: str | None = None
    subject: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.messages, str):
            content = [{"type": "text", "text": self.messages}]
            object.__setattr__(self, "messages", [{"role": "user", "content": content}])


@dataclass(frozen=True)
class Compaction:
    """Replaces earlier messages of a conversation with a summary that the model writes when it becomes
    long. The messages stay in the journal.

    Attributes:
        above: Number of input and output tokens of a response after which it happens.
        keep_messages: How many of the latest messages are kept.
        instructions: Instructions for the summary.
    """

    above: int
    keep_messages: int = 6
    instructions: str | None = None

    def __post_init__(self) -> None:
        check_at_least(self.above, "above", 0)
        check_at_least(self.keep_messages, "keep_messages", 0)


@dataclass(frozen=True)
class Handover:
    """An agent that can take over a conversation; see the ``handovers`` of :class:`LlmAgent`.

    Attributes:
        agent: The agent.
        description: Tells the model when to hand over.
        name: Its name in the tool ``handover_to_<name>``; the name of the agent by default.
    """

    agent: LlmAgent[Any]
    description: str
    name: str | None = None


class _Options(TypedDict, total=False):
    """The options of an agent, apart from the type of its output."""

    instructions: str | None
    tools: Iterable[Tool | Callable[..., Any]]
    guardrails: Iterable[Guardrail]
    handovers: Iterable[Handover]
    hand_back: str | None
    budget: Budget | None
    subject_budget: SubjectBudget | None
    cheaper_model: AnyModel | None
    compaction: Compaction | None
    streaming: bool
    end_strategy: Literal["exhaustive", "early"]
    trace_content: bool
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

    Pass it to a :class:`aios.Runtime` among its ``agents``, or among its ``workflows`` if other processes
    make the model calls and tool calls. Start a run with a text, or with
    :class:`Prompt`. Among the ``agents`` of a runtime with a store, it is an agent type, too: each task,
    ``runtime.task("name", "…")`` or ``context.task("name", "…")``, is a run. The loop is the one of the Rust
    crate ``aios-llm``: a recorded call is never made again, whatever crashes.

    Args:
        name: ``[a-z][a-z0-9_]*``, at most 94 bytes: the name of the workflow.
        model: A name such as ``"anthropic:<model>"`` (see :class:`Provider`), a
            :class:`Provider`, a
            :class:`ClientModel`, a wrapper such as :class:`FallbackModel`, or a function that takes
            the request as a ``dict`` and returns a ``str`` or a :class:`ModelResponse`. A generator
            yields the pieces of a text, and may yield a :class:`ModelResponse` at the end.
        instructions: The system prompt.
        tools: Functions decorated with :func:`tool`, plain functions, and agents and workflows as
            tools: :meth:`Tool.agent`, :meth:`Tool.workflow`.
        guardrails: Checks of the input or the output: :func:`input_guardrail`,
            :func:`output_guardrail`. Those of the input are of the agent that begins a run, those of
            the output of the agent that ends it.
        handovers: Agents that can take over the conversation, with the same type of output: a tool
            ``handover_to_<name>`` continues it, in the same run, under the instructions and with the
            tools of the other one. Budget, version and limits are those of the agent that began.
        hand_back: The description of a tool ``hand_back``, with which an agent that has taken over
            returns the conversation.
        output_type: The type of the result: a dataclass, a ``TypedDict``, a model of pydantic or
            msgspec, or any other type with a schema. Text by default. A result that does not match,
            for example because a validator refuses it, is reported to the model, which may repair it; see
            ``max_faults``.
        budget: Limits of each run.
        subject_budget: Limits that all runs of a subject share in a window of time. Each run then has
            to name its subject, in its :class:`Prompt`.
        cheaper_model: The model that continues a run when the cost does not allow another response of
            ``model``; see :attr:`Budget.at_limit`.
        compaction: Replaces earlier messages with a summary when a conversation becomes long. Without
            it, one that is too long for the model fails with ``MODEL_CONTEXT_OVERFLOW``.
        streaming: Whether tokens, partial output and the progress of tools are written to the output
            stream ``tokens`` of the run; see :meth:`aios.RunHandle.stream`.
        end_strategy: Which calls of a response run in addition to the one with the result, if the
            result is a call of the tool ``final_result``. With ``"exhaustive"``, all run. The result
            is the output if they all succeed; else the model gets their results, and has to call
            ``final_result`` again. With ``"early"``, none runs, and the result is the output at once.
        trace_content: Whether log lines that are written inside of model calls and tool calls have
            messages, arguments and results as fields, which may be secret. Collectors of traces
            get none.
        version: From 1. Change it with the instructions or tools if runs of the earlier version have
            to continue unchanged.
        max_output_tokens: Maximum number of output tokens of each response.
        temperature: Sampling temperature.
        model_timeout: Timeout of one model call in seconds.
        model_retry: Retry policy of model calls; :class:`RetryPolicy` by default. A longer
            ``Retry-After`` of the provider is respected.
        max_turns: Maximum number of responses in one run.
        max_faults: How many consecutive responses may be faulty, and how many consecutive summaries
            of a compaction may fail.
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
        from .._aios import DEFAULTS
        from .._types.convert import Converter

        unknown = options.keys() - _Options.__annotations__.keys()
        if unknown:
            raise TypeError(f"LlmAgent has no option {', '.join(sorted(unknown))}")
        check_options(options)
        check_name(name, "the name of an agent")
        self.name = name
        self.version = check_at_least(options.get("version", 1), "version", 1)
        tools = as_list(options.get("tools", ()), "tools")
        self.tools = [_as_tool(made) for made in tools]
        self.guardrails = _all(Guardrail, options.get("guardrails", ()), "guardrails")
        self.handovers = _all(Handover, options.get("handovers", ()), "handovers")
        self.model = _check_model(model)
        cheaper = options.get("cheaper_model")
        self.cheaper_model = None if cheaper is None else _check_model(cheaper)
        try:
            self._output = Converter(str if output_type is None else output_type)
        except TypeError as error:
            raise ConfigurationError(f"agent {name}: {error}") from error
        self._output_type = output_type
        self._model_retry = options.get("model_retry")
        retry_row(self._model_retry)
        budget, subject = options.get("budget"), options.get("subject_budget")
        compaction = options.get("compaction")
        if compaction is not None and not isinstance(compaction, Compaction):
            raise TypeError(f"compaction must be an aios.Compaction, not {compaction!r}")
        self._options: dict[str, Any] = {
            "instructions": options.get("instructions"),
            "hand_back": options.get("hand_back"),
            "version": self.version,
            "max_output_tokens": options.get("max_output_tokens"),
            "temperature": options.get("temperature"),
            "model_timeout": options.get("model_timeout", 300.0),
            "max_turns": options.get("max_turns", 50),
            "max_faults": options.get("max_faults", 3),
            "max_identical_calls": options.get("max_identical_calls", 3),
            "max_argument_bytes": options.get("max_argument_bytes", DEFAULTS.max_argument_bytes),
            "streaming": options.get("streaming", False),
            "end_strategy": options.get("end_strategy", "exhaustive"),
            "trace_content": options.get("trace_content", False),
            "compaction": compaction,
            "budget": None if budget is None else budget._row(),
            "subject_budget": None if subject is None else subject._row(),
        }

    def input(self, value: Any) -> Any:
        """The prompt of a run.

        Raises:
            InvalidParametersError: It is missing.
        """
        if value is MISSING:
            raise InvalidParametersError(f"agent {self.name} requires a prompt", retryable=False)
        if isinstance(value, Prompt):
            # As in other languages, so that starts of one run have equal inputs.
            row = {name: getattr(value, name) for name in Prompt.__dataclass_fields__}
            return {name: given for name, given in row.items() if given is not None}
        return value

    def read_result(self, value: Any) -> O:
        """Converts a result of a run to ``output_type``.

        Raises:
            InvalidResultError: It does not match the type.
        """
        from .._clients.results import read_result

        return cast("O", read_result(self._output, value, f"the result of agent {self.name}"))

    def bind(self, *, is_workflow_only: bool = False) -> BoundLlmAgent:
        """Converts the agent for the native module."""
        from .._aios import dumps
        from .._types.convert import root_schema

        output = None
        if self._output_type is not None:
            kind = getattr(self._output_type, "__name__", "output")
            is_exact = self._output.is_trivial or schema_says_all(self._output_type)
            check = None if is_exact else bind_check(self._output.read)
            output = (kind, dumps(root_schema(self._output.schema)), check)
        return BoundLlmAgent(
            self.name,
            is_workflow_only,
            bind_model(self.model),
            None if self.cheaper_model is None else bind_model(self.cheaper_model),
            [made.bind() for made in self.tools],
            [guardrail.bind(self._output) for guardrail in self.guardrails],
            [
                BoundHandover(it.name or it.agent.name, it.description, it.agent.bind())
                for it in self.handovers
            ],
            output,
            retry_row(self._model_retry),
            dumps(self._options),
        )

    def __repr__(self) -> str:
        return f"<aios.LlmAgent {self.name}@{self.version}>"


def _all(kind: type[T], values: Iterable[Any], option: str) -> list[T]:
    """The values of an option, which all are of a kind."""
    found = as_list(values, option)
    for value in found:
        if not isinstance(value, kind):
            raise ConfigurationError(f"{option} are aios.{kind.__name__} objects, not {value!r}")
    return found


def _as_tool(made: Tool | Callable[..., Any]) -> Tool:
    if not callable(made):
        raise ConfigurationError(f"a tool is an aios.Tool or a function, not {made!r}")
    return made if isinstance(made, Tool) else tool(made)


def _check_model(model: AnyModel) -> AnyModel:
    if isinstance(model, type):
        name = model.__name__
        raise ConfigurationError(
            f"a model is an object, not a class: pass {name}(...) instead of {name}"
        )
    if isinstance(model, str) or callable(model) or hasattr(model, "bind"):
        return model
    raise ConfigurationError(f"a model is a name, a function or a model object, not {model!r}")
