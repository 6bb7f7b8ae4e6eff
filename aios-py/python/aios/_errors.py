"""Exceptions: one class hierarchy under :class:`AiosError`."""

from __future__ import annotations

from typing import Any, ClassVar


class AiosError(Exception):
    """Base class of all errors that aios raises.

    Attributes:
        code: Stable name of the kind of error, for example ``"TASK_TIMEOUT"``.
        details: Additional information for programs; JSON, or ``None``.
        retryable: Whether the same call may succeed later.
    """

    default_code: ClassVar[str] = "AIOS_ERROR"
    #: Name of the workflow operation that raised it, for the failure of the run.
    _operation: str | None = None
    #: The JSON text of the details, which may have more digits than their numbers.
    _details_text: str | None = None

    code: str
    details: Any
    retryable: bool

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        details: Any = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.details = details
        self.retryable = retryable

    @property
    def message(self) -> str:
        """Human-readable description."""
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> Any:
        return (type(self), self.args, self.__dict__)


class TaskError(AiosError):
    """A task failed. Raise it in an agent or a step to set the code and whether to retry.

    Unlike other errors it is retryable by default; see :meth:`terminal`.
    """

    default_code = "TASK_FAILED"

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        details: Any = None,
        retryable: bool = True,
    ) -> None:
        super().__init__(message, code=code, details=details, retryable=retryable)

    @classmethod
    def terminal(cls, message: str, *, code: str | None = None, details: Any = None) -> TaskError:
        """A permanent failure, which is not retried."""
        return cls(message, code=code, details=details, retryable=False)


class TaskTimeoutError(TaskError):
    """An attempt exceeded its timeout. Its work may have been done: a repetition has the same
    idempotency key."""

    default_code = "TASK_TIMEOUT"


class TaskCancelledError(TaskError):
    """The task was cancelled."""

    default_code = "TASK_CANCELLED"


class TaskInterruptedError(TaskError):
    """The code of the task raised ``asyncio.CancelledError``. Or its event loop stopped, or an exception
    that ends the process left the code, and the process was still running 5 s later. The attempt is
    retried."""

    default_code = "INTERRUPTED"


class InvalidParametersError(TaskError):
    """Parameters do not match the agent's type. ``details`` lists ``{"path", "fault"}`` for every
    violation, where the path is a JSON pointer."""

    default_code = "INVALID_PARAMETERS"


class InvalidOutputError(TaskError):
    """The result of an agent, a step or a workflow cannot be serialised to JSON.
    Return a type that can be converted."""

    default_code = "INVALID_OUTPUT"


class InvalidResultError(TaskError):
    """A result does not match the requested type. ``details`` lists ``{"path", "fault"}`` for every
    violation, where the path is a JSON pointer."""

    default_code = "INVALID_RESULT"


class AgentNotFoundError(TaskError):
    """No process hosts agents of this type. Start one, or correct the name of the type."""

    default_code = "AGENT_NOT_FOUND"


class SignalTimeoutError(TaskError):
    """No signal arrived in time. Catch it to continue with a default."""

    default_code = "SIGNAL_TIMEOUT"


#: A millennium in seconds, more than any timer has: longer delays count as this one.
_LONGEST_DELAY = 1000 * 365 * 86_400


class ModelError(TaskError):
    """A request to a language model failed. Raise it in a model that is a function."""

    default_code = "MODEL_BACKEND"

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        details: Any = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
        input_tokens: int = 0,
        output_tokens: int = 0,
    ) -> None:
        """
        Args:
            message: Human-readable description.
            code: What happened, for example ``"MODEL_RATE_LIMITED"`` or ``"MODEL_TIMEOUT"``.
            details: Additional information for programs; made from the other arguments by default.
            retryable: Whether another request may succeed; the code decides by default.
            retry_after: How many seconds to wait before the next request.
            input_tokens: Input tokens that are billed although the request failed.
            output_tokens: Output tokens that are billed although the request failed.
        """
        if retryable is None:
            from ._aios import DEFAULTS

            retryable = (code or self.default_code) in DEFAULTS.retryable_model_errors
        if details is None:
            details = {"retryable": retryable}
            if retry_after is not None and retry_after >= 0:
                details["retry_after_ms"] = round(min(retry_after, _LONGEST_DELAY) * 1000)
            if input_tokens or output_tokens:
                details["usage"] = {"input_tokens": input_tokens, "output_tokens": output_tokens}
        super().__init__(message, code=code, details=details, retryable=retryable)

    @property
    def retry_after(self) -> float | None:
        """How many seconds to wait before the next request, if the provider says so."""
        delay = self.details.get("retry_after_ms") if isinstance(self.details, dict) else None
        return None if delay is None else delay / 1000


