//! The HTTP status of every code.
//!
//! A test compares the table with the catalogue of codes: each code is in the table or among those
//! that no request fails with, and in one row only.

use aios_core::catalog::codes;
use axum::http::StatusCode;

/// The status of each code in [`aios_core::catalog::codes`] when it is the reason why a request
/// fails. Failures of runs and tasks are data of their resources, not errors of requests.
const STATUSES: &[(u16, &[&str])] = &[
    (
        400,
        &[
            codes::MALFORMED_REQUEST,
            codes::INVALID_CURSOR,
            codes::INVALID_OUTPUT_STREAM,
            codes::INVALID_RUN_ID,
            codes::INVALID_SIGNAL_NAME,
            codes::INVALID_NAME,
            codes::INVALID_WORKFLOW_NAME,
            codes::INVALID_AGENT_ID,
            codes::INVALID_AGENT_TYPE,
            codes::INVALID_AGENT_CONFIG,
            codes::INVALID_PATTERN,
            codes::INVALID_STREAM,
            codes::INVALID_IDEMPOTENCY_KEY,
        ],
    ),
    (401, &[codes::UNAUTHENTICATED]),
    (403, &[codes::PERMISSION_DENIED, codes::ORIGIN_NOT_ALLOWED, codes::RESERVED_EVENT_TYPE]),
    (
        404,
        &[
            codes::ROUTE_NOT_FOUND,
            codes::RUN_NOT_FOUND,
            codes::TASK_NOT_FOUND,
            codes::AGENT_NOT_FOUND,
            codes::AGENT_TYPE_NOT_FOUND,
            codes::WORKFLOW_NOT_FOUND,
            codes::OPERATION_NOT_FOUND,
            codes::DEAD_LETTER_NOT_FOUND,
            codes::PROJECTION_NOT_FOUND,
            codes::UNKNOWN_ADDRESS,
        ],
    ),
    (405, &[codes::METHOD_NOT_ALLOWED]),
    (
        409,
        &[
            codes::RUN_EXISTS,
            codes::RUN_ENDED,
            codes::RUN_CANCELLING,
            codes::CONFLICT,
            codes::STREAM_CLOSED,
            codes::FENCED,
            codes::DUPLICATE_EVENT,
            codes::INCOMPATIBLE_SUBSCRIPTION,
            codes::NOT_CONTINUED,
            codes::IDEMPOTENCY_KEY_REUSED,
            codes::REQUEST_IN_PROGRESS,
            codes::RUN_NOT_FAILED,
            codes::NO_FAILED_OPERATION,
            codes::TASK_OF_WORKFLOW,
            codes::AGENT_EXISTS,
            codes::AGENT_NOT_MANAGED,
            codes::PROJECTION_RUNNING,
        ],
    ),
    (410, &[codes::AGENT_DELETED]),
    (412, &[codes::PRECONDITION_FAILED]),
    (413, &[codes::BODY_TOO_LARGE, codes::EVENT_TOO_LARGE]),
    (414, &[codes::URI_TOO_LONG]),
    (415, &[codes::UNSUPPORTED_MEDIA_TYPE]),
    (
        422,
        &[
            codes::INVALID_REQUEST,
            codes::INVALID_RUNTIME_CONFIGURATION,
            codes::INVALID_EVENT_DATA,
            codes::INVALID_EVENT_ID,
            codes::INVALID_EVENT_SOURCE,
            codes::INVALID_EVENT_TYPE,
            codes::INVALID_TIMESTAMP,
            codes::INVALID_TEXT,
            codes::MALFORMED_EVENT,
            codes::EMPTY_APPEND,
        ],
    ),
    (428, &[codes::PRECONDITION_REQUIRED]),
    (429, &[codes::RATE_LIMITED]),
    (431, &[codes::HEADERS_TOO_LARGE]),
    (
        503,
        &[
            codes::REQUEST_TIMEOUT,
            codes::AUTHENTICATION_UNAVAILABLE,
            codes::NO_STORE,
            codes::STORE_LOCKED,
            codes::STORE_FULL,
            codes::STORE_TIMEOUT,
            codes::STORE_CLOSED,
            codes::RUNTIME_CLOSED,
            codes::STORE_BACKEND,
            codes::UNROUTABLE,
            codes::REJECTED,
            codes::UNCERTAIN,
            codes::BROKER_TIMEOUT,
            codes::BROKER_BLOCKED,
            codes::BROKER_CLOSED,
            codes::BROKER_BACKEND,
            codes::ENGINE_STOPPED,
        ],
    ),
    (
        500,
        &[
            codes::INTERNAL_ERROR,
            codes::INVALID_CLOUD_EVENT,
            codes::INVALID_METADATA,
            codes::STORE_GONE,
            codes::STORE_LOST_EVENTS,
            codes::POSITION_AFTER_END,
            codes::NEWER_SCHEMA,
            codes::INVALID_ROW,
            codes::STORE_CORRUPT,
            codes::INVALID_STORE_CONFIGURATION,
            codes::INVALID_BROKER_CONFIGURATION,
            codes::AGENT_HOST_IMPAIRED,
            codes::AGENT_FACTORY_TIMEOUT,
            codes::DUPLICATE_AGENT,
            codes::DUPLICATE_AGENT_TYPE,
            codes::UNKNOWN_AGENT_TYPE,
            codes::INVALID_AGENT_CONFIGURATION,
            codes::INVALID_AGENT_SCHEMA,
            codes::SHUTDOWN_TIMEOUT,
            codes::PROJECTION_STOPPED,
            codes::INVALID_RESULT,
            codes::RUN_FAILED,
            codes::RUN_BLOCKED,
        ],
    ),
];

