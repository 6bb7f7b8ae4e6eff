"""Workflows: coroutines that the engine drives and that survive any crash."""

from __future__ import annotations

import contextvars
import copy
import functools
import gc
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from sys import getrefcount
from types import CodeType, CoroutineType, FunctionType
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    NamedTuple,
    NoReturn,
    ParamSpec,
    TypeVar,
    cast,
    overload,
)

from . import _trace
from ._aios import PENDING, Operation
from ._errors import (
    AiosError,
    ConfigurationError,
    InvalidParametersError,
    InvalidResultError,
    WorkflowCodeError,
)
from ._fence import Fence, as_fence

if TYPE_CHECKING:
    import asyncio
    import datetime
    import uuid

    from ._aios import Reply, RunCore
    from ._convert import Converter
    from ._retry import RetryPolicy

T = TypeVar("T")
I = TypeVar("I")
O = TypeVar("O")
O_co = TypeVar("O_co", covariant=True)
I_contra = TypeVar("I_contra", contravariant=True)
P = ParamSpec("P")

#: Stands for a value that was not given.
MISSING: Any = object()

_FOREIGN = (
    "a workflow can only await operations of its context (task, step, sleep, signal, child, gather, "
    "race); instead of asyncio.sleep use `await context.sleep(seconds)`, instead of asyncio.gather "
    "`await context.gather(...)`, and put everything else into an async function and "
    '`await context.step("name", function)`'
)


class ContinueAsNew(AiosError):
    """Ends a run and goes on as a new one; see :meth:`WorkflowContext.continue_as_new`."""

    default_code = "CONTINUED_AS_NEW"

    def __init__(self, input: Any) -> None:
        super().__init__("the run continues as a new one")
        self._continue_as_new = input


class Workflow(Generic[I, O]):
    """A workflow: a name, a version and an async function. Made by :func:`workflow`.

    Attributes:
        name: Its name.
        version: Its version, from 1. New runs get the highest that is registered; a run goes on
            with the version that it was started with.
    """

    def __init__(self, name: str, version: int, function: Callable[..., Any]) -> None:
        from ._signature import check_name, is_async, signature, surroundings

        check_name(name, "the name of a workflow")
        if version < 1:
            raise ConfigurationError(f"versions of workflow {name} begin with 1, not {version}")
        self.name = name
        self.version = version
        self.function = function
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        if not is_async(function):
            raise WorkflowCodeError(f"workflow {name} has to be an `async def`")
        self._signature = signature(function, surroundings(2), f"workflow {name}")

    def __call__(self, context: WorkflowContext, input: I) -> Coroutine[Any, Any, O]:
        """Runs the function as a part of another workflow, without a run of its own."""
        return cast("Coroutine[Any, Any, O]", self._begin(context, input))

    def _begin(self, context: WorkflowContext, input: Any) -> Coroutine[Any, Any, Any]:
        if self._signature.input is None:
            return cast("Coroutine[Any, Any, Any]", self.function(context))
        return cast("Coroutine[Any, Any, Any]", self.function(context, input))

    def input(self, given: Any) -> Any:
        """What a run is given: the default of the function if nothing was given.

        Raises:
            InvalidParametersError: Nothing was given, and the function needs something.
        """
        if given is not MISSING:
            return given
        found = self._signature
        if found.default is not MISSING:
            return found.default
        if found.input is None or found.input.accepts(None):
            return None
        raise InvalidParametersError(
            f"workflow {self.name} takes an input, {found.name}, and was given none",
            retryable=False,
        )

    def read_result(self, value: Any) -> O:
        """A result of a run as the type that the function returns."""
        what = f"the result of workflow {self.name}"
        return cast("O", _read_result(self._signature.output, value, what))

    def __repr__(self) -> str:
        return f"<aios.Workflow {self.name}@{self.version}>"


class _Decorate:
    def __init__(self, name: str, version: int) -> None:
        self._name = name
        self._version = version

    @overload
    def __call__(
        self, function: Callable[[WorkflowContext, I], Coroutine[Any, Any, O]]
    ) -> Workflow[I, O]: ...

    @overload
    def __call__(
        self, function: Callable[[WorkflowContext], Coroutine[Any, Any, O]]
    ) -> Workflow[None, O]: ...

    def __call__(self, function: Callable[..., Any]) -> Workflow[Any, Any]:
        return Workflow(self._name, self._version, function)