class RunError(AiosError):
    """Base class of errors about runs."""

    default_code = "RUN_ERROR"


class RunFailedError(RunError):
    """The run failed. ``code`` and ``details`` are those of its failure, the ``__cause__``."""

    default_code = "WORKFLOW_FAILED"


class RunCancelledError(RunError):
    """The run was cancelled. The message has the reason."""

    default_code = "RUN_CANCELLED"


class RunBlockedError(RunError):
    """The run cannot progress until something changes, usually its code: see its failure,
    ``__cause__``."""

    default_code = "RUN_BLOCKED"


class RunNotFoundError(RunError):
    """There is no run with this id in the store: it was never started, or retention has removed
    it."""

    default_code = "RUN_NOT_FOUND"


class RunExistsError(RunError):
    """A run with this id exists, with another workflow or another input. Choose another id, or
    get the existing run with :meth:`Client.handle`."""

    default_code = "RUN_EXISTS"


class RunEndedError(RunError):
    """The run has ended; it accepts no more signals or commands."""

    default_code = "RUN_ENDED"


class OperationNotFoundError(RunError):
    """The journal has no such operation to fork from. :meth:`RunHandle.journal` shows those that it
    has."""

    default_code = "OPERATION_NOT_FOUND"


class RunNotFailedError(RunError):
    """Only a failed run can be retried."""

    default_code = "RUN_NOT_FAILED"


class NoFailedOperationError(RunError):
    """No operation of the failed run has failed: its own code did. Fork it from the operation that
    has to be done again."""

    default_code = "NO_FAILED_OPERATION"


class WorkflowNotFoundError(AiosError):
    """No workflow with this name is registered. Correct the name, or pass the workflow among the
    ``workflows`` of the runtime."""

    default_code = "WORKFLOW_NOT_FOUND"


class WorkflowCodeError(AiosError):
    """The code of a workflow does something unsupported, for example awaits ``asyncio``. Move it
    into a step or a task."""

    default_code = "WORKFLOW_CODE"


class JournalMismatchError(AiosError):
    """The code requests another operation than the journal has recorded. Restore the order of the
    operations, or separate old runs from new ones with :meth:`WorkflowContext.version`."""

    default_code = "JOURNAL_MISMATCH"


class DeadLetterNotFoundError(AiosError):
    """The event is not a dead letter of the projection."""

    default_code = "DEAD_LETTER_NOT_FOUND"


class ConfigurationError(AiosError, ValueError):
    """An option, a name or a URL is invalid. The message names it."""

    default_code = "INVALID_CONFIGURATION"


class InvalidDataError(AiosError, ValueError):
    """A value cannot be serialised to JSON, or is not valid in an event."""

    default_code = "INVALID_DATA"


class RuntimeClosedError(AiosError):
    """The runtime or client is not open, or was closed during the call."""

    default_code = "RUNTIME_CLOSED"


class WrongLoopError(AiosError, RuntimeError):
    """The runtime or client was opened on another event loop. Use it where it was opened, or open
    one for each loop. A blocking one can't be used by code that runs on its own loop."""

    default_code = "WRONG_LOOP"


class ForkedError(AiosError):
    """The runtime or client was opened before the process forked. Open it in the child."""

    default_code = "FORKED"


class ShutdownTimeoutError(AiosError):
    """Tasks were still running at the shutdown deadline. They are reassigned."""

    default_code = "SHUTDOWN_TIMEOUT"


