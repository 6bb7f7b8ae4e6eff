"""Execution of steps, and what a step knows about its attempt."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

from .._signals import fail_or_leave
from .arguments import own_args, own_kwargs
from .fence import Fence, as_fence

if TYPE_CHECKING:
    import asyncio

    from .._aios import NativeStepContext, Reply

#: Flag of the code object of an ``async def`` (``inspect.CO_COROUTINE``).
_COROUTINE = 0x80
#: Flags of generators (``inspect.CO_GENERATOR`` and ``CO_ASYNC_GENERATOR``).
_GENERATOR = 0x20 | 0x200


class StepContext(NamedTuple):
    """Information about the attempt of a step.

    Attributes:
        attempt: Number of the attempt, from 1.
        idempotency_key: The same string in every attempt of this step and in no other step, even if a
            later run reuses the id of this run. Pass it to external systems, so that they recognise
            a repeated attempt.
        fence: Proof that the engine which executes the step owns its run; ``None`` in tests.
    """

    attempt: int
    idempotency_key: str
    fence: Fence | None = None


_current: contextvars.ContextVar[NativeStepContext] = contextvars.ContextVar("aios_step")


def current_step() -> StepContext:
    """Returns information about the attempt of the running step.

    Raises:
        LookupError: No step is running in this context.
    """
    step = _current.get()
    return StepContext(step.attempt, step.idempotency_key, as_fence(step.fence))


def running_step() -> NativeStepContext | None:
    """The attempt of a step that runs in this context."""
    return _current.get(None)


def is_async_function(function: Callable[..., Any]) -> bool:
    """Whether calling it returns a coroutine; fast for plain ``async def`` and ``def``."""
    if type(function) is FunctionType:
        if function.__code__.co_flags & _COROUTINE:
            return True
        if not function.__dict__:
            # Nothing can have marked it as a coroutine function.
            return False
    from .._types.signature import is_async

    return is_async(function)


def yields(function: Callable[..., Any]) -> bool:
    """Whether calling it returns a generator."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code is not None and bool(code.co_flags & _GENERATOR)


def start_async_step(
    reply: Reply,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None,
    context: contextvars.Context,
    step: NativeStepContext,
    loop: asyncio.AbstractEventLoop,
) -> asyncio.Task[None]:
    """Starts an async step on the event loop. Called by the native module, on the thread of the loop."""
    context.run(_current.set, step)
    # A task copies the context in which it is created.
    return context.run(loop.create_task, _run_async_step(reply, function, args, kwargs))


def run_plain_step(
    reply: Reply,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None,
    context: contextvars.Context,
    step: NativeStepContext,
    _: asyncio.AbstractEventLoop,
) -> None:
    """Runs a plain step in the current thread. Called by the native module."""
    try:
        copied = context.copy()
        copied.run(_current.set, step)
        value = copied.run(function, *own_args(args), **own_kwargs(kwargs or {}))
    except BaseException as error:
        reply.fail(error)
    else:
        reply.succeed(value)


async def _run_async_step(
    reply: Reply,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None,
) -> None:
    try:
        if kwargs is None:
            value = await function(*own_args(args))
        else:
            value = await function(*own_args(args), **own_kwargs(kwargs))
    except BaseException as error:
        if fail_or_leave(reply, error):
            raise
    else:
        reply.succeed(value)
