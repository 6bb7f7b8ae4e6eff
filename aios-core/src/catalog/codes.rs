//! The codes of failures and errors: stable names that programs match on.
//!
//! Agents and workflows add their own codes with [`Failure::new`](crate::failure::Failure::new).

/// Whether an operation that failed with a code may succeed if it is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// A retry may succeed.
    Yes,
    /// A retry fails again.
    No,
    /// It depends on the failure, for example on [`TaskError::retryable`](crate::agent::TaskError).
    Depends,
}

impl Retry {
    /// `yes`, `no` or `depends`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Depends => "depends",
        }
    }
}

/// One code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Code {
    /// The code.
    pub code: &'static str,
    /// The parts of aios that raise it.
    pub raised_by: &'static str,
    /// Whether a retry may help.
    pub retry: Retry,
    /// The meaning of the code.
    pub meaning: &'static str,
}

const fn code(
    code: &'static str,
    raised_by: &'static str,
    retry: Retry,
    meaning: &'static str,
) -> Code {
    Code { code, raised_by, retry, meaning }
}

/// Every code that aios raises, by the part that raises it.
pub const CODES: &[Code] = &[
    code("MALFORMED_EVENT", "events", Retry::No, "the text is not an event envelope"),
    code(
        "INVALID_EVENT_DATA",
        "events",
        Retry::No,
        "the data of an event does not have the expected form",
    ),
    code("INVALID_EVENT_ID", "events", Retry::No, "an event id is empty or too long"),
    code(
        "INVALID_EVENT_SOURCE",
        "events",
        Retry::No,
        "the source of an event is empty or too long",
    ),
    code(
        "INVALID_EVENT_TYPE",
        "events",
        Retry::No,
        "an event type is not three segments of `[a-z][a-z0-9_]*`",
    ),
    code("RESERVED_EVENT_TYPE", "events", Retry::No, "only aios writes events of this domain"),
    code(
        "INVALID_METADATA",
        "events",
        Retry::No,
        "an unknown metadata field has the name of a known one",
    ),
    code("INVALID_PATTERN", "events", Retry::No, "a pattern of event types is invalid"),
    code("INVALID_TIMESTAMP", "events", Retry::No, "a timestamp is not RFC 3339, or out of range"),
    code(
        "INVALID_CLOUD_EVENT",
        "events",
        Retry::No,
        "a CloudEvent lacks an attribute, or has an invalid one",
    ),
    code("CONFLICT", "store", Retry::No, "the stream does not have the expected version"),
    code(
        "STREAM_CLOSED",
        "store",
        Retry::No,
        "the run has ended, and its stream accepts no more events",
    ),
    code("FENCED", "store", Retry::No, "another engine has taken the shard"),
    code(
        "DUPLICATE_EVENT",
        "store",
        Retry::No,
        "an event id is already stored elsewhere, or occurs twice in one append",
    ),
    code("EMPTY_APPEND", "store", Retry::No, "an append has no events"),
    code("INVALID_STREAM", "store", Retry::No, "the name of a stream is empty or too long"),
    code(
        "EVENT_TOO_LARGE",
        "store, broker, output streams",
        Retry::No,
        "an event is larger than the store or the broker accepts, or an item of an output stream is too large",
    ),
    code(
        "INVALID_TEXT",
        "store, Python",
        Retry::No,
        "PostgreSQL cannot store the character NUL in an id, a source or a stream; in Python, a text \
         is not valid Unicode",
    ),
    code(
        "STORE_LOCKED",
        "store",
        Retry::No,
        "another process, or another connection of this one, has the SQLite file open",
    ),
    code(
        "STORE_GONE",
        "store",
        Retry::No,
        "the SQLite file was deleted, moved or replaced; restore it and restart the process",
    ),
    code(
        "STORE_LOST_EVENTS",
        "store",
        Retry::No,
        "PostgreSQL has lost committed events, for example in a failover to a server that lagged behind; restart the process",
    ),
    code(
        "POSITION_AFTER_END",
        "store",
        Retry::No,
        "the saved position of a reader is after the end of the log, which was restored from an older backup; delete the position with `aios readers retire`",
    ),
    code("NEWER_SCHEMA", "store", Retry::No, "a newer version of aios has migrated the database"),
    code("INVALID_ROW", "store", Retry::No, "a row has a value that aios never writes"),
    code("STORE_CORRUPT", "store", Retry::No, "the files of the database are damaged"),
    code("STORE_FULL", "store", Retry::Yes, "the disk is full"),
    code("STORE_TIMEOUT", "store", Retry::Yes, "the store did not answer in time"),
    code(
        "INVALID_OUTPUT_STREAM",
        "output streams",
        Retry::No,
        "the name of an output stream is not `[a-z][a-z0-9_]*`, or too long",
    ),
    code(
        "OUTPUT_UNAVAILABLE",
        "output streams",
        Retry::No,
        "the process has no store, or the task does not belong to a run",
    ),
    code("OUTPUT_BACKLOG", "output streams", Retry::Yes, "too much output waits to be stored"),
    code("STORE_CLOSED", "store", Retry::No, "the store is closed"),
    code(
        "INVALID_STORE_CONFIGURATION",
        "store",
        Retry::No,
        "an option or the URL of a store is invalid",
    ),
    code("STORE_BACKEND", "store", Retry::Depends, "the database reported another error"),
    code("UNROUTABLE", "broker", Retry::Yes, "no queue receives an event that requires a route"),
    code(
        "REJECTED",
        "broker",
        Retry::Yes,
        "a queue rejected an event, for example because it is full; others may have accepted it",
    ),
    code(
        "UNCERTAIN",
        "broker",
        Retry::Yes,
        "the connection was lost before the broker confirmed an event",
    ),
    code("BROKER_TIMEOUT", "broker", Retry::Yes, "the broker did not answer in time"),
    code("BROKER_BLOCKED", "broker", Retry::Yes, "the broker accepts no publishes for now"),
    code("BROKER_CLOSED", "broker", Retry::No, "the broker is closed"),
    code("INCOMPATIBLE_SUBSCRIPTION", "broker", Retry::No, "the queue exists with other settings"),
    code("UNKNOWN_ADDRESS", "broker", Retry::No, "the group or mailbox does not exist"),
    code(
        "INVALID_NAME",
        "broker, runtime",
        Retry::No,
        "a name of a group, mailbox, agent type or workflow is invalid",
    ),
    code(
        "INVALID_BROKER_CONFIGURATION",
        "broker",
        Retry::No,
        "an option or the URL of a broker is invalid",
    ),
    code("BROKER_BACKEND", "broker", Retry::Depends, "the broker reported another error"),
    code("AGENT_PANICKED", "agent host", Retry::Yes, "the code of an agent panicked"),
    code(
        "AGENT_NOT_FOUND",
        "engine, task client, HTTP API",
        Retry::Depends,
        "no group or mailbox receives tasks of that type, or for that id, or no agent can have the name; in \
         the HTTP API, there is no such agent",
    ),
    code(
        "TASK_UNCLAIMED",
        "engine",
        Retry::No,
        "agents of the type have existed, and none has begun the task for a while; it waits",
    ),
    code(
        "TASK_TIMEOUT",
        "agent host, engine, task client, timeout middleware",
        Retry::Yes,
        "the attempt took longer than its timeout; the engine allows `task_grace` in addition",
    ),
    code("TASK_CANCELLED", "agent host", Retry::No, "the task was cancelled"),
    code(
        "TASK_DEAD_LETTERED",
        "engine",
        Retry::Depends,
        "the task became a dead letter; terminal if no answer to it can be published",
    ),
    code(
        "TASK_FAILED",
        "agents, steps",
        Retry::Depends,
        "the code of an agent or a step returned an error without a code",
    ),
    code("HEARTBEAT_MISSED", "engine", Retry::Yes, "an agent stopped sending heartbeats"),
    code(
        "INVALID_PARAMETERS",
        "agent host, task client",
        Retry::No,
        "the parameters are invalid for the agent",
    ),
    code(
        "INVALID_OUTPUT",
        "agent host, projections",
        Retry::No,
        "the output of the agent cannot be serialised to JSON, or a projection's own position is \
         invalid",
    ),
    code("CIRCUIT_OPEN", "circuit breaker", Retry::Yes, "too many tasks failed before"),
    code("AGENT_FACTORY_TIMEOUT", "agent host", Retry::Yes, "a factory took too long"),
    code(
        "AGENT_HOST_IMPAIRED",
        "agent host",
        Retry::No,
        "a part of the host has stopped because of a permanent error",
    ),
    code("DUPLICATE_AGENT", "agent host", Retry::No, "two agents have the same id"),
    code("DUPLICATE_AGENT_TYPE", "agent host", Retry::No, "an agent type is added twice"),
    code(
        "UNKNOWN_AGENT_TYPE",
        "agent host",
        Retry::No,
        "an agent of a type is registered that was not added",
    ),
    code(
        "INVALID_AGENT_CONFIG",
        "agent host",
        Retry::No,
        "the config of an agent is invalid for its factory",
    ),
    code(
        "INVALID_AGENT_CONFIGURATION",
        "agent host",
        Retry::No,
        "an option of an agent, a middleware or the host is invalid",
    ),
    code(
        "INVALID_AGENT_ID",
        "agent host",
        Retry::No,
        "an agent id is not `[A-Za-z0-9._-]+`, is too long, or is `.` or `..`",
    ),
    code(
        "INVALID_AGENT_SCHEMA",
        "agent host",
        Retry::No,
        "the JSON Schema of the parameters is invalid",
    ),
    code(
        "INVALID_AGENT_TYPE",
        "agent host, runtime, engine",
        Retry::No,
        "an agent type is not `[a-z][a-z0-9_]*`, or is too long",
    ),
    code(
        "SHUTDOWN_TIMEOUT",
        "agent host",
        Retry::No,
        "tasks were still running at the deadline of the shutdown",
    ),
    code("RUN_NOT_FOUND", "runtime", Retry::No, "there is no such run"),
    code("RUN_EXISTS", "runtime, engine", Retry::No, "the id belongs to another run"),
    code("RUN_ENDED", "runtime", Retry::No, "the run has ended and accepts no commands"),
    code("RUN_CANCELLING", "runtime", Retry::No, "a run that is being cancelled cannot be paused"),
    code("RUN_CANCELLED", "engine", Retry::No, "the run was cancelled"),
    code("RUN_BLOCKED", "runtime", Retry::No, "the run cannot continue until something changes"),
    code("RUN_FAILED", "runtime", Retry::No, "the run failed without a recorded failure"),
    code(
        "RUN_PANICKED",
        "engine",
        Retry::No,
        "the driver of a run, its executor or a destructor panicked; the run is blocked",
    ),
    code(
        "RUN_STALLED",
        "test harness",
        Retry::No,
        "the run waits for nothing that the test will deliver",
    ),
    code(
        "INVALID_RUN_ID",
        "runtime, engine",
        Retry::No,
        "a run id is empty, too long, `.` or `..`, or has control characters or `~`",
    ),
    code(
        "INVALID_SIGNAL_NAME",
        "runtime, engine",
        Retry::No,
        "the name of a signal is empty, too long, or has control characters",
    ),
    code("NOT_CONTINUED", "runtime", Retry::No, "the successor of a run cannot be found"),
    code("OPERATION_NOT_FOUND", "runtime", Retry::No, "a run has no such operation to fork at"),
    code("INVALID_RESULT", "runtime", Retry::No, "a result does not have the expected type"),
    code("CHILD_ENDED", "engine", Retry::No, "a child ended without a result or a failure"),
    code("INVALID_CHILD", "engine", Retry::No, "a child cannot be started"),
    code(
        "WORKFLOW_NOT_FOUND",
        "runtime, engine",
        Retry::No,
        "no engine has code for the workflow or its version",
    ),
    code(
        "UNKNOWN_VERSION",
        "engine",
        Retry::No,
        "the run follows a version of a change that no code knows; it is blocked",
    ),
    code(
        "JOURNAL_MISMATCH",
        "engine",
        Retry::No,
        "the code does not match the journal; the run is blocked",
    ),
    code(
        "JOURNAL_UNREADABLE",
        "engine",
        Retry::No,
        "an event of the journal cannot be read; the run is blocked",
    ),
    code(
        "FOREIGN_AWAIT",
        "engine",
        Retry::No,
        "the code awaits something that is not recorded; the run is blocked",
    ),
    code(
        "WORKFLOW_BUSY",
        "engine",
        Retry::No,
        "the code wakes itself, makes requests or computes without end; the run is blocked",
    ),
    code("WORKFLOW_PANICKED", "engine", Retry::No, "the code of the workflow panicked"),
    code(
        "WORKFLOW_FAILED",
        "workflows",
        Retry::No,
        "the code of the workflow returned an error without a code",
    ),
    code(
        "OPERATION_OUTSIDE_WORKFLOW",
        "engine",
        Retry::No,
        "a context or an operation was used outside the code of its run",
    ),
    code("STEP_PANICKED", "engine", Retry::Yes, "the code of a step panicked"),
    code("STEP_TIMEOUT", "engine", Retry::Yes, "a step took longer than its timeout"),
    code("SIGNAL_TIMEOUT", "engine", Retry::No, "no signal arrived before the deadline"),
    code("INVALID_OPTIONS", "engine", Retry::No, "an option of an operation is invalid"),
    code(
        "INVALID_WORKFLOW_NAME",
        "runtime, engine",
        Retry::No,
        "a workflow name is not `[a-z][a-z0-9_]*`, or is too long",
    ),
    code(
        "INVALID_RUNTIME_CONFIGURATION",
        "runtime",
        Retry::No,
        "an option of the runtime is missing or invalid",
    ),
    code(
        "ENGINE_STOPPED",
        "runtime",
        Retry::No,
        "the engine of this process has stopped because of a permanent error",
    ),
    code("ENGINE_PANICKED", "engine", Retry::No, "the engine panicked"),
    code(
        "PROJECTION_STOPPED",
        "projection",
        Retry::No,
        "a projection has stopped because of a permanent error",
    ),
    code("PROJECTION_PANICKED", "projection", Retry::Yes, "the handler of a projection panicked"),
    code(
        "DEAD_LETTER_NOT_FOUND",
        "projection",
        Retry::No,
        "the event at that position is not a dead letter",
    ),
    code(
        "PROJECTION_NOT_FOUND",
        "HTTP API",
        Retry::No,
        "no projection with this name has a saved position",
    ),
    code(
        "PROJECTION_RUNNING",
        "HTTP API",
        Retry::No,
        "a process runs the projection, which cannot be retired until it has stopped",
    ),
    code("ROUTE_NOT_FOUND", "HTTP API", Retry::No, "the HTTP API has no such path"),
    code("METHOD_NOT_ALLOWED", "HTTP API", Retry::No, "the path does not accept this HTTP method"),
    code(
        "MALFORMED_REQUEST",
        "HTTP API",
        Retry::No,
        "the path, the query, a header or the body of a request cannot be read",
    ),
    code(
        "INVALID_REQUEST",
        "HTTP API",
        Retry::No,
        "the body of a request does not have the expected form",
    ),
    code(
        "INVALID_CURSOR",
        "HTTP API",
        Retry::No,
        "a cursor was not returned by this list, or a position is after the end of the log",
    ),
    code(
        "UNSUPPORTED_MEDIA_TYPE",
        "HTTP API",
        Retry::No,
        "the body of a request is not `application/json` in UTF-8, or is compressed",
    ),
    code("BODY_TOO_LARGE", "HTTP API", Retry::No, "the body of a request is larger than the limit"),
    code(
        "HEADERS_TOO_LARGE",
        "HTTP API",
        Retry::No,
        "the headers of a request are larger than the limit, or too many",
    ),
    code("URI_TOO_LONG", "HTTP API", Retry::No, "the target of a request is too long"),
    code("REQUEST_TIMEOUT", "HTTP API", Retry::Yes, "a request took longer than the limit"),
    code("UNAUTHENTICATED", "HTTP API", Retry::No, "a request has no valid credentials"),
    code(
        "PERMISSION_DENIED",
        "HTTP API",
        Retry::No,
        "the caller lacks the permission that a route requires",
    ),
    code("RUN_NOT_FAILED", "runtime", Retry::No, "only a failed run can be retried"),
    code("NO_FAILED_OPERATION", "runtime", Retry::No, "no operation of the failed run has failed"),
    code("AGENT_EXISTS", "agents", Retry::No, "an agent with this id exists"),
    code("AGENT_DELETED", "agents", Retry::No, "the agent was deleted"),
    code(
        "AGENT_NOT_MANAGED",
        "agents",
        Retry::No,
        "the agent is registered by the code of a process, and can only be changed there",
    ),
    code("TASK_OF_WORKFLOW", "HTTP API", Retry::No, "a task of a workflow ends with its run only"),
    code("AGENT_TYPE_NOT_FOUND", "HTTP API", Retry::No, "there is no such agent type"),
    code(
        "ORIGIN_NOT_ALLOWED",
        "HTTP API",
        Retry::No,
        "a web page of an origin that is not allowed sent the request",
    ),
    code(
        "INVALID_IDEMPOTENCY_KEY",
        "HTTP API",
        Retry::No,
        "an `Idempotency-Key` is empty, too long, not ASCII or given twice",
    ),
    code(
        "IDEMPOTENCY_KEY_REUSED",
        "HTTP API",
        Retry::No,
        "another request of the caller has the same `Idempotency-Key`",
    ),
    code(
        "REQUEST_IN_PROGRESS",
        "HTTP API",
        Retry::Yes,
        "a request with the same `Idempotency-Key` has not been answered yet",
    ),
    code(
        "PRECONDITION_FAILED",
        "HTTP API, managed agents",
        Retry::No,
        "a condition does not hold: the `ETag` of the resource, if it has one, is not in `If-Match` or is in `If-None-Match`",
    ),
    code(
        "PRECONDITION_REQUIRED",
        "HTTP API",
        Retry::No,
        "a request that replaces or deletes a resource has no `If-Match`",
    ),
    code(
        "RATE_LIMITED",
        "HTTP API",
        Retry::Yes,
        "the caller sends more requests than its rate limit allows",
    ),
    code(
        "AUTHENTICATION_UNAVAILABLE",
        "HTTP API",
        Retry::Yes,
        "the credentials of a request cannot be checked for now",
    ),
    code("TASK_NOT_FOUND", "HTTP API", Retry::No, "there is no such task"),
    code("NO_STORE", "HTTP API", Retry::No, "the process that answers has no store"),
    code("INTERNAL_ERROR", "HTTP API", Retry::No, "the code of the HTTP API panicked"),
    code(
        "SERVICE_UNREACHABLE",
        "HTTP client",
        Retry::Yes,
        "the service cannot be reached, or the connection broke",
    ),
    code("INVALID_RESPONSE", "HTTP client", Retry::No, "the answer is not one of the HTTP API"),
    code(
        "INVALID_CLIENT_CONFIGURATION",
        "HTTP client",
        Retry::No,
        "the URL, a credential or an option of the client is invalid",
    ),
    code(
        "INVALID_SETTINGS",
        "configuration",
        Retry::No,
        "the configuration has faults, which the report lists",
    ),
    code(
        "LISTEN_FAILED",
        "service",
        Retry::No,
        "the operating system refuses the address of a server, or the handling of signals",
    ),
    code(
        "START_INTERRUPTED",
        "service",
        Retry::No,
        "a signal asked the process to end while its service was starting",
    ),
    code("TELEMETRY_FAILED", "service", Retry::No, "the telemetry of a process cannot be started"),
    code(
        "COLLECTOR_UNREACHABLE",
        "telemetry",
        Retry::Yes,
        "the collector of traces or metrics does not answer",
    ),
    code(
        "COLLECTOR_REFUSED",
        "telemetry",
        Retry::Depends,
        "the collector does not accept the spans or metrics",
    ),
    code("AIOS_ERROR", "Python", Retry::No, "an error without a code of its own"),
    code("CONTINUED_AS_NEW", "Python", Retry::No, "a workflow continues as another run"),
    code(
        "FORKED",
        "Python",
        Retry::No,
        "a runtime or client is used in a child process that was forked after it was opened",
    ),
    code(
        "INTERRUPTED",
        "Python",
        Retry::Yes,
        "the code of an attempt raised `asyncio.CancelledError`, or its event loop stopped and the process did not end within 5 s",
    ),
    code("INVALID_CONFIGURATION", "Python", Retry::No, "an option of a call is invalid"),
    code("INVALID_DATA", "Python", Retry::No, "a value cannot be serialised to JSON"),
    code("INVALID_DURATION", "Python", Retry::No, "a duration is negative or too long"),
    code("NO_EVENT_LOOP", "Python", Retry::No, "the event loop of the workflow is not running"),
    code("NO_JOURNAL", "Python", Retry::No, "a test has no journal to replay"),
    code("RUN_ERROR", "Python", Retry::No, "an error about a run without a code of its own"),
    code("RUNTIME_CLOSED", "runtime", Retry::No, "the runtime or client is not open"),
    code(
        "WORKFLOW_CODE",
        "Python",
        Retry::No,
        "the code of a workflow awaited something that is not an operation",
    ),
    code(
        "WRONG_LOOP",
        "Python",
        Retry::No,
        "a runtime is used from another event loop than it was opened in, or a blocking one from its own",
    ),
    code(
        "MODEL_RATE_LIMITED",
        "models",
        Retry::Depends,
        "the provider accepts no more requests for now, or nothing is left to pay with (not retryable)",
    ),
    code("MODEL_OVERLOADED", "models", Retry::Yes, "the provider is overloaded"),
    code("MODEL_TIMEOUT", "models", Retry::Yes, "the provider did not answer in time"),
    code(
        "MODEL_UNAVAILABLE",
        "models",
        Retry::Yes,
        "the provider cannot be reached, or the connection was lost",
    ),
    code(
        "MODEL_UNAUTHORIZED",
        "models",
        Retry::No,
        "the key of the provider is missing or invalid",
    ),
    code("MODEL_INVALID_REQUEST", "models", Retry::No, "the provider rejects the request"),
    code(
        "MODEL_CONTEXT_OVERFLOW",
        "models",
        Retry::No,
        "the request is longer than the context of the model",
    ),
    code(
        "MODEL_REFUSED",
        "models, LLM agents",
        Retry::No,
        "the model or the provider refuses to answer",
    ),
    code(
        "MODEL_INVALID_RESPONSE",
        "models",
        Retry::Yes,
        "the response of the provider is malformed or cut off",
    ),
    code(
        "MODEL_REQUEST_FORBIDDEN",
        "models",
        Retry::No,
        "requests to real providers are forbidden in this process",
    ),
    code(
        "MODEL_UNEXPECTED_REQUEST",
        "models",
        Retry::No,
        "a model for tests has no response for a request",
    ),
    code(
        "MODEL_CIRCUIT_OPEN",
        "models",
        Retry::Yes,
        "the provider failed several times in a row, and no request is made for now",
    ),
    code("MODEL_BACKEND", "models", Retry::Depends, "the provider reported another error"),
    code(
        "MODEL_FAULTS",
        "LLM agents",
        Retry::No,
        "the model gave too many faulty responses in a row",
    ),
    code(
        "TURN_LIMIT",
        "LLM agents",
        Retry::No,
        "an agent has no result after its maximum number of responses",
    ),
    code(
        "BUDGET_EXCEEDED",
        "LLM agents",
        Retry::No,
        "the next call would exceed the budget of the run",
    ),
    code(
        "UNKNOWN_PRICE",
        "LLM agents",
        Retry::No,
        "the cost is limited, and the model has no price",
    ),
    code("GUARDRAIL_TRIPPED", "LLM agents", Retry::No, "a guardrail has stopped the run"),
    code(
        "WRITE_IN_DOUBT",
        "LLM agents",
        Retry::No,
        "a call of a write tool began before, and its outcome is unknown",
    ),
    code(
        "CONVERSATION_MISSING",
        "LLM agents",
        Retry::No,
        "a process that makes a model call lacks the conversation so far; the call is repeated with all of it",
    ),
    code("TOOL_NOT_FOUND", "LLM agents", Retry::Yes, "the process of an agent lacks a tool"),
    code(
        "TOOL_RESULT_TOO_LARGE",
        "LLM agents",
        Retry::No,
        "the result of a tool is larger than its limit",
    ),
    code(
        "INVALID_LLM_AGENT",
        "LLM agents",
        Retry::No,
        "a tool, the output or an option of an agent is invalid",
    ),
];

/// The entry of a code; `None` if aios does not raise it.
///
/// ```
/// use aios_core::catalog::codes::{self, Retry};
///
/// assert_eq!(codes::find("TASK_TIMEOUT").expect("a code of aios").retry, Retry::Yes);
/// assert_eq!(codes::find("CARD_DECLINED"), None);
/// ```
#[must_use]
pub fn find(code: &str) -> Option<&'static Code> {
    CODES.iter().find(|known| known.code == code)
}
