"""Workflow definitions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from .._errors import (
    AiosError,
    InvalidDataError,
    InvalidOutputError,
    InvalidParametersError,
    WorkflowCodeError,
    leaves_of,
)

if TYPE_CHECKING:
    from .context import WorkflowContext

I = TypeVar("I")
O = TypeVar("O")

#: Default of parameters for which ``None`` is a valid value.
MISSING: Any = object()


class ContinueAsNew(AiosError):
    """Ends a run and continues it as a new one; see :meth:`WorkflowContext.continue_as_new`."""

    default_code = "CONTINUED_AS_NEW"

    def __init__(self, input: Any) -> None:
        super().__init__("the run continues as a new one")
        self._continue_as_new = input


def continuation_of(error: BaseException) -> ContinueAsNew | None:
    """The exception by which a run continues as a new one: ``error`` itself, or the first one in a group
    that has no others. ``None`` if it ends with a failure. Called by the native module too."""
    if isinstance(error, ContinueAsNew):
        return error
    if not isinstance(error, BaseExceptionGroup):
        return None
    leaves = leaves_of(error)
    continuations = [it for it in leaves if isinstance(it, ContinueAsNew)]
    return continuations[0] if continuations and len(continuations) == len(leaves) else None


class Workflow(Generic[I, O]):
    """A workflow: a name, a version and an async function. Made by :func:`workflow`.

    Attributes:
        name: Its name.
        version: Its version, from 1. New runs get the highest registered version; a run keeps the
            version it started with.
        lookahead: Whether its code may see the outcome of a task or timer before it is durable.
    """

    def __init__(
        self, name: str, version: int, function: Callable[..., Any], *, lookahead: bool = False
    ) -> None:
        from .._types.signature import (
            caller_namespace,
            is_async,
            is_async_generator,
            is_generator,
            signature,
        )
        from .._types.validation import check_flag, check_name, check_version

        check_name(name, "the name of a workflow")
        check_version(version, f"the version of workflow {name}")
        check_flag(lookahead, f"lookahead of workflow {name}")
        self.name = name
        self.version = version
        self.lookahead = lookahead
        self.function = function
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        yields = is_async_generator(function) or is_generator(function)
        if not is_async(function) and not yields:
            raise WorkflowCodeError(f"workflow {name} must be an `async def`")
        self._signature = signature(function, caller_namespace(2), f"workflow {name}")

    def __call__(self, context: WorkflowContext, input: I) -> Coroutine[Any, Any, O]:
        """Runs the function as part of another workflow, without its own run."""
        return cast("Coroutine[Any, Any, O]", self._begin(context, input))

    def _begin(self, context: WorkflowContext, input: Any) -> Coroutine[Any, Any, Any]:
        if self._signature.input is None:
            return cast("Coroutine[Any, Any, Any]", self.function(context))
        return cast("Coroutine[Any, Any, Any]", self.function(context, input))

    def input(self, value: Any) -> Any:
        """The input of a run: ``value``, or the default of the function if it is missing.

        Raises:
            InvalidParametersError: The value is missing, and the function requires one.
            InvalidDataError: It would be read as an object of another class.
        """
        if value is not MISSING:
            if self._signature.input_classes:
                self._check_classes(value)
            return value
        signature = self._signature
        if signature.default is not MISSING:
            return signature.default
        if signature.input is None or signature.input.accepts(None):
            return None
        raise InvalidParametersError(
            f"workflow {self.name} requires an input ({signature.name})", retryable=False
        )

    def _check_classes(self, value: Any) -> None:
        from .._types.subclasses import check_classes

        try:
            check_classes(
                value, self._signature.input_classes, f"the input of workflow {self.name}"
            )
        except TypeError as error:
            raise InvalidDataError(str(error)) from None

    def check_result(self, value: Any) -> None:
        """Checks what the function has returned.

        Raises:
            InvalidOutputError: It would be read as an object of another class.
        """
        classes = self._signature.output_classes
        if not classes:
            return
        from .._types.subclasses import check_classes

        try:
            check_classes(value, classes, f"the result of workflow {self.name}")
        except TypeError as error:
            raise InvalidOutputError(str(error), retryable=False) from None

    def read_input(self, value: Any) -> Any:
        """Converts the input of a run. Started by its name without an input, the run has the default of
        the function, unless that takes ``None``.

        Raises:
            InvalidParametersError: It does not match the annotation.
        """
        found = self._signature
        if found.input is None:
            return value
        is_missing = value is None and (found.input.is_trivial or not found.input.accepts(None))
        if is_missing and found.default is not MISSING:
            # Runs that change it would see the changes of each other, and their own in a replay.
            return copy.deepcopy(found.default)
        return found.input.read(value, f"the input of workflow {self.name}")

    def read_result(self, value: Any) -> O:
        """Converts a result of a run to the return annotation of the function.

        Raises:
            InvalidResultError: It does not match the annotation.
        """
        from .._clients.results import read_result

        what = f"the result of workflow {self.name}"
        return cast("O", read_result(self._signature.output, value, what))

    def __repr__(self) -> str:
        return f"<aios.Workflow {self.name}@{self.version}>"


class _Decorator:
    def __init__(self, name: str, version: int, lookahead: bool) -> None:
        self._name = name
        self._version = version
        self._lookahead = lookahead

    @overload
    def __call__(
        self, function: Callable[[WorkflowContext, I], Coroutine[Any, Any, O]]
    ) -> Workflow[I, O]: ...

    @overload
    def __call__(
        self, function: Callable[[WorkflowContext], Coroutine[Any, Any, O]]
    ) -> Workflow[None, O]: ...

    def __call__(self, function: Callable[..., Any]) -> Workflow[Any, Any]:
        return Workflow(self._name, self._version, function, lookahead=self._lookahead)


def workflow(name: str, *, version: int = 1, lookahead: bool = False) -> _Decorator:
    """Decorates an ``async def`` that takes a context and at most one value as a workflow.

    The function must be deterministic: the same results lead to the same calls in the same order.
    Anything that depends on time, randomness or I/O belongs in a step, a task, or
    ``context.now()``, ``context.random()``, ``context.uuid()``.

    Args:
        name: ``[a-z][a-z0-9_]*``, at most 100 bytes.
        version: From 1; increase it to run old and new code side by side.
        lookahead: Lets the code see the outcome of a task or timer before it is durable, so that a
            task in a sequence costs one commit instead of two. Nothing that the code requests begins
            before the commit. If another process appends to the journal first, for example a
            signal, the run is loaded again, and its code is called again from the beginning. Leave
            it off if the code has effects outside of its operations, such as a counter.

    Raises:
        ConfigurationError: The name, the version or the function is not valid for a workflow.
        TypeError: The name is not a string, or the version is not an integer.
        WorkflowCodeError: The function is not an ``async def``.
    """
    if not isinstance(name, str):
        raise TypeError(
            'a workflow needs a name: write @aios.workflow("name") instead of @aios.workflow'
        )
    return _Decorator(name, version, lookahead)