def workflow(name: str, *, version: int = 1) -> _Decorate:
    """Makes an ``async def`` of a context and at most one value a workflow.

    The function must be deterministic: the same results lead to the same calls in the same order.
    What depends on time, chance or the outside belongs into a step, a task, or ``context.now()``,
    ``context.random()``, ``context.uuid()``.

    Args:
        name: ``[a-z][a-z0-9_]*``, at most 100 bytes.
        version: From 1; raise it to let old and new code live side by side.

    Raises:
        ConfigurationError: The name, the version or the function can't be those of a workflow.
    """
    if not isinstance(name, str):
        raise TypeError(
            'a workflow has a name: write @aios.workflow("name") instead of @aios.workflow'
        )
    return _Decorate(name, version)


class Begin:
    """Makes the coroutine of a run; what Rust calls."""

    __slots__ = ("_base", "_workflow")

    def __init__(self, workflow: Workflow[Any, Any]) -> None:
        self._workflow = workflow
        self._base = contextvars.copy_context()

    def __call__(self, run: RunCore, input: Any) -> Coroutine[Any, Any, Any]:
        found = self._workflow._signature.input
        if found is not None and not found.is_trivial:
            input = found.read(input, f"the input of workflow {self._workflow.name}")
        return self._workflow._begin(WorkflowContext(run), input)

    def context(self) -> contextvars.Context:
        """Context variables for a run: those that were set where the runtime was opened."""
        return self._base.copy()


class _BeginUndo:
    """Makes the coroutine of a compensation."""

    __slots__ = ("_base", "_call")

    def __init__(self, call: Callable[[WorkflowContext], Coroutine[Any, Any, Any]]) -> None:
        self._call = call
        self._base = contextvars.copy_context()

    def __call__(self, run: RunCore, _: Any) -> Coroutine[Any, Any, Any]:
        return _undone(self._call(WorkflowContext(run)))

    def context(self) -> contextvars.Context:
        return self._base.copy()


async def _undone(undo: Coroutine[Any, Any, Any]) -> None:
    await undo


class _NoLoop:
    """Stands where ``asyncio`` looks for a loop, and says what to do instead."""

    __slots__ = ()

    def __getattr__(self, name: str) -> NoReturn:
        raise WorkflowCodeError(f"asyncio can't be used in a workflow: {_FOREIGN}")

    def __hash__(self) -> int:
        raise WorkflowCodeError(f"asyncio can't be used in a workflow: {_FOREIGN}")


_NO_LOOP: Any = _NoLoop()


class Driver:
    """Lets the coroutine of a run go on; what Rust calls."""

    __slots__ = ("_context", "_coroutine", "_running_loop", "_send", "_set_running_loop")

    def __init__(self, begin: Begin | _BeginUndo, run: RunCore, input: Any) -> None:
        from asyncio import _get_running_loop, _set_running_loop

        self._running_loop: Callable[[], Any] = _get_running_loop
        self._set_running_loop: Callable[[Any], None] = _set_running_loop
        self._context = begin.context()
        self._context.run(_trace.traceparent.set, run.traceparent)
        self._coroutine: Coroutine[Any, Any, Any] = self._guarded(begin, run, input)
        self._send: Callable[[Any], Any] = self._coroutine.send

    def _guarded(self, function: Callable[..., Any], *args: Any) -> Any:
        # The thread may be a loop's own: it polls runs between its other work.
        loop = self._running_loop()
        self._set_running_loop(_NO_LOOP)
        try:
            return self._context.run(function, *args)
        finally:
            self._set_running_loop(loop)

    def advance(self, key: int | None) -> Any:
        """Runs the coroutine until it waits, because an operation has an outcome or from the
        beginning. Raises what it raises, ``StopIteration`` at its end."""
        collects = gc.isenabled()
        # Which operations are given up must not depend on when garbage is collected.
        gc.disable()
        try:
            yielded = self._guarded(self._send, key)
            kind = type(yielded)
            if kind is Operation or kind is _Keys:
                return PENDING
            foreign = WorkflowCodeError(f"{yielded!r} was awaited: {_FOREIGN}")
            # Thrown where it waits, so that the traceback shows the line.
            self._guarded(self._coroutine.throw, foreign)
            raise foreign
        finally:
            if collects:
                gc.enable()

    def close(self) -> None:
        """Drops the coroutine where it waits."""
        self._guarded(self._coroutine.close)


