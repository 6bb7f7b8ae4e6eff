"""The operations of a workflow."""

from __future__ import annotations

import contextvars
import copy
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from .._agent import agent_type_name
from .._clients.results import result_reader, step_result_reader
from .._errors import WorkflowCodeError
from .._retry import retry_row
from .._types.validation import check_flag, check_int_range, check_number, check_str, check_text
from .arguments import own_args, own_kwargs
from .combinators import Gather, Race
from .definition import MISSING, ContinueAsNew, Workflow
from .driver import BeginCompensation, check_compensation
from .fence import Fence, as_fence
from .steps import is_async_function, yields

if TYPE_CHECKING:
    import datetime
    import uuid

    from .._aios import NativeWorkflowContext, Operation
    from .._retry import RetryPolicy

T = TypeVar("T")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
I = TypeVar("I")
O = TypeVar("O")
P = ParamSpec("P")


class WorkflowContext:
    """The operations that a workflow can use.

    An operation gets its number when the method is *called*, and starts when it is first awaited. A
    workflow must call operations in the same order in every execution.

    The workflow sees the outcome of an operation only while it waits: nothing ends while its code runs.
    So it can't ask in a loop whether an operation has ended. Await the operation, or :meth:`race` it
    against another one, such as a short :meth:`sleep`, and keep it in a variable to race it again.
    """

    __slots__ = ("_native", "_retry", "_timeout")

    def __init__(self, native: NativeWorkflowContext) -> None:
        self._native = native
        self._retry: tuple[Any, ...] | None = None
        self._timeout: float | None = None

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self._native.run_id

    @property
    def workflow(self) -> str:
        """Name of the workflow."""
        return self._native.workflow

    @property
    def workflow_version(self) -> int:
        """Version of the workflow that this run executes."""
        return self._native.workflow_version

    @property
    def traceparent(self) -> str | None:
        """W3C trace context of the run: its own span. Its steps inherit it; its tasks and children have others."""
        return self._native.traceparent

    @property
    def fence(self) -> Fence | None:
        """Proof that the engine which executes the run owns it, for steps that write to external
        systems. It changes when another engine takes over, so the workflow must not branch on it.
        ``None`` in tests and replays."""
        return as_fence(self._native.fence)

    def with_retry(self, policy: RetryPolicy) -> WorkflowContext:
        """A context whose tasks and steps are retried by ``policy``."""
        other = copy.copy(self)
        other._retry = retry_row(policy)
        return other

    def with_timeout(self, seconds: float | None) -> WorkflowContext:
        """A context whose tasks and steps have a timeout for each attempt. A step that exceeds it
        fails with the code ``STEP_TIMEOUT``: a coroutine is cancelled; a plain function runs to
        completion, and its result is discarded. The time of a plain function counts from when it gets
        a thread. While it runs after its attempt has ended, it occupies the thread, and is reported in
        the log."""
        if seconds is not None:
            check_number(seconds, "seconds")
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
        """Assigns a task to an agent and waits for its answer.

        Args:
            agent: Type of the agent.
            parameters: Parameters of the task; anything that can be serialised to JSON.
            result: Type of the answer; plain JSON values by default.
            agent_id: Id of the one agent of the type that should do it.
            timeout: Timeout of each attempt, in seconds; none by default.
            total_timeout: Timeout of all attempts together, in seconds, including the time in queues
                and between attempts; none by default.
            retry: Retry policy; :class:`RetryPolicy` by default.

        Raises:
            TaskError: The last attempt failed; the subclass says how.
            InvalidResultError: The answer does not match ``result``.
            InvalidDataError: ``parameters`` cannot be serialised to JSON.
            ConfigurationError: The type of the agent is not a valid name.
        """
        if timeout is None:
            timeout = self._timeout
        else:
            check_number(timeout, "timeout")
        if total_timeout is not None:
            check_number(total_timeout, "total_timeout")
        if agent_id is not None:
            check_str("agent_id", agent_id)
        return self._native.task(
            agent if type(agent) is str else agent_type_name(agent),
            parameters,
            agent_id,
            timeout,
            total_timeout,
            self._retry if retry is None else retry_row(retry),
            result_reader(result, "answer", agent),
        )

    @overload
    def step(
        self,
        name: str,
        function: Callable[P, Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Awaitable[T]: ...

    @overload
    def step(
        self, name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]: ...

    def step(
        self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Awaitable[Any]:
        """Runs a function and records its result once.

        An ``async def`` runs on the event loop of the runtime, a plain function in its thread pool.
        Both see the context variables of the workflow at the time of this call. The function runs
        again if the process dies before its result is recorded. The result is serialised to JSON,
        and is returned as the type of the function's return annotation. In the function,
        :func:`current_step` tells the attempt. The function can't use this context: its methods
        raise :class:`WorkflowCodeError` there.

        Each attempt gets copies of arguments that are data: of containers, dataclasses and models. What it
        changes in them is lost, because the step does not run in a replay: return it. Other objects, such
        as clients, are passed as they are.

        ``SystemExit`` and ``asyncio.CancelledError`` of the function fail the attempt, like every other
        exception, and are retried; the latter has the code ``INTERRUPTED``. ``KeyboardInterrupt`` in an
        ``async def``, or ``SystemExit`` of a signal handler that interrupts it, ends the process instead,
        and the attempt does not count.

        Args:
            name: Name of the step in the journal.
            function: What to run, with ``args`` and ``kwargs``.

        Raises:
            TaskError: The function raised an exception in its last attempt. The code of an
                :class:`AiosError` is kept.
            WorkflowCodeError: ``function`` can't be called, yields its result, or has a return
                annotation that can't be read from JSON.
        """
        if type(name) is not str:
            check_str("the name of a step", name)
        if not callable(function):
            raise WorkflowCodeError(
                f"step {name!r} takes a function and its arguments, not the result of a call: write "
                f"`context.step({name!r}, function, argument)`, not `function(argument)`"
            )
        if yields(function):
            raise WorkflowCodeError(
                f"the function of step {name!r} must return its result, not yield pieces of it"
            )
        return self._native.step(
            name,
            function,
            is_async_function(function),
            own_args(args),
            own_kwargs(kwargs) if kwargs else None,
            contextvars.copy_context(),
            self._timeout,
            self._retry,
            step_result_reader(name, function),
        )

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Sleeps on a durable timer."""
        if type(seconds) is not float:
            check_number(seconds, "seconds")
        return self._native.sleep(seconds)

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
        """Waits for a signal with this name. A signal that arrived earlier is received immediately.
        Each signal is received once, in the order of arrival.

        Args:
            name: Name of the signal.
            result: Type of the payload; plain JSON values by default.
            timeout: How long to wait, in seconds; indefinitely by default.

        Raises:
            SignalTimeoutError: No signal arrived in time.
            ConfigurationError: No signal can have this name: it has 1 to 200 bytes, without control
                characters.
            InvalidResultError: The payload does not match ``result``.
        """
        check_str("the name of a signal", name)
        if timeout is not None:
            check_number(timeout, "timeout")
        return self._native.signal(name, timeout, result_reader(result, "signal", name))

    @overload
    def child(
        self,
        workflow: Workflow[I, O],
        input: I = ...,
        *,
        id: str | None = None,
        leave_running: bool = False,
        cancel_when_dropped: bool = False,
    ) -> Awaitable[O]: ...

    @overload
    def child(
        self,
        workflow: str,
        input: Any = ...,
        *,
        id: str | None = None,
        leave_running: bool = False,
        cancel_when_dropped: bool = False,
    ) -> Awaitable[Any]: ...

    def child(
        self,
        workflow: Workflow[Any, Any] | str,
        input: Any = MISSING,
        *,
        id: str | None = None,
        leave_running: bool = False,
        cancel_when_dropped: bool = False,
    ) -> Awaitable[Any]:
        """Starts a run of another workflow and waits until it ends. The child waits while no engine
        has its workflow.

        Args:
            workflow: The workflow, or its name.
            input: Its input.
            id: Id of the run; by default derived from this run's id and the operation. It must not
                contain ``~``, as :attr:`run_id` does in a child and in a run that continues another:
                write ``context.run_id.replace("~", ".")`` to make an id of that.
            leave_running: Whether the child continues if this run is cancelled. By default it is
                cancelled too, and its compensations run.
            cancel_when_dropped: Whether the child is cancelled if the workflow no longer waits for
                it, because it has lost a :meth:`race`, say. By default it continues.

        Raises:
            TaskError: The child failed; ``code`` is the code of its failure.
            InvalidParametersError: The workflow requires an input.
            ConfigurationError: The name of the workflow, or the id, is invalid.
        """
        if isinstance(workflow, Workflow):
            read, input = workflow.read_result, workflow.input(input)
            name = workflow.name
        else:
            check_str("the name of a workflow", workflow)
            name, read, input = workflow, None, None if input is MISSING else input
        check_text("a run id", id)
        check_flag(leave_running, "leave_running")
        check_flag(cancel_when_dropped, "cancel_when_dropped")
        return self._native.child(name, input, id, leave_running, cancel_when_dropped, read)

    def gather(
        self, *awaitables: Awaitable[T], return_exceptions: bool = False
    ) -> Awaitable[list[T]]:
        """Waits for all awaitables. The results are in the order of the arguments.

        Coroutines see copies of the context variables. What it returns can be awaited in several
        places, and again if it has lost a :meth:`race`.

        Args:
            awaitables: Operations, or coroutines that await operations.
            return_exceptions: Returns exceptions among the results, except :class:`ContinueAsNew` and
                :class:`WorkflowCodeError`. Otherwise the first exception is
                raised, and the other operations are cancelled unless the workflow still refers to
                them.
        """
        return cast("Awaitable[list[T]]", Gather(awaitables, return_exceptions))

    @overload
    def race(
        self, first: Awaitable[T], second: Awaitable[T2], /
    ) -> Awaitable[tuple[int, T | T2]]: ...

    @overload
    def race(
        self, first: Awaitable[T], second: Awaitable[T2], third: Awaitable[T3], /
    ) -> Awaitable[tuple[int, T | T2 | T3]]: ...

    @overload
    def race(self, *awaitables: Awaitable[T]) -> Awaitable[tuple[int, T]]: ...

    def race(self, *awaitables: Awaitable[Any]) -> Awaitable[tuple[int, Any]]:
        """Waits for the first awaitable: in every replay, the one whose outcome is first in the
        journal.

        The others are cancelled, unless the workflow still refers to them: an operation in a
        variable can be raced or awaited again, for example a deadline that a loop races with each
        item. A coroutine in a variable can be passed to ``race`` or ``gather`` again, but not awaited
        itself. A coroutine that is cancelled can't await in its ``finally`` blocks.

        Returns:
            The index of the first awaitable, and its result. If it raised, so does this.

        Raises:
            WorkflowCodeError: There are no awaitables.
        """
        if not awaitables:
            raise WorkflowCodeError("race needs at least one awaitable")
        return cast("Awaitable[tuple[int, Any]]", Race(awaitables))

    def emit(self, event_type: str, data: Any = None) -> None:
        """Appends an event to the log once. The relay then publishes it to the broker.

        Args:
            event_type: ``domain.entity.action``.
            data: Anything that can be serialised to JSON.

        Raises:
            InvalidDataError: ``data`` cannot be serialised to JSON, or the type is invalid.
        """
        check_str("an event type", event_type)
        self._native.emit(event_type, data)

    def set_status(self, text: str, progress: Any = None) -> None:
        """Sets the status text and progress that clients see."""
        check_str("a status text", text)
        self._native.set_status(text, progress)

    def compensate(
        self,
        name: str,
        undo: Callable[..., Coroutine[Any, Any, Any]],
        *args: Any,
    ) -> None:
        """Registers ``undo(context, *args)`` to run if the run fails or is cancelled later.
        Compensations run in reverse order; if one fails, the others still run.

        Raises:
            WorkflowCodeError: ``undo`` is not an ``async def``, or does not accept the context and
                ``args``.
        """
        check_str("the name of a compensation", name)
        check_compensation(name, undo, args)
        begin = BeginCompensation(lambda native: undo(WorkflowContext(native), *args))
        self._native.compensate(name, begin)

    def set_failure_detail(self, field: str, value: Any) -> None:
        """Adds a field to the details of the failure with which the run ends, if it fails or is cancelled.
        Called in a compensation, it says what the run leaves behind; the parent of the run gets the
        failure. A later value of the same field replaces it. Details that are not an object move to the
        field ``cause``.

        Raises:
            InvalidDataError: ``value`` cannot be serialised to JSON.
        """
        check_str("the field of a failure detail", field)
        self._native.set_failure_detail(field, value)

    def continue_as_new(self, input: Any = None) -> ContinueAsNew:
        """``raise context.continue_as_new(input)`` ends this run and continues it as a new run with
        an empty journal. The new run takes over the signals that were not received, but not the
        compensations: these are discarded."""
        return ContinueAsNew(input)

    def now(self) -> datetime.datetime:
        """The time of the event that resumed the workflow, in UTC: the same in every replay."""
        from .._clients.records import moment

        return moment(self._native.now_micros())

    def uuid(self) -> uuid.UUID:
        """A UUID that is the same in every replay and different in every call."""
        import uuid

        return uuid.UUID(self._native.uuid())

    def random(self) -> float:
        """A number in the range [0, 1) that is the same in every replay."""
        return self._native.random()

    def version(self, change: str, oldest: int, newest: int) -> int:
        """Which version of a change this run executes, so that old and new code run side by side.

        New runs execute the newest version; runs that executed this point before the change was made
        execute the oldest.

        Raises:
            TaskError: With code ``UNKNOWN_VERSION``, if the run executes a version outside the range.
                Even if the workflow catches it, the run moves to an engine whose code knows that
                version, or is blocked until there is one.
            ConfigurationError: ``oldest`` or ``newest`` is negative, or has more than 32 bits.
        """
        check_str("change", change)
        check_int_range(oldest, "oldest", 0, 2**32 - 1)
        check_int_range(newest, "newest", 0, 2**32 - 1)
        return self._native.version(change, oldest, newest)


class Begin:
    """Makes the coroutine of a run. Called by the native module."""

    __slots__ = ("_base", "_workflow")

    def __init__(self, workflow: Workflow[Any, Any]) -> None:
        self._workflow = workflow
        self._base = contextvars.copy_context()

    def __call__(self, run: NativeWorkflowContext, input: Any) -> Coroutine[Any, Any, Any]:
        workflow = self._workflow
        return workflow._begin(WorkflowContext(run), workflow.read_input(input))

    def check_result(self, value: Any) -> None:
        """Checks what the workflow has returned."""
        self._workflow.check_result(value)

    def context(self) -> contextvars.Context:
        """A copy of the context variables at the time the runtime was opened."""
        return self._base.copy()


if TYPE_CHECKING:
    _operation_is_awaitable: type[Awaitable[Any]] = Operation