class StoreError(AiosError):
    """The store failed; ``code`` says how, and ``retryable`` whether the same call may succeed
    later."""

    default_code = "STORE_BACKEND"


class StoreLockedError(StoreError):
    """Another process has the database open. Close it there, or use PostgreSQL for several
    processes."""

    default_code = "STORE_LOCKED"


class BrokerError(AiosError):
    """The broker failed; ``code`` says how, and ``retryable`` whether the same call may succeed
    later."""

    default_code = "BROKER_BACKEND"


class ServiceError(AiosError):
    """A service can't be reached, or refuses a request; ``code`` says why, for example
    ``"UNAUTHENTICATED"``."""

    default_code = "SERVICE_UNREACHABLE"


def _subclasses(base: type[AiosError]) -> list[type[AiosError]]:
    return [base, *(found for child in base.__subclasses__() for found in _subclasses(child))]


#: The class of every code that aios raises. Other codes come from applications.
_BY_CODE: dict[str, type[AiosError]] = {
    **{
        found.default_code: found
        for found in _subclasses(AiosError)
        if found not in (RunError, RunFailedError)
    },
    **dict.fromkeys(
        (
            "AGENT_FACTORY_TIMEOUT",
            "DUPLICATE_AGENT",
            "DUPLICATE_AGENT_TYPE",
            "INCOMPATIBLE_SUBSCRIPTION",
            "INVALID_AGENT_CONFIG",
            "INVALID_AGENT_CONFIGURATION",
            "INVALID_AGENT_ID",
            "INVALID_AGENT_SCHEMA",
            "INVALID_AGENT_TYPE",
            "INVALID_BROKER_CONFIGURATION",
            "INVALID_CLIENT_CONFIGURATION",
            "INVALID_NAME",
            "INVALID_PATTERN",
            "INVALID_RUNTIME_CONFIGURATION",
            "INVALID_RUN_ID",
            "INVALID_SETTINGS",
            "INVALID_SIGNAL_NAME",
            "INVALID_STORE_CONFIGURATION",
            "INVALID_WORKFLOW_NAME",
            "UNKNOWN_AGENT_TYPE",
        ),
        ConfigurationError,
    ),
    **dict.fromkeys(
        (
            "CONFLICT",
            "DUPLICATE_EVENT",
            "EMPTY_APPEND",
            "FENCED",
            "INVALID_ROW",
            "INVALID_STREAM",
            "NEWER_SCHEMA",
            "POSITION_AFTER_END",
            "STORE_CLOSED",
            "STORE_CORRUPT",
            "STORE_FULL",
            "STORE_GONE",
            "STORE_LOST_EVENTS",
            "STORE_TIMEOUT",
            "STREAM_CLOSED",
        ),
        StoreError,
    ),
    **dict.fromkeys(
        (
            "BROKER_BLOCKED",
            "BROKER_CLOSED",
            "BROKER_TIMEOUT",
            "REJECTED",
            "UNCERTAIN",
            "UNKNOWN_ADDRESS",
            "UNROUTABLE",
        ),
        BrokerError,
    ),
    **dict.fromkeys(
        (
            "EVENT_TOO_LARGE",
            "INVALID_CLOUD_EVENT",
            "INVALID_DURATION",
            "INVALID_EVENT_DATA",
            "INVALID_EVENT_ID",
            "INVALID_EVENT_SOURCE",
            "INVALID_EVENT_TYPE",
            "INVALID_METADATA",
            "INVALID_OUTPUT_STREAM",
            "INVALID_TEXT",
            "INVALID_TIMESTAMP",
            "MALFORMED_EVENT",
            "NO_JOURNAL",
            "RESERVED_EVENT_TYPE",
        ),
        InvalidDataError,
    ),
    **dict.fromkeys(
        (
            "AUTHENTICATION_UNAVAILABLE",
            "BODY_TOO_LARGE",
            "HEADERS_TOO_LARGE",
            "INTERNAL_ERROR",
            "INVALID_CURSOR",
            "INVALID_REQUEST",
            "INVALID_RESPONSE",
            "MALFORMED_REQUEST",
            "METHOD_NOT_ALLOWED",
            "NO_STORE",
            "PERMISSION_DENIED",
            "RATE_LIMITED",
            "REQUEST_TIMEOUT",
            "ROUTE_NOT_FOUND",
            "UNAUTHENTICATED",
            "UNSUPPORTED_MEDIA_TYPE",
            "URI_TOO_LONG",
        ),
        ServiceError,
    ),
    **dict.fromkeys(
        (
            "MODEL_CIRCUIT_OPEN",
            "MODEL_CONTEXT_OVERFLOW",
            "MODEL_INVALID_REQUEST",
            "MODEL_INVALID_RESPONSE",
            "MODEL_OVERLOADED",
            "MODEL_RATE_LIMITED",
            "MODEL_REFUSED",
            "MODEL_REQUEST_FORBIDDEN",
            "MODEL_TIMEOUT",
            "MODEL_UNAUTHORIZED",
            "MODEL_UNAVAILABLE",
            "MODEL_UNEXPECTED_REQUEST",
        ),
        ModelError,
    ),
    # A part of the runtime has stopped because of a permanent error.
    **dict.fromkeys(("AGENT_HOST_IMPAIRED", "PROJECTION_STOPPED"), AiosError),
    **dict.fromkeys(("ENGINE_STOPPED", "RUN_CANCELLING", "RUN_STALLED"), RunError),
    **dict.fromkeys(
        (
            "AGENT_PANICKED",
            "CHILD_ENDED",
            "CIRCUIT_OPEN",
            "HEARTBEAT_MISSED",
            "INVALID_CHILD",
            "NO_EVENT_LOOP",
            "STEP_PANICKED",
            "STEP_TIMEOUT",
            "TASK_DEAD_LETTERED",
            "TASK_UNCLAIMED",
            "UNKNOWN_VERSION",
        ),
        TaskError,
    ),
}