class _Keys(list[int]):
    """The operations that several awaitables wait for; what they yield together."""

    __slots__ = ()


class _Part:
    """One of several awaitables that go on at the same time."""

    __slots__ = ("_send", "_steps", "awaitable", "is_over", "value")

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        steps: Any = awaitable.__await__()
        self.awaitable: Any = awaitable
        self._steps: Any = steps
        send: Callable[[Any], Any] | None = getattr(steps, "send", None)
        self._send: Any = send if send is not None else lambda _: next(steps)
        self.is_over = False
        self.value: Any = None

    def go_on(self, key: int | None) -> Sequence[int]:
        """Lets it go on; the operations that it waits for now, unless it is over."""
        try:
            yielded = self._send(key)
        except StopIteration as stop:
            self.value = stop.value
            self.is_over = True
            return ()
        if type(yielded) is Operation:
            return (yielded.key,)
        if type(yielded) is _Keys:
            return yielded
        foreign = WorkflowCodeError(f"{yielded!r} was awaited: {_FOREIGN}")
        throw = getattr(self._steps, "throw", None)
        if throw is not None:
            throw(foreign)
        raise foreign

    def give_up(self) -> None:
        """Closes it, unless the workflow still has it: then it can be awaited again."""
        steps, self._steps, self._send = self._steps, None, None
        awaitable: Any = self.awaitable
        if awaitable is None:
            return
        if type(awaitable) is not Operation and type(awaitable) is not CoroutineType:
            # An object that made what is awaited can't be awaited where that stopped.
            close = getattr(steps, "close", None)
            if close is not None:
                close()
        del steps, awaitable
        if _references(self) <= _ALONE:
            close = getattr(self.awaitable, "close", None)
            if close is not None:
                close()
        self.awaitable = None


def _references(part: _Part) -> int:
    return getrefcount(part.awaitable)


