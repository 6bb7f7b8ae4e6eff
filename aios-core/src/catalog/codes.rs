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

/// Declares the codes: a constant for each, and the table `CODES`.
///
/// The documentation of a constant is the meaning of its code.
macro_rules! codes {
    ($(#[doc = $meaning:literal] $name:ident: $raised_by:literal, $retry:ident;)+) => {
        $(
            #[doc = concat!("`", stringify!($name), "`:", $meaning, ".")]
            #[doc = concat!("\n\nRaised by: ", $raised_by, ".")]
            pub const $name: &str = stringify!($name);
        )+

        /// Every code that aios raises, by the part that raises it.
        pub const CODES: &[Code] = &[$(
            Code {
                code: $name,
                raised_by: $raised_by,
                retry: Retry::$retry,
                meaning: $meaning.trim_ascii(),
            },
        )+];
    };
}

codes! {
    /// the text is not an event envelope
    MALFORMED_EVENT: "events", No;
    /// the data of an event does not have the expected form
    INVALID_EVENT_DATA: "events", No;
    /// an event id is empty or too long
    INVALID_EVENT_ID: "events", No;
    /// the source of an event is empty or too long
    INVALID_EVENT_SOURCE: "events", No;
    /// an event type is not three segments of `[a-z][a-z0-9_]*`
    INVALID_EVENT_TYPE: "events", No;
    /// only aios writes events of this domain
    RESERVED_EVENT_TYPE: "events", No;
    /// an unknown metadata field has the name of a known one
    INVALID_METADATA: "events", No;
    /// a pattern of event types is invalid
    INVALID_PATTERN: "events", No;
    /// a timestamp is not RFC 3339, or out of range
    INVALID_TIMESTAMP: "events", No;
    /// a CloudEvent lacks an attribute, or has an invalid one
    INVALID_CLOUD_EVENT: "events", No;
    /// the stream does not have the expected version
    CONFLICT: "store", No;
    /// the run has ended, and its stream accepts no more events
    STREAM_CLOSED: "store", No;
    /// another engine has taken the shard
    FENCED: "store", No;
    /// an event id is already stored elsewhere, or occurs twice in one append
    DUPLICATE_EVENT: "store", No;
    /// an append has no events
    EMPTY_APPEND: "store", No;
    /// the name of a stream is empty or too long
    INVALID_STREAM: "store", No;
    /// an event is larger than the store or the broker accepts, or an item of an output stream is too large
    EVENT_TOO_LARGE: "store, broker, output streams", No;
    /// PostgreSQL cannot store the character NUL in an id, a source or a stream; in Python, a text is not valid Unicode
    INVALID_TEXT: "store, Python", No;
    /// another process, or another connection of this one, has the SQLite file open
    STORE_LOCKED: "store", No;
    /// the SQLite file was deleted, moved or replaced; restore it and restart the process
    STORE_GONE: "store", No;
    /// PostgreSQL has lost committed events, for example in a failover to a server that lagged behind; restart the process
    STORE_LOST_EVENTS: "store", No;
    /// the saved position of a reader is after the end of the log, which was restored from an older backup; delete the position with `aios readers retire`
    POSITION_AFTER_END: "store", No;
    /// a newer version of aios has migrated the database
    NEWER_SCHEMA: "store", No;
    /// a row has a value that aios never writes
    INVALID_ROW: "store", No;
    /// the files of the database are damaged
    STORE_CORRUPT: "store", No;
    /// the disk is full
    STORE_FULL: "store", Yes;
    /// the store did not answer in time
    STORE_TIMEOUT: "store", Yes;
    /// the name of an output stream is not `[a-z][a-z0-9_]*`, or too long
    INVALID_OUTPUT_STREAM: "output streams", No;
    /// the process has no store, or the task does not belong to a run
    OUTPUT_UNAVAILABLE: "output streams", No;
    /// too much output waits to be stored
    OUTPUT_BACKLOG: "output streams", Yes;
    /// the store is closed
    STORE_CLOSED: "store", No;
    /// an option or the URL of a store is invalid
    INVALID_STORE_CONFIGURATION: "store", No;
    /// the database reported another error
    STORE_BACKEND: "store", Depends;
    /// no queue receives an event that requires a route
    UNROUTABLE: "broker", Yes;
    /// a queue rejected an event, for example because it is full; others may have accepted it
    REJECTED: "broker", Yes;
    /// the connection was lost before the broker confirmed an event
    UNCERTAIN: "broker", Yes;
    /// the broker did not answer in time
    BROKER_TIMEOUT: "broker", Yes;
    /// the broker accepts no publishes for now
    BROKER_BLOCKED: "broker", Yes;
    /// the broker is closed
    BROKER_CLOSED: "broker", No;
    /// the queue exists with other settings
    INCOMPATIBLE_SUBSCRIPTION: "broker", No;
    /// the group or mailbox does not exist
    UNKNOWN_ADDRESS: "broker", No;
    /// a name of a group, mailbox, agent type or workflow is invalid
    INVALID_NAME: "broker, runtime", No;
    /// an option or the URL of a broker is invalid
    INVALID_BROKER_CONFIGURATION: "broker", No;
    /// the broker reported another error
    BROKER_BACKEND: "broker", Depends;
    /// the code of an agent panicked
    AGENT_PANICKED: "agent host", Yes;
    /// no group or mailbox receives tasks of that type, or for that id, or no agent can have the name; in the HTTP API, there is no such agent
    AGENT_NOT_FOUND: "engine, task client, HTTP API", Depends;
    /// agents of the type have existed, and none has begun the task for a while; it waits
    TASK_UNCLAIMED: "engine", No;
    /// the attempt took longer than its timeout; the engine allows `task_grace` in addition
    TASK_TIMEOUT: "agent host, engine, task client, timeout middleware", Yes;
    /// the task was cancelled
    TASK_CANCELLED: "agent host", No;
    /// the task became a dead letter; terminal if no answer to it can be published
    TASK_DEAD_LETTERED: "engine", Depends;
    /// the code of an agent or a step returned an error without a code
    TASK_FAILED: "agents, steps", Depends;
    /// an agent stopped sending heartbeats
    HEARTBEAT_MISSED: "engine", Yes;
    /// the parameters are invalid for the agent
    INVALID_PARAMETERS: "agent host, task client", No;
    /// the output of the agent cannot be serialised to JSON, or a projection's own position is invalid
    INVALID_OUTPUT: "agent host, projections", No;
    /// too many tasks failed before
    CIRCUIT_OPEN: "circuit breaker", Yes;
    /// a factory took too long
    AGENT_FACTORY_TIMEOUT: "agent host", Yes;
    /// a part of the host has stopped because of a permanent error
    AGENT_HOST_IMPAIRED: "agent host", No;
    /// two agents have the same id
    DUPLICATE_AGENT: "agent host", No;
    /// an agent type is added twice
    DUPLICATE_AGENT_TYPE: "agent host", No;
    /// an agent of a type is registered that was not added
    UNKNOWN_AGENT_TYPE: "agent host", No;
    /// the config of an agent is invalid for its factory
    INVALID_AGENT_CONFIG: "agent host", No;
    /// an option of an agent, a middleware or the host is invalid
    INVALID_AGENT_CONFIGURATION: "agent host", No;
    /// an agent id is not `[A-Za-z0-9._-]+`, is too long, or is `.` or `..`
    INVALID_AGENT_ID: "agent host", No;
    /// the JSON Schema of the parameters is invalid
    INVALID_AGENT_SCHEMA: "agent host", No;
    /// an agent type is not `[a-z][a-z0-9_]*`, or is too long
    INVALID_AGENT_TYPE: "agent host, runtime, engine", No;
    /// tasks were still running at the deadline of the shutdown
    SHUTDOWN_TIMEOUT: "agent host", No;
    /// there is no such run
    RUN_NOT_FOUND: "runtime", No;
    /// the id belongs to another run
    RUN_EXISTS: "runtime, engine", No;
    /// the run has ended and accepts no commands
    RUN_ENDED: "runtime", No;
    /// a run that is being cancelled cannot be paused
    RUN_CANCELLING: "runtime", No;
    /// the run was cancelled
    RUN_CANCELLED: "engine", No;
    /// the run cannot continue until something changes
    RUN_BLOCKED: "runtime", No;
    /// the run failed without a recorded failure
    RUN_FAILED: "runtime", No;
    /// the driver of a run, its executor or a destructor panicked; the run is blocked
    RUN_PANICKED: "engine", No;
    /// the run waits for nothing that the test will deliver
    RUN_STALLED: "test harness", No;
    /// a run id is empty, too long, `.` or `..`, or has control characters or `~`
    INVALID_RUN_ID: "runtime, engine", No;
    /// the name of a signal is empty, too long, or has control characters
    INVALID_SIGNAL_NAME: "runtime, engine", No;
    /// the successor of a run cannot be found
    NOT_CONTINUED: "runtime", No;
    /// a run has no such operation to fork at
    OPERATION_NOT_FOUND: "runtime", No;
    /// a result does not have the expected type
    INVALID_RESULT: "runtime", No;
    /// a child ended without a result or a failure
    CHILD_ENDED: "engine", No;
    /// a child cannot be started
    INVALID_CHILD: "engine", No;
    /// no engine has code for the workflow or its version
    WORKFLOW_NOT_FOUND: "runtime, engine", No;
    /// the run follows a version of a change that no code knows; it is blocked
    UNKNOWN_VERSION: "engine", No;
    /// the code does not match the journal; the run is blocked
    JOURNAL_MISMATCH: "engine", No;
    /// an event of the journal cannot be read; the run is blocked
    JOURNAL_UNREADABLE: "engine", No;
    /// the code awaits something that is not recorded; the run is blocked
    FOREIGN_AWAIT: "engine", No;
    /// the code wakes itself, makes requests or computes without end; the run is blocked
    WORKFLOW_BUSY: "engine", No;
    /// the code of the workflow panicked
    WORKFLOW_PANICKED: "engine", No;
    /// the code of the workflow returned an error without a code
    WORKFLOW_FAILED: "workflows", No;
    /// a context or an operation was used outside the code of its run
    OPERATION_OUTSIDE_WORKFLOW: "engine", No;
    /// the code of a step panicked
    STEP_PANICKED: "engine", Yes;
    /// a step took longer than its timeout
    STEP_TIMEOUT: "engine", Yes;
    /// no signal arrived before the deadline
    SIGNAL_TIMEOUT: "engine", No;
    /// an option of an operation is invalid
    INVALID_OPTIONS: "engine", No;
    /// a workflow name is not `[a-z][a-z0-9_]*`, or is too long
    INVALID_WORKFLOW_NAME: "runtime, engine", No;
    /// an option of the runtime is missing or invalid
    INVALID_RUNTIME_CONFIGURATION: "runtime", No;
    /// the engine of this process has stopped because of a permanent error
    ENGINE_STOPPED: "runtime", No;
    /// the engine panicked
    ENGINE_PANICKED: "engine", No;
    /// a projection has stopped because of a permanent error
    PROJECTION_STOPPED: "projection", No;
    /// the handler of a projection panicked
    PROJECTION_PANICKED: "projection", Yes;
    /// the event at that position is not a dead letter
    DEAD_LETTER_NOT_FOUND: "projection", No;
    /// no projection with this name has a saved position
    PROJECTION_NOT_FOUND: "HTTP API", No;
    /// a process runs the projection, which cannot be retired until it has stopped
    PROJECTION_RUNNING: "HTTP API", No;
    /// the HTTP API has no such path
    ROUTE_NOT_FOUND: "HTTP API", No;
    /// the path does not accept this HTTP method
    METHOD_NOT_ALLOWED: "HTTP API", No;
    /// the path, the query, a header or the body of a request cannot be read
    MALFORMED_REQUEST: "HTTP API", No;
    /// the body of a request does not have the expected form
    INVALID_REQUEST: "HTTP API", No;
    /// a cursor was not returned by this list, or a position is after the end of the log
    INVALID_CURSOR: "HTTP API", No;
    /// the body of a request is not `application/json` in UTF-8, or is compressed
    UNSUPPORTED_MEDIA_TYPE: "HTTP API", No;
    /// the body of a request is larger than the limit
    BODY_TOO_LARGE: "HTTP API", No;
    /// the headers of a request are larger than the limit, or too many
    HEADERS_TOO_LARGE: "HTTP API", No;
    /// the target of a request is too long
    URI_TOO_LONG: "HTTP API", No;
    /// a request took longer than the limit
    REQUEST_TIMEOUT: "HTTP API", Yes;
    /// a request has no valid credentials
    UNAUTHENTICATED: "HTTP API", No;
    /// the caller lacks the permission that a route requires
    PERMISSION_DENIED: "HTTP API", No;
    /// only a failed run can be retried
    RUN_NOT_FAILED: "runtime", No;
    /// no operation of the failed run has failed
    NO_FAILED_OPERATION: "runtime", No;
    /// an agent with this id exists
    AGENT_EXISTS: "agents", No;
    /// the agent was deleted
    AGENT_DELETED: "agents", No;
    /// the agent is registered by the code of a process, and can only be changed there
    AGENT_NOT_MANAGED: "agents", No;
    /// a task of a workflow ends with its run only
    TASK_OF_WORKFLOW: "HTTP API", No;
    /// there is no such agent type
    AGENT_TYPE_NOT_FOUND: "HTTP API", No;
    /// a web page of an origin that is not allowed sent the request
    ORIGIN_NOT_ALLOWED: "HTTP API", No;
    /// an `Idempotency-Key` is empty, too long, not ASCII or given twice
    INVALID_IDEMPOTENCY_KEY: "HTTP API", No;
    /// another request of the caller has the same `Idempotency-Key`
    IDEMPOTENCY_KEY_REUSED: "HTTP API", No;
    /// a request with the same `Idempotency-Key` has not been answered yet
    REQUEST_IN_PROGRESS: "HTTP API", Yes;
    /// a condition does not hold: the `ETag` of the resource, if it has one, is not in `If-Match` or is in `If-None-Match`
    PRECONDITION_FAILED: "HTTP API, managed agents", No;
    /// a request that replaces or deletes a resource has no `If-Match`
    PRECONDITION_REQUIRED: "HTTP API", No;
    /// the caller sends more requests than its rate limit allows
    RATE_LIMITED: "HTTP API", Yes;
    /// the credentials of a request cannot be checked for now
    AUTHENTICATION_UNAVAILABLE: "HTTP API", Yes;
    /// there is no such task
    TASK_NOT_FOUND: "HTTP API", No;
    /// the process that answers has no store
    NO_STORE: "HTTP API", No;
    /// the code of the HTTP API panicked
    INTERNAL_ERROR: "HTTP API", No;
    /// the service cannot be reached, or the connection broke
    SERVICE_UNREACHABLE: "HTTP client", Yes;
    /// the answer is not one of the HTTP API
    INVALID_RESPONSE: "HTTP client", No;
    /// the URL, a credential or an option of the client is invalid
    INVALID_CLIENT_CONFIGURATION: "HTTP client", No;
    /// the configuration has faults, which the report lists
    INVALID_SETTINGS: "configuration", No;
    /// the operating system refuses the address of a server, or the handling of signals
    LISTEN_FAILED: "service", No;
    /// a signal asked the process to end while its service was starting
    START_INTERRUPTED: "service", No;
    /// the telemetry of a process cannot be started
    TELEMETRY_FAILED: "service", No;
    /// the collector of traces or metrics does not answer
    COLLECTOR_UNREACHABLE: "telemetry", Yes;
    /// the collector does not accept the spans or metrics
    COLLECTOR_REFUSED: "telemetry", Depends;
    /// an error without a code of its own
    AIOS_ERROR: "Python", No;
    /// a workflow continues as another run
    CONTINUED_AS_NEW: "Python", No;
    /// a runtime or client is used in a child process that was forked after it was opened
    FORKED: "Python", No;
    /// the code of an attempt raised `asyncio.CancelledError`, or its event loop stopped and the process did not end within 5 s
    INTERRUPTED: "Python", Yes;
    /// an option of a call is invalid
    INVALID_CONFIGURATION: "Python", No;
    /// a value cannot be serialised to JSON
    INVALID_DATA: "Python", No;
    /// a duration is negative or too long
    INVALID_DURATION: "Python", No;
    /// the event loop of the workflow is not running
    NO_EVENT_LOOP: "Python", No;
    /// a test has no journal to replay
    NO_JOURNAL: "Python", No;
    /// an error about a run without a code of its own
    RUN_ERROR: "Python", No;
    /// the runtime or client is not open
    RUNTIME_CLOSED: "runtime", No;
    /// the code of a workflow awaited something that is not an operation
    WORKFLOW_CODE: "Python", No;
    /// a runtime is used from another event loop than it was opened in, or a blocking one from its own
    WRONG_LOOP: "Python", No;
    /// the provider accepts no more requests for now, or nothing is left to pay with (not retryable)
    MODEL_RATE_LIMITED: "models", Depends;
    /// the provider is overloaded
    MODEL_OVERLOADED: "models", Yes;
    /// the provider did not answer in time
    MODEL_TIMEOUT: "models", Yes;
    /// the provider cannot be reached, or the connection was lost
    MODEL_UNAVAILABLE: "models", Yes;
    /// the key of the provider is missing or invalid
    MODEL_UNAUTHORIZED: "models", No;
    /// the provider rejects the request
    MODEL_INVALID_REQUEST: "models", No;
    /// the request is longer than the context of the model
    MODEL_CONTEXT_OVERFLOW: "models", No;
    /// the model or the provider refuses to answer
    MODEL_REFUSED: "models, LLM agents", No;
    /// the response of the provider is malformed or cut off
    MODEL_INVALID_RESPONSE: "models", Yes;
    /// requests to real providers are forbidden in this process
    MODEL_REQUEST_FORBIDDEN: "models", No;
    /// a model for tests has no response for a request
    MODEL_UNEXPECTED_REQUEST: "models", No;
    /// the provider failed several times in a row, and no request is made for now
    MODEL_CIRCUIT_OPEN: "models", Yes;
    /// the provider reported another error
    MODEL_BACKEND: "models", Depends;
    /// the model gave too many faulty responses in a row
    MODEL_FAULTS: "LLM agents", No;
    /// an agent has no result after its maximum number of responses
    TURN_LIMIT: "LLM agents", No;
    /// the next call would exceed the budget of the run
    BUDGET_EXCEEDED: "LLM agents", No;
    /// the cost is limited, and the model has no price
    UNKNOWN_PRICE: "LLM agents", No;
    /// a guardrail has stopped the run
    GUARDRAIL_TRIPPED: "LLM agents", No;
    /// a call of a write tool began before, and its outcome is unknown
    WRITE_IN_DOUBT: "LLM agents", No;
    /// a process that makes a model call lacks the conversation so far; the call is repeated with all of it
    CONVERSATION_MISSING: "LLM agents", No;
    /// the process of an agent lacks a tool
    TOOL_NOT_FOUND: "LLM agents", Yes;
    /// the result of a tool is larger than its limit
    TOOL_RESULT_TOO_LARGE: "LLM agents", No;
    /// a tool, the output or an option of an agent is invalid
    INVALID_LLM_AGENT: "LLM agents", No;
}

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