#: Errors of finished or blocked runs, whatever the code of the failure.
_BY_KIND: dict[str, type[AiosError]] = {
    "run_failed": RunFailedError,
    "run_cancelled": RunCancelledError,
    "run_blocked": RunBlockedError,
    "replay": JournalMismatchError,
}

#: Classes for unknown codes, by the port that reports them.
_FALLBACK: dict[str, type[AiosError]] = {
    "task": TaskError,
    "store": StoreError,
    "broker": BrokerError,
    "service": ServiceError,
    "event": InvalidDataError,
    "agent": ConfigurationError,
    "workflow_code": WorkflowCodeError,
}

#: Code of an operation that is used outside of the code of its workflow.
_OUTSIDE = "OPERATION_OUTSIDE_WORKFLOW"


def _class_of(kind: str, code: str) -> type[AiosError]:
    if kind in _BY_KIND:
        return _BY_KIND[kind]
    # An adapter's error is a `StoreError` or `BrokerError`, unless its code has another class.
    found = _BY_CODE.get(code) or _FALLBACK.get(kind, AiosError)
    if kind == "task" and not issubclass(found, (TaskError, RunError, WorkflowCodeError)):
        return found if found is WorkflowNotFoundError else TaskError
    if kind in ("store", "broker") and found is InvalidDataError and code == "EVENT_TOO_LARGE":
        return _FALLBACK[kind]
    return found