class _Lone:
    """Awaitable that only its part has."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        yield None


def _alone() -> int:
    part = _Part(_Lone())
    part._steps = part._send = None
    return _references(part)


#: How many references there are to an awaitable that the workflow does not have.
_ALONE = _alone()


class _Group:
    """Awaitables that go on at the same time. Only those go on whose operations have an outcome."""

    __slots__ = ("_parts", "_waiting")

    def __init__(self, awaitables: Sequence[Awaitable[Any]]) -> None:
        self._parts = [_Part(awaitable) for awaitable in awaitables]
        self._waiting: dict[int, list[int]] = {}

    def _begin(self) -> Generator[Any, Any, None]:
        """Lets each part go on once, then those whose operations have an outcome, for ever."""
        keys = _Keys()
        for index in range(len(self._parts)):
            self._go_on(index, None, keys)
            if self._is_over(index):
                return
        while True:
            key = yield keys
            keys = _Keys()
            for index in self._waiting.pop(key, ()):
                if not self._parts[index].is_over:
                    self._go_on(index, key, keys)
                    if self._is_over(index):
                        return

    def _go_on(self, index: int, key: int | None, keys: _Keys) -> None:
        for wanted in self._poll(self._parts[index], key):
            waiting = self._waiting.get(wanted)
            if waiting is None:
                self._waiting[wanted] = [index]
                keys.append(wanted)
            elif index not in waiting:
                waiting.append(index)

    def _poll(self, part: _Part, key: int | None) -> Sequence[int]:
        return part.go_on(key)

    def _is_over(self, index: int) -> bool:
        """Whether the group is over, after a part of it went on."""
        raise NotImplementedError

    def _give_up(self) -> None:
        for part in self._parts:
            if not part.is_over:
                part.give_up()


class _Gather(_Group):
    __slots__ = ("_keep_errors", "_left")

    def __init__(self, awaitables: Sequence[Awaitable[Any]], keep_errors: bool) -> None:
        super().__init__(awaitables)
        self._keep_errors = keep_errors
        self._left = len(self._parts)

    def __await__(self) -> Generator[Any, Any, list[Any]]:
        try:
            if self._parts:
                yield from self._begin()
        finally:
            self._give_up()
        return [part.value for part in self._parts]

    def _is_over(self, index: int) -> bool:
        if self._parts[index].is_over:
            self._left -= 1
        return self._left == 0

    def _poll(self, part: _Part, key: int | None) -> Sequence[int]:
        if not self._keep_errors:
            return part.go_on(key)
        try:
            return part.go_on(key)
        except WorkflowCodeError:
            raise
        except Exception as error:
            part.value = error
            part.is_over = True
            return ()


class _Race(_Group):
    __slots__ = ("_winner",)

    def __init__(self, awaitables: Sequence[Awaitable[Any]]) -> None:
        super().__init__(awaitables)
        self._winner = 0

    def __await__(self) -> Generator[Any, Any, tuple[int, Any]]:
        try:
            yield from self._begin()
        finally:
            self._give_up()
        return self._winner, self._parts[self._winner].value

    def _is_over(self, index: int) -> bool:
        self._winner = index
        return self._parts[index].is_over


class WorkflowContext:
    """What the code of a workflow may ask for.

    Every operation gets the next number where it is *called*, and begins where it is first awaited.
    Call them in the same order in every execution.
    """

    __slots__ = ("_retry", "_run", "_timeout")

    def __init__(self, run: RunCore) -> None:
        self._run = run
        self._retry: RetryPolicy | None = None
        self._timeout: float | None = None

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self._run.run_id

    @property
    def workflow(self) -> str:
        """Name of the workflow."""
        return self._run.workflow

    @property
    def workflow_version(self) -> int:
        """Version of the workflow that this run follows."""
        return self._run.workflow_version

    @property
    def traceparent(self) -> str | None:
        """W3C trace context of whoever started the run. Its tasks, steps and children get it too."""
        return self._run.traceparent

    @property
    def fence(self) -> Fence | None:
        """Proof that the engine which advances the run owns it, for steps that write to systems outside.
        It changes with the engine, so nothing else may depend on it. ``None`` in tests and replays."""
        return as_fence(self._run.fence)

    def with_retry(self, policy: RetryPolicy) -> WorkflowContext:
        """A context whose tasks and steps are tried again as ``policy`` says."""
        other = copy.copy(self)
        other._retry = policy
        return other

    def with_timeout(self, seconds: float | None) -> WorkflowContext:
        """A context whose tasks and steps may take so long, each attempt. A step that takes longer
        fails with the code ``STEP_TIMEOUT``: a coroutine is cancelled, a plain function runs to its
        end, unheard."""
        other = copy.copy(self)
        other._timeout = seconds
        return other

    @overload
    def task(
        self,
        agent: str,
        parameters: Any = None,
        *,
        result: type[T],
        agent_id: str | None = None,
        timeout: float | None = None,
        total_timeout: float | None = None,
        retry: RetryPolicy | None = None,
    ) -> Awaitable[T]: ...

    @overload
    def task(
        self,
        agent: str,
        parameters: Any = None,
        *,
        result: Any = ...,
        agent_id: str | None = None,
        timeout: float | None = None,
        total_timeout: float | None = None,
        retry: RetryPolicy | None = None,
    ) -> Awaitable[Any]: ...

    def task(
        self,
        agent: str,
        parameters: Any = None,
        *,
        result: Any = Any,
        agent_id: str | None = None,
        timeout: float | None = None,
        total_timeout: float | None = None,
        retry: RetryPolicy | None = None,
    ) -> Awaitable[Any]:
        """Gives a task to an agent and waits for its answer.

        Args:
            agent: Type of the agent.
            parameters: What to do; anything that can be JSON.
            result: What the answer is read as; as it is without it.
            agent_id: The one agent of the type that is to do it.
            timeout: How long one attempt may take, in seconds; for ever without it.
            total_timeout: How long all attempts together may take, in seconds, with the time in queues
                and between attempts.
            retry: When a failed attempt is followed by another.

        Raises:
            TaskError: The last attempt failed; the subclass says how.
            InvalidResultError: The answer does not fit ``result``.
            InvalidDataError: ``parameters`` can't be JSON.
        """
        retry = retry if retry is not None else self._retry
        timeout = timeout if timeout is not None else self._timeout
        return self._run.task(
            agent if type(agent) is str else named(agent),
            parameters,
            agent_id,
            timeout,
            total_timeout,
            _parts(retry),
            _reader(result, "answer", agent),
        )

    @overload
    def step(
        self,
        name: str,
        function: Callable[P, Coroutine[Any, Any, T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Awaitable[T]: ...

    @overload
    def step(
        self, name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]: ...

    def step(
        self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Awaitable[Any]:
        """Runs a function and records its result, once.

        An ``async def`` runs on the event loop of the runtime, a plain function in its thread pool.
        Both see the context variables that the workflow sees where it calls this.
        It may run again if the process dies before the result is recorded. The result goes through
        JSON, and comes back as the type that the function is annotated to return.
        :func:`current_step` tells the function which attempt it is. What the function can't use is
        this context: that raises :class:`WorkflowCodeError`.

        Args:
            name: Names the step in the journal.
            function: What to run; ``args`` and ``kwargs`` are handed to it.

        Raises:
            TaskError: The function raised an exception, in its last attempt. An
                :class:`AiosError` that it raised keeps its code.
        """
        return self._run.step(
            name,
            function,
            _is_async(function),
            args,
            kwargs,
            contextvars.copy_context(),
            self._timeout,
            _parts(self._retry),
            _step_reader(name, function),
        )

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Waits; the timer is durable."""
        return self._run.sleep(seconds)

    @overload
    def signal(
        self, name: str, *, result: type[T], timeout: float | None = None
    ) -> Awaitable[T]: ...

    @overload
    def signal(
        self, name: str, *, result: Any = ..., timeout: float | None = None
    ) -> Awaitable[Any]: ...

    def signal(
        self, name: str, *, result: Any = Any, timeout: float | None = None
    ) -> Awaitable[Any]:
        """Waits for a signal with this name. One that came before is taken at once; each is taken
        by one wait, in the order of their coming.

        Args:
            name: Name of the signal.
            result: What its payload is read as.
            timeout: How long to wait, in seconds; for ever without it.

        Raises:
            SignalTimeoutError: It did not come in time.
        """
        return self._run.signal(name, timeout, _reader(result, "signal", name))

    @overload
    def child(
        self,
        workflow: Workflow[I, O],
        input: I = ...,
        *,
        id: str | None = None,
        leave_running: bool = False,
    ) -> Awaitable[O]: ...

    @overload
    def child(
        self,
        workflow: str,
        input: Any = ...,
        *,
        id: str | None = None,
        leave_running: bool = False,
    ) -> Awaitable[Any]: ...

    def child(
        self,
        workflow: Workflow[Any, Any] | str,
        input: Any = MISSING,
        *,
        id: str | None = None,
        leave_running: bool = False,
    ) -> Awaitable[Any]:
        """Starts a run of another workflow and waits for its end.

        Args:
            workflow: The workflow, or its name.
            input: What it is given.
            id: Id of the run; derived from this run's id and the operation without it.
            leave_running: Whether the child goes on if this run is cancelled. By default it is
                cancelled too, and its compensations run.

        Raises:
            TaskError: The child failed; with the code of its failure.
            InvalidParametersError: The workflow takes an input, and there is none.
        """
        if isinstance(workflow, Workflow):
            read, input = workflow.read_result, workflow.input(input)
            return self._run.child(workflow.name, input, id, leave_running, read)
        input = None if input is MISSING else input
        return self._run.child(workflow, input, id, leave_running, None)

    def gather(
        self, *awaitables: Awaitable[T], return_exceptions: bool = False
    ) -> Awaitable[list[T]]:
        """Waits for all of them; the results stand in their order.

        Args:
            awaitables: Operations, or coroutines that await operations.
            return_exceptions: Puts exceptions among the results. Otherwise the first one is raised
                and the other operations are given up, unless the workflow still has them.
        """
        return cast("Awaitable[list[T]]", _Gather(awaitables, return_exceptions))

    def race(self, *awaitables: Awaitable[T]) -> Awaitable[tuple[int, T]]:
        """Waits for the first one: the one whose outcome stands first in the journal, in every
        replay.

        The others are given up, unless the workflow still has them: an operation in a variable can
        be raced or awaited again, for example a deadline that a loop races with each item.

        Returns:
            Which one it is, counted from 0, and its result. If it raised, so does this.
        """
        if not awaitables:
            raise WorkflowCodeError("a race of nothing never ends")
        return cast("Awaitable[tuple[int, T]]", _Race(awaitables))

    def emit(self, event_type: str, data: Any = None) -> None:
        """Appends an event to the log, from where it is relayed to the broker, once.

        Args:
            event_type: ``domain.entity.action``.
            data: Anything that can be JSON.
        """
        self._run.emit(event_type, data)

    def set_status(self, text: str, progress: Any = None) -> None:
        """Says what the workflow is doing, and how far it is, for those who look from outside."""
        self._run.set_status(text, progress)

    def compensate(
        self,
        name: str,
        undo: Callable[..., Coroutine[Any, Any, Any]],
        *args: Any,
    ) -> None:
        """Runs ``undo(context, *args)`` if the run fails or is cancelled later. Compensations run in
        reverse order; one that fails does not keep the others from running.

        Raises:
            WorkflowCodeError: ``undo`` is no ``async def``, or does not take the context and ``args``.
        """
        _check_undo(name, undo, args)
        self._run.compensate(name, _BeginUndo(lambda context: undo(context, *args)))

    def continue_as_new(self, input: Any = None) -> ContinueAsNew:
        """``raise context.continue_as_new(input)`` ends this run and goes on as a new one with an
        empty journal."""
        return ContinueAsNew(input)

    def now(self) -> datetime.datetime:
        """The time of the event that let the workflow go on, in UTC: the same in every replay."""
        from ._records import moment

        return moment(self._run.now_micros())

    def uuid(self) -> uuid.UUID:
        """A UUID that is the same in every replay and different in every call."""
        import uuid

        return uuid.UUID(self._run.uuid())

    def random(self) -> float:
        """A number from 0 (included) to 1 (excluded) that is the same in every replay."""
        return self._run.random()

    def version(self, change: str, oldest: int, newest: int) -> int:
        """Which version of a change this run follows, so that old and new code live side by side.

        New runs follow the newest; runs that passed here before the change was made, the oldest.

        Raises:
            TaskError: With code ``UNKNOWN_VERSION``, if the run follows one outside the range. Whatever
                the code makes of it, the run moves to an engine whose code knows that version, or is
                blocked until there is one.
        """
        return self._run.version(change, oldest, newest)


