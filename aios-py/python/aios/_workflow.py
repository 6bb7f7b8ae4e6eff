"""Workflows: coroutines that the engine drives and that survive any crash."""

from __future__ import annotations

import contextvars
import copy
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar, cast, overload

from . import _trace
from ._aios import PENDING
from ._errors import AiosError, WorkflowCodeError

if TYPE_CHECKING:
    import asyncio
    import datetime
    import uuid

    from ._aios import Operation, Reply, RunCore
    from ._retry import RetryPolicy

T = TypeVar("T")
I = TypeVar("I")
O = TypeVar("O")
O_co = TypeVar("O_co", covariant=True)
I_contra = TypeVar("I_contra", contravariant=True)
P = ParamSpec("P")

_FOREIGN = (
    "a workflow can only await operations of its context (task, step, sleep, signal, child, gather, "
    "race); instead of asyncio.sleep use `await context.sleep(seconds)`, instead of asyncio.gather "
    "`await context.gather(...)`, and put everything else into an async function and "
    "`await context.step(\"name\", function)`"
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
        from ._signature import is_async, signature, surroundings

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

    def read_result(self, value: Any) -> O:
        """A result of a run as the type that the function returns."""
        return cast("O", self._signature.output.read(value, "results"))

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
    """
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
            input = found.read(input, "inputs")
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

    def advance(self) -> Any:
        """Runs the coroutine until it waits. Raises what it raises, ``StopIteration`` at its end."""
        yielded = self._guarded(self._send, None)
        if yielded is PENDING:
            return PENDING
        foreign = WorkflowCodeError(f"{yielded!r} was awaited: {_FOREIGN}")
        # Thrown where it waits, so that the traceback shows the line.
        self._guarded(self._coroutine.throw, foreign)
        raise foreign

    def close(self) -> None:
        """Drops the coroutine where it waits."""
        self._guarded(self._coroutine.close)


class _Part:
    """One of several awaitables that go on at the same time."""

    __slots__ = ("_close", "_next", "_throw", "value")

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        steps: Any = awaitable.__await__()
        self._next: Callable[[], Any] = steps.__next__
        self._throw: Any = getattr(steps, "throw", None)
        self._close: Any = getattr(steps, "close", None)
        self.value: Any = None

    def poll(self) -> bool:
        """Lets it go on; whether it is over."""
        try:
            yielded = self._next()
        except StopIteration as stop:
            self.value = stop.value
            return True
        if yielded is PENDING:
            return False
        foreign = WorkflowCodeError(f"{yielded!r} was awaited: {_FOREIGN}")
        if self._throw is not None:
            self._throw(foreign)
        raise foreign

    def close(self) -> None:
        if self._close is not None:
            self._close()


class _Gather:
    __slots__ = ("_keep_errors", "_parts")

    def __init__(self, awaitables: Sequence[Awaitable[Any]], keep_errors: bool) -> None:
        self._parts = [_Part(awaitable) for awaitable in awaitables]
        self._keep_errors = keep_errors

    def __await__(self) -> Generator[Any, None, list[Any]]:
        waiting = self._parts
        try:
            while waiting:
                waiting = [part for part in waiting if not self._poll(part)]
                if waiting:
                    yield PENDING
        finally:
            for part in waiting:
                part.close()
        return [part.value for part in self._parts]

    def _poll(self, part: _Part) -> bool:
        if not self._keep_errors:
            return part.poll()
        try:
            return part.poll()
        except WorkflowCodeError:
            raise
        except Exception as error:
            part.value = error
            return True


class _Race:
    __slots__ = ("_parts",)

    def __init__(self, awaitables: Sequence[Awaitable[Any]]) -> None:
        self._parts = [_Part(awaitable) for awaitable in awaitables]

    def __await__(self) -> Generator[Any, None, tuple[int, Any]]:
        try:
            while True:
                for index, part in enumerate(self._parts):
                    if part.poll():
                        return index, part.value
                yield PENDING
        finally:
            for part in self._parts:
                part.close()


class WorkflowContext:
    """What the code of a workflow may ask for.

    Every operation gets the next number where it is *called*, and begins where it is first awaited.
    Call them in the same order in every execution.
    """

    __slots__ = ("_retry", "_run")

    def __init__(self, run: RunCore) -> None:
        self._run = run
        self._retry: RetryPolicy | None = None

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

    def with_retry(self, policy: RetryPolicy) -> WorkflowContext:
        """A context whose tasks and steps are tried again as ``policy`` says."""
        other = copy.copy(self)
        other._retry = policy
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
        retry: RetryPolicy | None = None,
    ) -> Awaitable[T]: ...

    @overload
    def task(
        self,
        agent: str,
        parameters: Any = None,
        *,
        agent_id: str | None = None,
        timeout: float | None = None,
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
        retry: RetryPolicy | None = None,
    ) -> Awaitable[Any]:
        """Gives a task to an agent and waits for its answer.

        Args:
            agent: Type of the agent.
            parameters: What to do; anything that can be JSON.
            result: What the answer is read as; as it is without it.
            agent_id: The one agent of the type that is to do it.
            timeout: How long one attempt may take, in seconds; for ever without it.
            retry: When a failed attempt is followed by another.

        Raises:
            TaskError: The last attempt failed; the subclass says how.
            InvalidDataError: ``parameters`` can't be JSON.
        """
        retry = retry if retry is not None else self._retry
        return self._run.task(agent, parameters, agent_id, timeout, _parts(retry), _reader(result))

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

        Args:
            name: Names the step in the journal.
            function: What to run; ``args`` and ``kwargs`` are handed to it.

        Raises:
            TaskError: The function raised an exception, in its last attempt. An
                :class:`AiosError` that it raised keeps its code.
        """
        from ._signature import is_async

        return self._run.step(
            name,
            function,
            is_async(function),
            args,
            kwargs,
            contextvars.copy_context(),
            _parts(self._retry),
            _step_reader(function),
        )

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Waits; the timer is durable."""
        return self._run.sleep(seconds)

    @overload
    def signal(
        self, name: str, *, result: type[T], timeout: float | None = None
    ) -> Awaitable[T]: ...

    @overload
    def signal(self, name: str, *, timeout: float | None = None) -> Awaitable[Any]: ...

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
        return self._run.signal(name, timeout, _reader(result))

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
        input: Any = None,
        *,
        id: str | None = None,
        leave_running: bool = False,
    ) -> Awaitable[Any]: ...

    def child(
        self,
        workflow: Workflow[Any, Any] | str,
        input: Any = None,
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
        """
        if isinstance(workflow, Workflow):
            read = workflow.read_result
            return self._run.child(workflow.name, input, id, leave_running, read)
        return self._run.child(workflow, input, id, leave_running, None)

    def gather(
        self, *awaitables: Awaitable[T], return_exceptions: bool = False
    ) -> Awaitable[list[T]]:
        """Waits for all of them; the results stand in their order.

        Args:
            awaitables: Operations, or coroutines that await operations.
            return_exceptions: Puts exceptions among the results. Otherwise the first one is raised
                and the other operations are given up.
        """
        return cast("Awaitable[list[T]]", _Gather(awaitables, return_exceptions))

    def race(self, *awaitables: Awaitable[T]) -> Awaitable[tuple[int, T]]:
        """Waits for the first one, and gives up the others.

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
        reverse order; one that fails does not keep the others from running."""
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
            TaskError: With code ``UNKNOWN_VERSION``, if the run follows one outside the range.
        """
        return self._run.version(change, oldest, newest)


def _parts(policy: RetryPolicy | None) -> tuple[Any, ...] | None:
    return None if policy is None else tuple(policy)


_READERS: dict[Any, Callable[[Any], Any] | None] = {Any: None}


def _reader(kind: Any) -> Callable[[Any], Any] | None:
    """Reads results of a type; made once a type."""
    try:
        return _READERS[kind]
    except KeyError:
        from ._convert import Converter

        converter = Converter(kind)
        made = None if converter.is_trivial else lambda value: converter.read(value, "results")
        _READERS[kind] = made
        return made


def _step_reader(function: Callable[..., Any]) -> Callable[[Any], Any] | None:
    code = getattr(function, "__func__", function)
    key = ("step", getattr(code, "__code__", None))
    if key[1] is not None and key in _READERS:
        return _READERS[key]
    from ._signature import hints

    try:
        found = hints(function, {}).get("return", Any)
        made = _reader(found)
    except (AiosError, TypeError, AttributeError):
        # Functions of others are not annotated for this; their results stay JSON.
        made = None
    if key[1] is not None:
        _READERS[key] = made
    return made


def start_async_step(
    reply: Reply,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: contextvars.Context,
) -> asyncio.Task[None]:
    """Starts an async step on the loop; what Rust calls."""
    from asyncio import get_running_loop

    # A task takes a copy of the context in which it is made.
    create = get_running_loop().create_task
    return context.run(create, _run_async_step(reply, function, args, kwargs))


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
) -> None:
    """Runs a plain step in the pool; what Rust calls."""
    try:
        value = context.copy().run(function, *args, **kwargs)
    except BaseException as error:
        reply.fail(error)
    else:
        reply.done(value)


if TYPE_CHECKING:
    _operation_is_awaitable: type[Awaitable[Any]] = Operation