/// Every status of an error that the document names. 405 has no operation.
pub(crate) const ALL: &[u16] =
    &[400, 401, 403, 404, 409, 410, 412, 413, 414, 415, 422, 428, 429, 431, 500, 503];

/// Codes that no request fails with: they are failures of runs, tasks and agents, or belong to
/// Python and the test harness.
#[cfg(test)]
const DATA: &[&str] = &[
    codes::MODEL_RATE_LIMITED,
    codes::MODEL_OVERLOADED,
    codes::MODEL_TIMEOUT,
    codes::MODEL_UNAVAILABLE,
    codes::MODEL_UNAUTHORIZED,
    codes::MODEL_INVALID_REQUEST,
    codes::MODEL_CONTEXT_OVERFLOW,
    codes::MODEL_REFUSED,
    codes::MODEL_INVALID_RESPONSE,
    codes::MODEL_REQUEST_FORBIDDEN,
    codes::MODEL_UNEXPECTED_REQUEST,
    codes::MODEL_CIRCUIT_OPEN,
    codes::MODEL_BACKEND,
    codes::MODEL_FAULTS,
    codes::TURN_LIMIT,
    codes::BUDGET_EXCEEDED,
    codes::UNKNOWN_PRICE,
    codes::GUARDRAIL_TRIPPED,
    codes::WRITE_IN_DOUBT,
    codes::CONVERSATION_MISSING,
    codes::OUTPUT_UNAVAILABLE,
    codes::OUTPUT_BACKLOG,
    codes::TOOL_NOT_FOUND,
    codes::TOOL_RESULT_TOO_LARGE,
    codes::INVALID_LLM_AGENT,
    codes::AGENT_PANICKED,
    codes::TASK_UNCLAIMED,
    codes::TASK_TIMEOUT,
    codes::TASK_CANCELLED,
    codes::TASK_DEAD_LETTERED,
    codes::TASK_FAILED,
    codes::HEARTBEAT_MISSED,
    codes::INVALID_PARAMETERS,
    codes::INVALID_OUTPUT,
    codes::CIRCUIT_OPEN,
    codes::RUN_CANCELLED,
    codes::RUN_PANICKED,
    codes::RUN_STALLED,
    codes::CHILD_ENDED,
    codes::INVALID_CHILD,
    codes::UNKNOWN_VERSION,
    codes::JOURNAL_MISMATCH,
    codes::JOURNAL_UNREADABLE,
    codes::FOREIGN_AWAIT,
    codes::WORKFLOW_BUSY,
    codes::WORKFLOW_PANICKED,
    codes::WORKFLOW_FAILED,
    codes::OPERATION_OUTSIDE_WORKFLOW,
    codes::STEP_PANICKED,
    codes::STEP_TIMEOUT,
    codes::SIGNAL_TIMEOUT,
    codes::INVALID_OPTIONS,
    codes::ENGINE_PANICKED,
    codes::PROJECTION_PANICKED,
    codes::SERVICE_UNREACHABLE,
    codes::INVALID_RESPONSE,
    codes::INVALID_CLIENT_CONFIGURATION,
    codes::INVALID_SETTINGS,
    codes::START_INTERRUPTED,
    codes::LISTEN_FAILED,
    codes::TELEMETRY_FAILED,
    codes::COLLECTOR_UNREACHABLE,
    codes::COLLECTOR_REFUSED,
    codes::AIOS_ERROR,
    codes::CONTINUED_AS_NEW,
    codes::FORKED,
    codes::INTERRUPTED,
    codes::INVALID_CONFIGURATION,
    codes::INVALID_DATA,
    codes::INVALID_DURATION,
    codes::NO_EVENT_LOOP,
    codes::NO_JOURNAL,
    codes::RUN_ERROR,
    codes::WORKFLOW_CODE,
    codes::WRONG_LOOP,
];

/// The status of a code; 500 if the table does not have it.
pub(crate) fn of(code: &str) -> StatusCode {
    let row = STATUSES.iter().find(|(_, codes)| codes.contains(&code));
    row.and_then(|(status, _)| StatusCode::from_u16(*status).ok())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The codes of a status.
pub(crate) fn codes_of(status: u16) -> impl Iterator<Item = &'static str> {
    let rows = STATUSES.iter().filter(move |(row, _)| *row == status);
    rows.flat_map(|(_, codes)| codes.iter().copied())
}

#[cfg(test)]
mod tests {
    use aios_core::catalog::codes;

    use super::*;

    #[test]
    fn should_know_the_status_of_every_code_and_of_no_other() {
        let mut listed: Vec<_> = STATUSES.iter().flat_map(|(_, codes)| codes.iter()).collect();
        listed.extend(DATA);
        for code in codes::CODES {
            let count = listed.iter().filter(|listed| ***listed == code.code).count();
            assert_eq!(count, 1, "{} stands {count} times in the table", code.code);
        }
        for code in listed {
            assert!(codes::find(code).is_some(), "{code} is not in the catalogue");
        }
        assert_eq!(of("NOT_A_CODE"), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