def _parts(policy: RetryPolicy | None) -> tuple[Any, ...] | None:
    return None if policy is None else tuple(policy)


def _check_undo(name: str, undo: Callable[..., Any], args: tuple[Any, ...]) -> None:
    import inspect

    from ._signature import is_async

    if not is_async(undo):
        raise WorkflowCodeError(
            f"compensation {name!r} has to be an `async def` of a context; put plain functions into "
            "a step: `async def undo(context): await context.step(name, function)`"
        )
    try:
        inspect.signature(undo).bind(None, *args)
    except TypeError as error:
        raise WorkflowCodeError(
            f"compensation {name!r} is called with a context and {len(args)} arguments: {error}"
        ) from error


def named(agent: Any) -> str:
    """The type of an agent, which is a text.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(agent, str):
        return agent
    from ._agent import agent_type

    try:
        hint = f"pass {agent_type(agent)!r} instead of"
    except ConfigurationError:
        hint = "not"
    raise TypeError(f"tasks are given to a type of agents, which is a text: {hint} {agent!r}")


_READERS: dict[Any, Callable[[Any, str], Any] | None] = {Any: None}


def _reader(kind: Any, what: str, name: str) -> Callable[[Any], Any] | None:
    """Reads results of a type, which are ``what`` of ``name``."""
    try:
        read = _READERS[kind]
    except KeyError:
        read = _READERS[kind] = _read_as(kind)
    if read is None:
        return None
    made = read
    return lambda value: made(value, f"the {_WHAT[what]} {name!r}")


def _is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it makes a coroutine; quick for what ``async def`` and ``def`` make."""
    if type(function) is FunctionType:
        if function.__code__.co_flags & _COROUTINE:
            return True
        if not function.__dict__:
            # Nothing marks it as what it does not look like.
            return False
    from ._signature import is_async

    return is_async(function)


