"""Guardrails: checks of what goes into an agent and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from .._errors import ConfigurationError
from .functions import BoundFunction, bind_function

if TYPE_CHECKING:
    from .._types.convert import Converter

#: A function that returns ``None``, or why the run has to fail.
Check = Callable[[Any], Any]


class BoundGuardrail(NamedTuple):
    """A guardrail as the native module takes it."""

    name: str
    is_input: bool
    timeout: float
    invoke: BoundFunction


class Guardrail:
    """A check of an agent, made by :func:`input_guardrail` or :func:`output_guardrail`. Calling it
    calls the function."""

    def __init__(self, check: Check, *, is_input: bool, name: str | None, timeout: float) -> None:
        if not callable(check):
            raise ConfigurationError(f"a guardrail is a function, not {check!r}")
        self.check = check
        self.is_input = is_input
        self.name = name if name is not None else getattr(check, "__name__", "guardrail")
        self.timeout = timeout
        self.__doc__ = check.__doc__

    def __call__(self, value: Any) -> Any:
        return self.check(value)

    def bind(self, output: Converter) -> BoundGuardrail:
        """Converts the guardrail of an agent with this output for the native module."""
        from .._types.signature import is_async

        check, read = self.check, output.read
        convert: Callable[[Any], Any] = (lambda value: value) if self.is_input else read
        if is_async(check):

            async def respond_async(value: Any) -> str | None:
                return self._reason(await check(convert(value)))

            respond: Callable[..., Any] = respond_async
        else:

            def respond_plain(value: Any) -> str | None:
                return self._reason(check(convert(value)))

            respond = respond_plain
        function = bind_function(respond, None)
        return BoundGuardrail(self.name, self.is_input, self.timeout, function)

    def _reason(self, reason: Any) -> str | None:
        if reason is None or isinstance(reason, str):
            return reason
        raise TypeError(
            f"guardrail {self.name} returns None, or a str that says why it stops the run, not "
            f"{reason!r}"
        )

    def __repr__(self) -> str:
        return f"<aios.Guardrail {self.name}>"


@overload
def input_guardrail(check: Check) -> Guardrail: ...


@overload
def input_guardrail(
    check: None = None, *, name: str | None = None, timeout: float = 60.0
) -> Callable[[Check], Guardrail]: ...


def input_guardrail(
    check: Check | None = None, *, name: str | None = None, timeout: float = 60.0
) -> Guardrail | Callable[[Check], Guardrail]:
    """Decorates a function as a check of the messages of a prompt, before the first request.

    It takes the list of messages, and returns ``None``, or a text that says why the run must not
    continue: the run then fails with ``GUARDRAIL_TRIPPED``. Its verdict is recorded, so that a replay
    does not check again. A check that fails itself fails the run.

    Args:
        check: The function, if the decorator is used without arguments.
        name: Its name in events and failures; the name of the function by default.
        timeout: Timeout of one attempt in seconds.
    """

    def decorate(decorated: Check) -> Guardrail:
        return Guardrail(decorated, is_input=True, name=name, timeout=timeout)

    return decorate if check is None else decorate(check)


@overload
def output_guardrail(check: Check) -> Guardrail: ...


@overload
def output_guardrail(
    check: None = None, *, name: str | None = None, timeout: float = 60.0
) -> Callable[[Check], Guardrail]: ...


def output_guardrail(
    check: Check | None = None, *, name: str | None = None, timeout: float = 60.0
) -> Guardrail | Callable[[Check], Guardrail]:
    """Decorates a function as a check of the output, before the run ends with it.

    It takes the output, as the ``output_type`` of the agent, and returns ``None``, or a text that says
    why the run must not end with it. See :func:`input_guardrail`.

    Args:
        check: The function, if the decorator is used without arguments.
        name: Its name in events and failures; the name of the function by default.
        timeout: Timeout of one attempt in seconds.
    """

    def decorate(decorated: Check) -> Guardrail:
        return Guardrail(decorated, is_input=False, name=name, timeout=timeout)

    return decorate if check is None else decorate(check)
