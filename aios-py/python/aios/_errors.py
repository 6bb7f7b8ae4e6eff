"""The errors of aios: one tree under :class:`AiosError`."""

from __future__ import annotations

from typing import Any, ClassVar


class AiosError(Exception):
    """Something that aios could not do.

    Attributes:
        code: Stable name of the kind of error, for example ``"TASK_TIMEOUT"``.
        details: What a program may want to know besides; JSON, or ``None``.
        retryable: Whether the same call may succeed later.
    """

    default_code: ClassVar[str] = "AIOS_ERROR"
    #: The operation of a workflow that raised it; the failure of the run names it.
    _about: str | None = None

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
        """What happened, for a person."""
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> Any:
        return (type(self), self.args, self.__dict__)


class TaskError(AiosError):
    """A task failed. Raise it in an agent or a step to say how, and whether to try again.

    Unlike other errors it is retryable unless told otherwise; see :meth:`terminal`.
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
        """An error that trying again can't mend."""
        return cls(message, code=code, details=details, retryable=False)


class TaskTimeoutError(TaskError):
    """An attempt took longer than its timeout."""

    default_code = "TASK_TIMEOUT"


class TaskCancelledError(TaskError):
    """The task was cancelled."""

    default_code = "TASK_CANCELLED"


class TaskInterruptedError(TaskError):
    """The process or event loop that did the task stopped. Such a task is given again."""

    default_code = "INTERRUPTED"


class InvalidParametersError(TaskError):
    """Parameters that do not fit; ``details`` lists ``{"path", "fault"}``, the path a JSON pointer."""

    default_code = "INVALID_PARAMETERS"


class InvalidOutputError(TaskError):
    """What an agent, a step or a workflow returned can't be JSON."""

    default_code = "INVALID_OUTPUT"


class InvalidResultError(TaskError):
    """What came back does not fit the type that was asked for; ``details`` lists
    ``{"path", "fault"}``, the path a JSON pointer."""

    default_code = "INVALID_RESULT"


class AgentNotFoundError(TaskError):
    """Nobody takes tasks of this agent type."""

    default_code = "AGENT_NOT_FOUND"


class SignalTimeoutError(TaskError):
    """A signal did not come in time."""

    default_code = "SIGNAL_TIMEOUT"


class RunError(AiosError):
    """Something about a run."""

    default_code = "RUN_ERROR"


class RunFailedError(RunError):
    """The run failed. ``code`` and ``details`` are those of its failure, which is the cause."""

    default_code = "WORKFLOW_FAILED"


class RunCancelledError(RunError):
    """The run was cancelled."""

    default_code = "RUN_CANCELLED"


class RunBlockedError(RunError):
    """Today's code does not fit the run's journal; it goes on when fitting code runs."""

    default_code = "RUN_BLOCKED"


class RunNotFoundError(RunError):
    """There is no run with this id."""

    default_code = "RUN_NOT_FOUND"


class RunExistsError(RunError):
    """A run with this id exists, of another workflow or with another input."""

    default_code = "RUN_EXISTS"


class RunEndedError(RunError):
    """The run has ended; it takes no signal and no command any more."""

    default_code = "RUN_ENDED"


class OperationNotFoundError(RunError):
    """The journal has no such operation to fork from."""

    default_code = "OPERATION_NOT_FOUND"


class WorkflowNotFoundError(AiosError):
    """No workflow with this name is registered here."""

    default_code = "WORKFLOW_NOT_FOUND"


class WorkflowCodeError(AiosError):
    """The code of a workflow does what no workflow can, for example await ``asyncio``."""

    default_code = "WORKFLOW_CODE"


class JournalMismatchError(AiosError):
    """The code asks for something else than the journal says."""

    default_code = "JOURNAL_MISMATCH"


class DeadLetterNotFoundError(AiosError):
    """The event is no dead letter of the projection."""

    default_code = "DEAD_LETTER_NOT_FOUND"


class ConfigurationError(AiosError, ValueError):
    """An option, a name or a URL is not valid."""

    default_code = "INVALID_CONFIGURATION"


class InvalidDataError(AiosError, ValueError):
    """Something can't be JSON, or can't be an event."""

    default_code = "INVALID_DATA"


class RuntimeClosedError(AiosError):
    """The runtime or client is not open, or was closed meanwhile."""

    default_code = "RUNTIME_CLOSED"


class WrongLoopError(AiosError, RuntimeError):
    """The runtime or client was opened on another event loop."""

    default_code = "WRONG_LOOP"


class ForkedError(AiosError):
    """The runtime or client was opened before the process forked."""

    default_code = "FORKED"


