"""Functions of tools, guardrails and models, as the native module takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import _scope
from .._signals import fail_or_leave

if TYPE_CHECKING:
    import asyncio

    from .._aios import CallScope, Reply, ThreadPool


class BoundFunction(NamedTuple):
    """A function as the native module takes it."""

    invoke: Callable[..., Any]
    is_async: bool
    pool: ThreadPool | None = None


def bind_function(
    function: Callable[..., Any],
    arguments: Callable[..., dict[str, Any]] | None,
) -> BoundFunction:
    """Converts a function for the native module. ``arguments`` makes its keyword arguments; without
    it, the function takes the values as they are."""
    from .. import _aios
    from .._types.signature import is_async

    if is_async(function):
        return BoundFunction(_async_invoke(function, arguments), True)
    return BoundFunction(_plain_invoke(function, arguments), False, _aios.ThreadPool())


def bind_check(read: Callable[[Any], Any]) -> BoundFunction:
    """Converts a function that raises for values of another type to a check for the native module,
    which says what is wrong with a value. It runs on the event loop, as the conversion of a result
    does."""
    from .._errors import InvalidParametersError

    async def check(value: Any) -> str | None:
        try:
            read(value)
        except InvalidParametersError as error:
            faults = [f"{fault['path'] or '/'}: {fault['fault']}" for fault in error.details or []]
            return "; ".join(faults) or str(error)
        return None

    return bind_function(check, None)


def _async_invoke(
    function: Callable[..., Any], arguments: Callable[..., dict[str, Any]] | None
) -> Callable[..., Any]:
    from asyncio import get_running_loop

    async def work(reply: Reply, scope: CallScope, *values: Any) -> None:
        try:
            _scope.enter(scope, scope.traceparent)
            if arguments is None:
                value = await function(*values)
            else:
                value = await function(**arguments(*values))
        except BaseException as error:
            if fail_or_leave(reply, error):
                raise
        else:
            reply.succeed(value)

    def invoke(reply: Reply, scope: CallScope, *values: Any) -> asyncio.Task[None]:
        return get_running_loop().create_task(work(reply, scope, *values))

    return invoke


def _plain_invoke(
    function: Callable[..., Any], arguments: Callable[..., dict[str, Any]] | None
) -> Callable[..., Any]:
    import contextvars

    base = contextvars.copy_context()

    def work(reply: Reply, scope: CallScope, *values: Any) -> None:
        try:
            _scope.enter(scope, scope.traceparent)
            value = function(*values) if arguments is None else function(**arguments(*values))
        except BaseException as error:
            reply.fail(error)
        else:
            reply.succeed(value)

    def invoke(reply: Reply, scope: CallScope, *values: Any) -> None:
        base.copy().run(work, reply, scope, *values)

    return invoke
