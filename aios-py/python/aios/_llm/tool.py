"""Tools: functions that a model can call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NamedTuple,
    Union,
    get_args,
    get_origin,
    overload,
)

from .._errors import ConfigurationError, InvalidParametersError
from .._retry import retry_row
from .._types.signature import bound_keywords, doc_of, is_async_generator, is_generator, name_of
from .._types.validation import check_at_least, check_flag, check_seconds
from .functions import BoundFunction, bind_check, bind_function

if TYPE_CHECKING:
    from .._aios import NativeToolContext
    from .._retry import RetryPolicy
    from .._types.convert import Converter
    from .._workflows.definition import Workflow
    from .agent import LlmAgent
    from .budget import Limits

#: The effect of a tool, which decides what happens to a call that was in progress at a crash.
Effect = Literal["read", "idempotent", "write"]
#: The effect of the failure of a child run on the run whose model has called it.
OnFailure = Literal["tell_model", "fail"]


class ToolContext:
    """Information about a call, for its tool: a parameter of a tool that is annotated with this class."""

    __slots__ = ("_native",)

    def __init__(self, native: NativeToolContext) -> None:
        self._native = native

    @property
    def attempt(self) -> int:
        """Number of the attempt, from 1."""
        return self._native.attempt

    @property
    def idempotency_key(self) -> str:
        """The same string in every attempt at this call and in no other call. Pass it to external
        systems, so that they recognise a repeated call."""
        return self._native.idempotency_key

    def progress(self, progress: Any) -> None:
        """Reports progress to the readers of the run's output stream ``tokens``. Without effect
        unless the agent streams.

        Raises:
            InvalidDataError: ``progress`` cannot be serialised to JSON, or is too large.
        """
        self._native.progress(progress)


class BoundTool(NamedTuple):
    """A tool as the native module takes it."""

    name: str
    description: str
    parameters: str
    effect: str
    approval: bool
    timeout: float
    retry: tuple[Any, ...] | None
    max_result_bytes: int
    concurrency: int | None
    invoke: BoundFunction | None
    check: BoundFunction | None
    child: str | None


class ChildOptions(NamedTuple):
    """Options of a tool whose calls are child runs."""

    on_failure: OnFailure
    approval: bool
    max_result_bytes: int | None
    concurrency: int | None


class Tool:
    """A function that a model can call; made by :func:`tool`. Calling it calls the function."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None,
        description: str | None,
        effect: Effect,
        approval: bool,
        timeout: float | None,
        retry: RetryPolicy | None,
        max_result_bytes: int | None,
        concurrency: int | None,
        names: Mapping[str, Any],
    ) -> None:
        from .._aios import DEFAULTS

        self.function = function
        self.name = name if name is not None else name_of(function)
        self.description = description if description is not None else doc_of(function)
        self.effect: Effect = effect
        self.approval = approval
        self.timeout = DEFAULTS.tool_timeout if timeout is None else timeout
        self.retry = retry
        self.max_result_bytes = (
            DEFAULTS.max_tool_result_bytes if max_result_bytes is None else max_result_bytes
        )
        self.concurrency = concurrency
        self.__doc__ = self.description
        self._check()
        if effect not in ("read", "idempotent", "write"):
            raise ConfigurationError(
                f"the effect of tool {self.name} is 'read', 'idempotent' or 'write', not {effect!r}"
            )
        self._context, self._parameters, self.schema = _parameters(function, names, self.name)

    def _check(self) -> None:
        """Checks the types of the options."""
        for option, text in (("name", self.name), ("description", self.description)):
            if not isinstance(text, str):
                raise TypeError(f"the {option} of a tool must be a str, not {text!r}")
        check_flag(self.approval, f"approval of tool {self.name}")
        check_seconds(self.timeout, f"timeout of tool {self.name}")
        check_at_least(self.max_result_bytes, f"max_result_bytes of tool {self.name}", 0)
        retry_row(self.retry)
        if self.concurrency is not None:
            check_at_least(self.concurrency, "concurrency", 1)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def _arguments(self, native: NativeToolContext, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call, converted to the annotations."""
        arguments = self._converted(raw)
        if self._context is not None:
            arguments[self._context] = ToolContext(native)
        return arguments

    def _converted(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call without the context.

        Raises:
            InvalidParametersError: They do not match the annotations.
        """
        arguments: dict[str, Any] = {}
        violations: list[dict[str, str]] = []
        for name, converter in self._parameters.items():
            if name not in raw:
                continue
            try:
                arguments[name] = converter.read(raw[name], f"parameter {name}")
            except InvalidParametersError as error:
                for fault in error.details or []:
                    path = f"/{name}{fault['path'].rstrip('/')}"
                    violations.append({"path": path, "fault": fault["fault"]})
        if violations:
            text = "; ".join(f"{fault['path']}: {fault['fault']}" for fault in violations)
            raise InvalidParametersError(
                f"the arguments do not match: {text}", details=violations, retryable=False
            )
        return arguments

    def bind(self) -> BoundTool:
        """Converts the tool for the native module."""
        function = self.function if self.effect == "read" else _with_shown_result(self.function)
        invoke = bind_function(function, self._arguments)
        # Only a person edits arguments.
        return self._bound(invoke, bind_check(self._converted) if self.approval else None, None)

    def _bound(
        self, invoke: BoundFunction | None, check: BoundFunction | None, child: str | None
    ) -> BoundTool:
        from .._aios import dumps

        return BoundTool(
            self.name,
            self.description,
            dumps(self.schema),
            self.effect,
            self.approval,
            self.timeout,
            retry_row(self.retry),
            self.max_result_bytes,
            self.concurrency,
            invoke,
            check,
            child,
        )

    @staticmethod
    def agent(
        name: str,
        description: str,
        agent: LlmAgent[Any] | str,
        *,
        limits: Limits | None = None,
        on_failure: OnFailure = "tell_model",
        approval: bool = False,
        max_result_bytes: int | None = None,
        concurrency: int | None = None,
    ) -> Tool:
        """An agent as a tool: each call is a child run of it, which gets a task as text.

        The child draws on the budget of the calling run: its share is reserved before the call, and
        settled when the child ends. Without ``limits``, the children of one response and the calling
        run get equal shares of what is left. A child is started once for each call, whatever crashes,
        and is cancelled with its parent.

        Args:
            name: 1 to 64 of ``[A-Za-z0-9_-]``.
            description: Description of the tool for the model.
            agent: The agent, or its name.
            limits: Limits of each call, within what the budget has left.
            on_failure: ``"tell_model"`` gives the model the failure of a child as the result of its
                call; ``"fail"`` fails the run with it.
            approval: Whether each call needs approval; see :func:`pending_decisions`.
            max_result_bytes: Maximum size of a result; a larger one is left out, and the model is only
                told that the call succeeded.
            concurrency: How many calls of one response run at once.

        Raises:
            ConfigurationError: An argument is invalid.
        """
        from .child_tool import agent_tool

        options = ChildOptions(on_failure, approval, max_result_bytes, concurrency)
        return agent_tool(name, description, agent, limits, options)

    @staticmethod
    def workflow(
        name: str,
        description: str,
        workflow: Workflow[Any, Any] | str,
        *,
        input_type: Any = None,
        on_failure: OnFailure = "tell_model",
        approval: bool = False,
        max_result_bytes: int | None = None,
        concurrency: int | None = None,
    ) -> Tool:
        """A workflow as a tool: each call is a child run of it, which gets the arguments as input. A
        child is started once for each call, whatever crashes, and is cancelled with its parent.

        Args:
            name: 1 to 64 of ``[A-Za-z0-9_-]``.
            description: Description of the tool for the model.
            workflow: The workflow, or its name.
            input_type: Type of the input, whose JSON Schema is an object: a dataclass, a
                ``TypedDict``, a model of pydantic or msgspec. By default that of the workflow;
                required for a name.
            on_failure: See :meth:`agent`.
            approval: Whether each call needs approval; see :func:`pending_decisions`.
            max_result_bytes: Maximum size of a result; a larger one is left out, and the model is only
                told that the call succeeded.
            concurrency: See :meth:`agent`.

        Raises:
            ConfigurationError: An argument is invalid, or the schema of the input is not an object.
        """
        from .child_tool import workflow_tool

        options = ChildOptions(on_failure, approval, max_result_bytes, concurrency)
        return workflow_tool(name, description, workflow, input_type, options)

    def __repr__(self) -> str:
        return f"<aios.Tool {self.name}>"


@overload
def tool(function: Callable[..., Any]) -> Tool: ...


@overload
def tool(
    function: None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    effect: Effect = "read",
    approval: bool = False,
    timeout: float | None = None,
    retry: RetryPolicy | None = None,
    max_result_bytes: int | None = None,
    concurrency: int | None = None,
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    effect: Effect = "read",
    approval: bool = False,
    timeout: float | None = None,
    retry: RetryPolicy | None = None,
    max_result_bytes: int | None = None,
    concurrency: int | None = None,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Decorates a function as a tool: ``@aios.tool``, or ``@aios.tool(effect="write")``.

    The annotations of its parameters and its docstring tell the model how to call it. Its result is a
    string, or anything that can be serialised to JSON. An ``async def`` runs on the event loop of the
    runtime, a plain ``def`` in threads.

    Args:
        function: The function, if the decorator is used without arguments.
        name: 1 to 64 of ``[A-Za-z0-9_-]``; the name of the function by default.
        description: Description of the tool for the model; the docstring by default.
        effect: ``"read"`` changes nothing and may run again after a crash, as may ``"idempotent"``,
            whose repetition has no further effect. A ``"write"`` is not repeated: an operator decides on
            a call whose outcome is unknown.
        approval: Whether each call needs approval; see :func:`pending_decisions`.
        timeout: Timeout of one attempt in seconds; 60 by default.
        retry: Retry policy of failed attempts.
        max_result_bytes: Maximum size of a result; a larger one is an error for the model. If the
            effect is not ``"read"``, it is left out instead, and the model is only told that the call
            succeeded.
        concurrency: How many calls run at once in each process. Further ones wait, which counts
            towards their timeout. Without it, only the threads of the runtime limit them.

    Raises:
        ConfigurationError: An argument is invalid, or an annotation can't be read from JSON.
    """
    from .._types.signature import caller_namespace

    names = caller_namespace(1)

    def decorate(decorated: Callable[..., Any]) -> Tool:
        return Tool(
            decorated,
            name=name,
            description=description,
            effect=effect,
            approval=approval,
            timeout=timeout,
            retry=retry,
            max_result_bytes=max_result_bytes,
            concurrency=concurrency,
            names=names,
        )

    return decorate if function is None else decorate(function)


def _parameters(
    function: Callable[..., Any], names: Mapping[str, Any], tool_name: str
) -> tuple[str | None, dict[str, Converter], dict[str, Any]]:
    """The parameter that takes the context, the converters of the others, and their schema."""
    from .._types.convert import Converter
    from .._types.definitions import hoisted
    from .._types.signature import hints

    if is_async_generator(function) or is_generator(function):
        raise ConfigurationError(f"tool {tool_name} must return its result, not yield pieces of it")
    found = hints(function, names)
    bound = bound_keywords(function)
    context: str | None = None
    converters: dict[str, Converter] = {}
    properties: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    required: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in bound:
            continue
        if parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
            parameter.POSITIONAL_ONLY,
        ):
            raise ConfigurationError(
                f"tool {tool_name} must take parameters by name, not {parameter}"
            )
        annotation = found.get(name, Any)
        if _is_context(annotation):
            context = name
            continue
        try:
            converters[name] = Converter(annotation)
            schema = hoisted(converters[name].schema, definitions)
            if parameter.default is parameter.empty:
                required.append(name)
            else:
                schema.setdefault("default", _plain_default(parameter.default))
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"tool {tool_name}, parameter {name}: {error}") from error
        properties[name] = schema
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        schema["required"] = required
    if definitions:
        schema["$defs"] = definitions
    return context, converters, schema


def _with_shown_result(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a tool that changes something. A result without a JSON form is no failure of
    it: the model would make the call again."""
    from functools import wraps

    from .._types.signature import is_async

    if is_async(function):

        @wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            return _shown(await function(*args, **kwargs))

        return call_async

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return _shown(function(*args, **kwargs))

    return call


def _shown(result: Any) -> Any:
    """The JSON form of a result, or a text if it has none."""
    from .._aios import dumps, loads

    # A plain function that returns an awaitable has not run yet.
    if inspect.isawaitable(result):
        return result
    try:
        # Not the result itself: an iterator has no second pass.
        return loads(dumps(result))
    except Exception as error:
        return f"The call succeeded, so do not repeat it. Its result is left out: {error}."


def _is_context(annotation: Any) -> bool:
    """Whether a parameter takes the context, perhaps among others: ``ToolContext | None``."""
    if annotation is ToolContext:
        return True
    origin = get_origin(annotation)
    if origin is Annotated:
        return _is_context(get_args(annotation)[0])
    return origin in (Union, UnionType) and any(map(_is_context, get_args(annotation)))


def _plain_default(value: Any) -> Any:
    from .._aios import dumps, loads

    return loads(dumps(value))