class ShutdownTimeoutError(AiosError):
    """Tasks still ran when the time to shut down was over; they are given again."""

    default_code = "SHUTDOWN_TIMEOUT"


class StoreError(AiosError):
    """The store failed."""

    default_code = "STORE_BACKEND"


class StoreLockedError(StoreError):
    """Another process has the database open."""

    default_code = "STORE_LOCKED"


class BrokerError(AiosError):
    """The broker failed."""

    default_code = "BROKER_BACKEND"


def _subclasses(base: type[AiosError]) -> list[type[AiosError]]:
    return [base, *(found for child in base.__subclasses__() for found in _subclasses(child))]


#: The class of every code that an error of aios can have; other codes are those of users.
_BY_CODE: dict[str, type[AiosError]] = {
    **{
        found.default_code: found
        for found in _subclasses(AiosError)
        if found not in (RunError, RunFailedError)
    },
    **dict.fromkeys(
        (
            "AGENT_FACTORY_FAILED",
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
            "INVALID_NAME",
            "INVALID_PATTERN",
            "INVALID_RUNTIME_CONFIGURATION",
            "INVALID_RUN_ID",
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
            "INVALID_STREAM",
            "NEWER_SCHEMA",
            "STORE_CLOSED",
            "STORE_CORRUPT",
            "STORE_FULL",
            "STORE_GONE",
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
            "INVALID_TEXT",
            "INVALID_TIMESTAMP",
            "MALFORMED_EVENT",
            "NO_JOURNAL",
            "RESERVED_EVENT_TYPE",
        ),
        InvalidDataError,
    ),
    **dict.fromkeys(("ENGINE_STOPPED", "RUN_CANCELLING", "RUN_STUCK"), RunError),
    **dict.fromkeys(
        (
            "AGENT_PANICKED",
            "CHILD_ENDED",
            "CIRCUIT_OPEN",
            "HEARTBEAT_MISSED",
            "INVALID_ANSWER",
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

#: How runs end: whatever code the failure has.
_BY_KIND: dict[str, type[AiosError]] = {
    "run_failed": RunFailedError,
    "run_cancelled": RunCancelledError,
    "run_blocked": RunBlockedError,
    "replay": JournalMismatchError,
}

#: For codes that are not known here, by the port that reports them.
_FALLBACK: dict[str, type[AiosError]] = {
    "task": TaskError,
    "store": StoreError,
    "broker": BrokerError,
    "event": InvalidDataError,
    "agent": ConfigurationError,
}


def _class_of(kind: str, code: str) -> type[AiosError]:
    if kind in _BY_KIND:
        return _BY_KIND[kind]
    # What an adapter reports is a `StoreError` or `BrokerError`, unless it says what to mend.
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
    cause: tuple[str, str, Any] | None,
    about: str | None = None,
) -> AiosError:
    """Makes the error that Rust describes; ``about`` names the operation of a workflow that failed."""
    error = _class_of(kind, code)(message, code=code, details=details, retryable=retryable)
    if about is not None:
        error._about = about
    if cause is not None:
        error.__cause__ = build("task", *cause, False, None)
    elif isinstance(details, dict) and isinstance(details.get("traceback"), str):
        error.add_note("where it was raised:\n" + details["traceback"].rstrip())
    return error


#: Longest traceback that is kept, in characters; of a longer one the end.
_TRACEBACK = 16_000


def describe(error: BaseException, default_code: str) -> tuple[str, str, Any, bool]:
    """What a failure keeps of an exception: code, message, details, retryable."""
    if isinstance(error, AiosError):
        about = error._about
        message = _text(error.args[0]) if error.args else ""
        message = message if about is None else f"{about} failed: {message}"
        return _text(error.code), message, _details(error.details), bool(error.retryable)
    import asyncio
    import traceback

    if isinstance(error, asyncio.CancelledError):
        return TaskInterruptedError.default_code, "the task was interrupted", None, True
    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else (f"{kind.__module__}.{kind.__qualname__}")
    )
    text = _text("".join(traceback.format_exception(error)))
    message = _text(error)
    details = {"type": name, "message": message, "traceback": text[-_TRACEBACK:]}
    return default_code, f"{name}: {message}" if message else name, details, True


def _text(value: object) -> str:
    """A text that can be kept: whatever it is, a failure must not hide another one."""
    try:
        text = str(value)
    except Exception as error:
        text = f"<its text can't be made: {type(error).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode()


def _details(details: Any) -> Any:
    if details is None:
        return None
    from ._aios import dumps

    try:
        dumps(details)
    except Exception as error:
        return {"invalid_details": _text(error)}
    return details
