"""Drives the coroutine of a run: sends outcomes in, and stops at operations without an outcome."""

from __future__ import annotations

import contextvars
import gc
from collections.abc import Callable, Coroutine
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol

from .. import _scope
from .._aios import PENDING, Operation
from .._errors import WorkflowCodeError
from .combinators import AwaitedKeys
from .isolation import (
    BUSY,
    BUSY_CODE,
    ENDLESS,
    Closing,
    Isolation,
    foreign_await,
    get_generator_hooks,
    set_generator_hooks,
    started_loop,
)
from .watchdog import executing, withdraw

if TYPE_CHECKING:
    from .._aios import NativeWorkflowContext


class CoroutineFactory(Protocol):
    """Makes the coroutine of a run or of a compensation."""

    def __call__(self, run: NativeWorkflowContext, input: Any, /) -> Coroutine[Any, Any, Any]:
        """Makes the coroutine."""
        ...

    def context(self) -> contextvars.Context:
        """A new copy of the context variables that the coroutine sees."""
        ...

    def check_result(self, value: Any) -> None:
        """Checks what the coroutine has returned."""
        ...


#: How often a coroutine may await while it is closed, once in each `finally` block.
_MAX_AWAITS = 100


class Driver:
    """Advances the coroutine of a run. Called by the native module."""

    __slots__ = (
        "_check_result",
        "_close_generator",
        "_context",
        "_coroutine",
        "_hooks",
        "_isolation",
        "_loop",
        "_running_loop",
        "_send",
        "_set_running_loop",
        "interrupted",
        "turn",
    )

    def __init__(self, begin: CoroutineFactory, run: NativeWorkflowContext, input: Any) -> None:
        from asyncio import _get_running_loop, _set_running_loop

        self._running_loop: Callable[[], Any] = _get_running_loop
        self._set_running_loop: Callable[[Any], None] = _set_running_loop
        self._isolation: Any = Isolation()
        self._close_generator: Any = self._isolation.close_generator
        self._check_result: Callable[[Any], None] = begin.check_result
        #: Whether the watchdog has interrupted the code in this turn.
        self.interrupted = False
        #: Counts how often the code was called.
        self.turn = 0
        self._loop: Any = None
        self._hooks: Any = None
        self._context = begin.context()
        self._context.run(_scope.enter, run.scope(), run.traceparent)
        self._coroutine: Coroutine[Any, Any, Any] = self._guarded(begin, run, input)
        self._send: Callable[[Any], Any] = self._coroutine.send

    def _guarded(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls a function in the run's context, with asyncio disabled."""
        # The thread may be the event loop's, which polls runs between its other callbacks.
        loop = self._running_loop()
        hooks = self._hooks_of(loop)
        thread = get_ident()
        outer = executing.get(thread)
        self.turn += 1
        self.interrupted = False
        self._set_running_loop(self._isolation)
        set_generator_hooks(None, self._close_generator)
        try:
            executing[thread] = self
            return self._context.run(function, *args)
        finally:
            try:
                # Not in a function, which could be interrupted when it is entered.
                del executing[thread]
                if self.interrupted:
                    withdraw(thread)
            finally:
                if outer is not None:
                    executing[thread] = outer
                set_generator_hooks(*hooks)
                self._set_running_loop(loop)

    def _hooks_of(self, loop: Any) -> Any:
        """The hooks of this thread for async generators, which its event loop sets. Reading them takes
        time."""
        if loop is not self._loop or self._hooks is None:
            self._loop, self._hooks = loop, get_generator_hooks()
        return self._hooks

    def advance(self, key: int | None) -> Any:
        """Runs the coroutine until it waits again.

        Args:
            key: Key of the operation that has an outcome; ``None`` to start the coroutine.

        Returns:
            ``PENDING``.

        Raises:
            StopIteration: The coroutine returned.
            WorkflowCodeError: The code did what a workflow can't do, or computed for too long, even if it
                caught the error.
            Interrupted: It computed for too long, and had just returned.
            BaseException: Whatever the coroutine raised.
        """
        was_enabled = gc.isenabled()
        # A collection may cancel operations, so its timing would make the workflow
        # non-deterministic.
        gc.disable()
        # Same as `_guarded`, without its calls: this is done once or twice for each operation.
        loop = self._running_loop()
        hooks = self._hooks if loop is self._loop else self._hooks_of(loop)
        thread = get_ident()
        self.turn += 1
        self.interrupted = False
        self._set_running_loop(self._isolation)
        set_generator_hooks(None, self._close_generator)
        try:
            executing[thread] = self
            yielded = self._context.run(self._send, key)
            kind = type(yielded)
            if kind is not Operation and kind is not AwaitedKeys:
                # Thrown into the coroutine, so that the traceback shows the line of the await.
                self._context.run(self._coroutine.throw, foreign_await(yielded))
        except BaseException as error:
            violation = self._isolation.take_violation() or started_loop(error)
            if violation is None and self.interrupted:
                violation = WorkflowCodeError(BUSY, code=BUSY_CODE)
            if violation is None:
                if type(error) is StopIteration:
                    self._check_result(error.value)
                raise
            raise violation from None
        finally:
            try:
                del executing[thread]
                if self.interrupted:
                    withdraw(thread)
            finally:
                # Also if an interruption is raised here, at the last moment.
                set_generator_hooks(*hooks)
                self._set_running_loop(loop)
                if was_enabled:
                    gc.enable()
        violation = self._isolation.take_violation()
        if violation is not None:
            raise violation
        if self.interrupted:
            raise WorkflowCodeError(BUSY, code=BUSY_CODE)
        return PENDING

    def close(self) -> None:
        """Closes the coroutine at its current ``await``.

        Raises:
            WorkflowCodeError: It awaited meanwhile; nothing that it awaited was done.
        """
        for awaited in range(_MAX_AWAITS):
            try:
                self._guarded(self._coroutine.throw, Closing)
            except (Closing, StopIteration):
                if awaited == 0:
                    return
                raise WorkflowCodeError(
                    "a `finally` or `except` block of the workflow awaits while the run is cancelled or "
                    "leaves memory; nothing is done there: use `context.compensate` for what a "
                    "cancelled run must do"
                ) from None
        raise WorkflowCodeError(ENDLESS)


class BeginCompensation:
    """Makes the coroutine of a compensation. Called by the native module."""

    __slots__ = ("_base", "_call")

    def __init__(self, call: Callable[[NativeWorkflowContext], Coroutine[Any, Any, Any]]) -> None:
        self._call = call
        self._base = contextvars.copy_context()

    def __call__(self, run: NativeWorkflowContext, _: Any) -> Coroutine[Any, Any, Any]:
        return _without_result(self._call(run))

    def check_result(self, value: Any) -> None:
        """A compensation has no result."""

    def context(self) -> contextvars.Context:
        """A copy of the context variables at the time the compensation was registered."""
        return self._base.copy()


async def _without_result(coroutine: Coroutine[Any, Any, Any]) -> None:
    await coroutine


def check_compensation(name: str, undo: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Checks that a compensation can be called.

    Raises:
        WorkflowCodeError: It is not an ``async def``, or does not accept the arguments.
    """
    from .._types.annotations import signature_of
    from .._types.signature import is_async

    if not is_async(undo):
        raise WorkflowCodeError(
            f"compensation {name!r} must be an `async def` that takes a context; call plain functions "
            "in a step: `async def undo(context): await context.step(name, function)`"
        )
    try:
        signature_of(undo).bind(None, *args)
    except TypeError as error:
        raise WorkflowCodeError(
            f"compensation {name!r} is called with a context and {len(args)} arguments: {error}"
        ) from error