def build(
    kind: str,
    code: str,
    message: str,
    details: Any,
    retryable: bool,
    cause: tuple[str, str, Any] | tuple[str, str, Any, str] | None,
    operation: str | None = None,
    details_text: str | None = None,
) -> AiosError:
    """Builds the exception of a native error. Called by the native module.

    Args:
        kind: Where the error comes from: a key of ``_BY_KIND`` or ``_FALLBACK``.
        code: Its code.
        message: Its message.
        details: Its details.
        retryable: Whether the same call may succeed later.
        cause: Code, message and details of the failure that caused it, and the text of the details if it is
            known.
        operation: Name of the workflow operation that failed.
        details_text: The JSON text of the details.
    """
    error = _class_of(kind, code)(message, code=code, details=details, retryable=retryable)
    error._details_text = details_text
    if operation is not None:
        error._operation = operation
    if cause is not None:
        text = cause[3] if len(cause) == 4 else None
        error.__cause__ = build("task", cause[0], cause[1], cause[2], False, None, None, text)
    elif isinstance(details, dict) and isinstance(details.get("traceback"), str):
        error.add_note("Traceback of the original exception:\n" + details["traceback"].rstrip())
    return error


#: Number of characters of a traceback that are kept, from its end.
_TRACEBACK = 16_000


def describe(error: BaseException, default_code: str) -> tuple[str, str, Any, bool, str | None]:
    """Converts an exception to a failure: code, message, details, retryable, and the text of the details
    if they are those of another failure. Called by the native module."""
    error = _cause_of(error)
    if isinstance(error, AiosError):
        operation = error._operation
        message = _text(error.args[0]) if error.args else ""
        message = message if operation is None else f"{operation} failed: {message}"
        # A subclass may not have called `__init__`.
        code = getattr(error, "code", error.default_code)
        if code == WorkflowCodeError.default_code and default_code == TaskError.default_code:
            # In a step or an agent, whose failure is recorded: a run that is blocked by it could not be
            # resumed with corrected code.
            code = _OUTSIDE
        details = getattr(error, "details", None)
        text = _unchanged_text(error, details)
        return _text(code), message, _details(details), _is_retryable(error), text
    import asyncio
    import traceback

    if isinstance(error, asyncio.CancelledError):
        # Of the code, or because the loop stops. What the runtime cancels has no outcome.
        default_code = TaskInterruptedError.default_code
    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else (f"{kind.__module__}.{kind.__qualname__}")
    )
    text = _text("".join(traceback.format_exception(error)))
    message = _text(error)
    details = {"type": name, "message": message, "traceback": text[-_TRACEBACK:]}
    return default_code, f"{name}: {message}" if message else name, details, True, None


def _cause_of(error: BaseException) -> BaseException:
    """The exception of a group that decides about the failure: one that must not be tried again, or else
    the only one."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    from ._workflows.definition import ContinueAsNew

    # A run that can't continue as a new one fails with what else is in the group.
    leaves = [it for it in leaves_of(error) if not isinstance(it, ContinueAsNew)] or [error]
    terminal = (it for it in leaves if isinstance(it, AiosError) and not _is_retryable(it))
    return next(terminal, leaves[0] if len(leaves) == 1 else error)


def leaves_of(error: BaseException) -> list[BaseException]:
    """The exceptions in a group and its groups; the exception itself if it is not a group."""
    leaves: list[BaseException] = []
    groups: list[BaseException] = [error]
    while groups:
        found = groups.pop(0)
        if isinstance(found, BaseExceptionGroup):
            groups.extend(found.exceptions)
        else:
            leaves.append(found)
    return leaves


def _is_retryable(error: AiosError) -> bool:
    """Whether an operation that failed with it is tried again. A subclass may not have called
    ``__init__``."""
    return bool(getattr(error, "retryable", isinstance(error, TaskError)))


def _text(value: object) -> str:
    """Converts any value to a string that can be stored. Never raises, so that a broken ``__str__``
    does not hide the original failure."""
    try:
        text = str(value)
    except Exception as error:
        text = f"<str() raised {type(error).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode()


def _unchanged_text(error: AiosError, details: Any) -> str | None:
    """The text that the details were read from, if nothing has changed them since."""
    text = error._details_text
    if text is None:
        return None
    from ._aios import loads

    try:
        return text if loads(text) == details else None
    except Exception:
        return None


def _details(details: Any) -> Any:
    if details is None:
        return None
    from ._aios import dumps, loads

    try:
        # Not the details themselves: an iterator in them has no second pass.
        return loads(dumps(details))
    except Exception as error:
        return {"invalid_details": _text(error)}