#: Flag of the code of an ``async def``.
_COROUTINE = 0x80

_WHAT = {"answer": "answer of agent", "signal": "signal"}


def _read_as(kind: Any) -> Callable[[Any, str], Any] | None:
    """Reads a type; made once a type."""
    from ._convert import Converter

    try:
        converter = Converter(kind)
    except TypeError as error:
        raise ConfigurationError(f"result: {error}") from error
    if converter.is_trivial:
        return None

    return functools.partial(_read_result, converter)


def _read_result(converter: Converter, value: Any, what: str) -> Any:
    try:
        return converter.read(value, what)
    except InvalidParametersError as error:
        raise InvalidResultError(error.message, details=error.details, retryable=False) from None


#: How results of steps are read, by the identity of their code: hashing code takes long.
_STEP_READERS: dict[int, tuple[CodeType, Callable[[Any, str], Any] | None]] = {}


def _step_reader(name: str, function: Callable[..., Any]) -> Callable[[Any], Any] | None:
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    known = _STEP_READERS.get(id(code))
    if known is not None and known[0] is code:
        read = known[1]
    else:
        read = _step_type(function)
        if code is not None:
            _STEP_READERS[id(code)] = (code, read)
    if read is None:
        return None
    made = read
    return lambda value: made(value, f"the result of step {name!r}")


