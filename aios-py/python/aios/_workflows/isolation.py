"""Keeps asyncio out of the code of a run, and closes its async generators at the same moment in every replay."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Coroutine, Generator
from types import AsyncGeneratorType, FrameType
from typing import Any, NoReturn

from .._errors import WorkflowCodeError

UNSUPPORTED_AWAIT = (
    "a workflow can only await operations of its context (task, step, sleep, signal, child, gather, "
    "race); instead of asyncio.sleep use `await context.sleep(seconds)`, instead of asyncio.gather "
    "`await context.gather(...)`, and put everything else into an async function and "
    '`await context.step("name", function)`'
)

UNSUPPORTED_CLIENT = (
    "a client or a runtime can't be used in a workflow, because every replay would repeat its calls; put "
    'them into an async function and `await context.step("name", function)`'
)

#: Says what is wrong with code that can't be left.
ENDLESS = (
    "the workflow catches BaseException and continues: catch Exception instead of all exceptions"
)

#: Says what is wrong with code that computes without end.
BUSY = (
    "the workflow computes for too long without awaiting an operation, so no other run on this event loop can "
    "continue: move long computations into a step, and await an operation instead of checking a condition in a "
    "loop"
)

#: The code of both kinds of code that never lets the engine continue.
BUSY_CODE = "WORKFLOW_BUSY"

#: How many violations code may catch before it has to return.
_MAX_VIOLATIONS = 100


class Closing(BaseException):
    """Raised at the ``await`` of code that its run no longer waits for, or that leaves memory.

    Not ``GeneratorExit``: Python before 3.13 raises that in the code that iterates over an async
    generator, but not in the generator, which can then not be closed either.
    """


class Isolation:
    """Installed as the running loop while the code of a run executes: every use raises an explanation.

    It keeps the first violation, so that the run is blocked even if its code catches the error. Code that
    catches many of them tries again and again, and is left.
    """

    __slots__ = ("_count", "_violation")

    def __init__(self) -> None:
        self._violation: WorkflowCodeError | None = None
        self._count = 0

    def __getattr__(self, name: str) -> NoReturn:
        self._unbind(sys._getframe(1))
        raise self.violate(f"asyncio can't be used in a workflow: {UNSUPPORTED_AWAIT}")

    def _unbind(self, caller: FrameType) -> None:
        """Undoes that an object of asyncio, such as a queue, belongs to this loop from now on, so that it
        can be used outside of the workflow."""
        attributes = getattr(caller.f_locals.get("self"), "__dict__", {})
        if attributes.get("_loop") is self:
            attributes["_loop"] = None

    def __hash__(self) -> int:
        # Not a violation: `logging` asks for the current task in this way, and ignores the error.
        raise WorkflowCodeError(f"asyncio can't be used in a workflow: {UNSUPPORTED_AWAIT}")

    def violate(self, message: str, code: str | None = None) -> WorkflowCodeError:
        """Records a violation of the rules for workflows. Returns the error to raise.

        Raises:
            Closing: The code has caught too many of these errors.
        """
        error = self.note(message, code)
        self._count += 1
        if self._count > _MAX_VIOLATIONS:
            raise Closing
        return error

    def note(self, message: str, code: str | None = None) -> WorkflowCodeError:
        """Records a violation of the rules for workflows. Returns the error."""
        error = WorkflowCodeError(message, code=code)
        if self._violation is None:
            self._violation = error
        return error

    def take_violation(self) -> WorkflowCodeError | None:
        """The first violation since the last call."""
        violation, self._violation = self._violation, None
        self._count = 0
        return violation

    def close_generator(self, generator: AsyncGeneratorType[Any, Any]) -> None:
        """Closes an async generator to which the code refers no longer.

        The hook of the event loop would close it later, outside of the run.
        """
        if generator.ag_running:
            # Python before 3.13 can't close a generator whose own await was closed.
            return
        closing: Any = generator.aclose()
        try:
            closing.send(None)
        except StopIteration:
            return
        name = getattr(generator, "__name__", repr(generator))
        error = WorkflowCodeError(
            f"the async generator {name} awaits in its `finally`, and was not closed: iterate in "
            f"`async with contextlib.aclosing({name}(...)) as items:`"
        )
        if running_isolation() is self:
            self._violation = self._violation or error
        with contextlib.suppress(BaseException):
            closing.throw(error)


def running_isolation() -> Isolation | None:
    """The isolation of the run whose code is executing in this thread."""
    from asyncio import _get_running_loop

    loop: Any = _get_running_loop()
    return loop if type(loop) is Isolation else None


def violation(message: str) -> WorkflowCodeError:
    """Records a violation of the code that is executing. Returns the error to raise."""
    isolation = running_isolation()
    return WorkflowCodeError(message) if isolation is None else isolation.violate(message)


def too_many_requests(message: str) -> WorkflowCodeError:
    """Records that the code that is executing makes requests without end. Returns the error to raise.
    Called by the native module."""
    isolation = running_isolation()
    if isolation is None:
        return WorkflowCodeError(message, code=BUSY_CODE)
    return isolation.violate(message, BUSY_CODE)


def note_client() -> WorkflowCodeError | None:
    """The violation of code that calls a client, if it is the code of a run. Called by the native module."""
    isolation = running_isolation()
    return None if isolation is None else isolation.violate(UNSUPPORTED_CLIENT)


def note_endless() -> None:
    """Records that the code that is executing catches every error of its operations. Called by the native
    module too."""
    isolation = running_isolation()
    if isolation is not None:
        isolation.note(ENDLESS)


def started_loop(error: BaseException) -> WorkflowCodeError | None:
    """The violation of code that starts an event loop, as ``asyncio.run`` does, if that raised ``error``."""
    if type(error) is not RuntimeError:
        return None
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    if module.partition(".")[0] not in ("asyncio", "uvloop"):
        return None
    return WorkflowCodeError(f"a workflow can't start an event loop: {error}; {UNSUPPORTED_AWAIT}")


def foreign_await(yielded: Any) -> WorkflowCodeError:
    """Records that something else than an operation was awaited. Returns the error to raise."""
    # The mark of a future that is awaited, which only a task of asyncio removes.
    if getattr(yielded, "_asyncio_future_blocking", None):
        yielded._asyncio_future_blocking = False
    return violation(f"{yielded!r} was awaited: {UNSUPPORTED_AWAIT}")


def close_branch(coroutine: Coroutine[Any, Any, Any] | Generator[Any, Any, Any]) -> None:
    """Closes a coroutine, or the iterator of an awaitable, that its run no longer waits for.

    Raises:
        WorkflowCodeError: It awaits in a ``finally`` or ``except`` block.
    """
    try:
        coroutine.throw(Closing)
    except (Closing, StopIteration):
        return
    name = getattr(coroutine, "__name__", repr(coroutine))
    raise violation(
        f"{name} awaits in a `finally` or `except` block after it lost a race or another branch "
        "failed: it can't wait there; await after the race or gather instead"
    )


# Read once: they are called twice for each operation.
get_generator_hooks = sys.get_asyncgen_hooks
set_generator_hooks = sys.set_asyncgen_hooks