def _step_type(function: Callable[..., Any]) -> Callable[[Any, str], Any] | None:
    from ._signature import hints

    try:
        return _read_as(hints(function, {}).get("return", Any))
    except (AiosError, TypeError, AttributeError):
        # Functions of others are not annotated for this; their results stay JSON.
        return None


class StepContext(NamedTuple):
    """What a step knows of its attempt.

    Attributes:
        attempt: Its number, from 1.
        idempotency_key: The same text in every attempt of this step and in no other step, also if a
            later run uses the id of this one again: hand it to outside systems, so that they
            recognise a repetition.
        fence: Proof that the engine which runs the step owns its run; ``None`` in tests.
    """

    attempt: int
    idempotency_key: str
    fence: Fence | None = None


def _step_context(attempt: int, key: str, fence: tuple[int, int] | None) -> StepContext:
    return StepContext(attempt, key, as_fence(fence))


_step: contextvars.ContextVar[StepContext] = contextvars.ContextVar("aios_step")


def current_step() -> StepContext:
    """What the step that runs knows of its attempt.

    Raises:
        LookupError: No step runs here.
    """
    return _step.get()


def start_async_step(
    reply: Reply,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: contextvars.Context,
    step: tuple[int, str, tuple[int, int] | None],
) -> asyncio.Task[None]:
    """Starts an async step on the loop; what Rust calls."""
    context.run(_step.set, _step_context(*step))
    # A task takes a copy of the context in which it is made.
    create = _get_running_loop()().create_task
    return context.run(create, _run_async_step(reply, function, args, kwargs))


@functools.cache
def _get_running_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    from asyncio import get_running_loop

    return get_running_loop


async def _run_async_step(
    reply: Reply, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    try:
        value = await function(*args, **kwargs)
    except BaseException as error:
        reply.fail(error)
        if not isinstance(error, Exception):
            raise
    else:
        reply.done(value)


def run_plain_step(
    reply: Reply,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: contextvars.Context,
    step: tuple[int, str, tuple[int, int] | None],
) -> None:
    """Runs a plain step in the pool; what Rust calls."""
    try:
        copied = context.copy()
        copied.run(_step.set, _step_context(*step))
        value = copied.run(function, *args, **kwargs)
    except BaseException as error:
        reply.fail(error)
    else:
        reply.done(value)


if TYPE_CHECKING:
    _operation_is_awaitable: type[Awaitable[Any]] = Operation
