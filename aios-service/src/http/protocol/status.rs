//! The HTTP status of every code.
//!
//! A test compares the table with the catalogue of codes: each code is in the table or among those
//! that no request fails with, and in one row only.

use axum::http::StatusCode;

/// The status of each code in [`aios_core::catalog::codes`] when it is the reason why a request
/// fails. Failures of runs and tasks are data of their resources, not errors of requests.
const STATUSES: &[(u16, &[&str])] = &[
    (
        400,
        &[
            "MALFORMED_REQUEST",
            "INVALID_CURSOR",
            "INVALID_OUTPUT_STREAM",
            "INVALID_RUN_ID",
            "INVALID_SIGNAL_NAME",
            "INVALID_NAME",
            "INVALID_WORKFLOW_NAME",
            "INVALID_AGENT_ID",
            "INVALID_AGENT_TYPE",
            "INVALID_AGENT_CONFIG",
            "INVALID_PATTERN",
            "INVALID_STREAM",
            "INVALID_IDEMPOTENCY_KEY",
        ],
    ),
    (401, &["UNAUTHENTICATED"]),
    (403, &["PERMISSION_DENIED", "ORIGIN_NOT_ALLOWED", "RESERVED_EVENT_TYPE"]),
    (
        404,
        &[
            "ROUTE_NOT_FOUND",
            "RUN_NOT_FOUND",
            "TASK_NOT_FOUND",
            "AGENT_NOT_FOUND",
            "AGENT_TYPE_NOT_FOUND",
            "WORKFLOW_NOT_FOUND",
            "OPERATION_NOT_FOUND",
            "DEAD_LETTER_NOT_FOUND",
            "PROJECTION_NOT_FOUND",
            "UNKNOWN_ADDRESS",
        ],
    ),
    (405, &["METHOD_NOT_ALLOWED"]),
    (
        409,
        &[
            "RUN_EXISTS",
            "RUN_ENDED",
            "RUN_CANCELLING",
            "CONFLICT",
            "STREAM_CLOSED",
            "FENCED",
            "DUPLICATE_EVENT",
            "INCOMPATIBLE_SUBSCRIPTION",
            "NOT_CONTINUED",
            "IDEMPOTENCY_KEY_REUSED",
            "REQUEST_IN_PROGRESS",
            "RUN_NOT_FAILED",
            "NO_FAILED_OPERATION",
            "TASK_OF_WORKFLOW",
            "AGENT_EXISTS",
            "AGENT_NOT_MANAGED",
            "PROJECTION_RUNNING",
        ],
    ),
    (410, &["AGENT_DELETED"]),
    (412, &["PRECONDITION_FAILED"]),
    (413, &["BODY_TOO_LARGE", "EVENT_TOO_LARGE"]),
    (414, &["URI_TOO_LONG"]),
    (415, &["UNSUPPORTED_MEDIA_TYPE"]),
    (
        422,
        &[
            "INVALID_REQUEST",
            "INVALID_RUNTIME_CONFIGURATION",
            "INVALID_EVENT_DATA",
            "INVALID_EVENT_ID",
            "INVALID_EVENT_SOURCE",
            "INVALID_EVENT_TYPE",
            "INVALID_TIMESTAMP",
            "INVALID_TEXT",
            "MALFORMED_EVENT",
            "EMPTY_APPEND",
        ],
    ),
    (428, &["PRECONDITION_REQUIRED"]),
    (429, &["RATE_LIMITED"]),
    (431, &["HEADERS_TOO_LARGE"]),
    (
        503,
        &[
            "REQUEST_TIMEOUT",
            "AUTHENTICATION_UNAVAILABLE",
            "NO_STORE",
            "STORE_LOCKED",
            "STORE_FULL",
            "STORE_TIMEOUT",
            "STORE_CLOSED",
            "RUNTIME_CLOSED",
            "STORE_BACKEND",
            "UNROUTABLE",
            "REJECTED",
            "UNCERTAIN",
            "BROKER_TIMEOUT",
            "BROKER_BLOCKED",
            "BROKER_CLOSED",
            "BROKER_BACKEND",
            "ENGINE_STOPPED",
        ],
    ),
    (
        500,
        &[
            "INTERNAL_ERROR",
            "INVALID_CLOUD_EVENT",
            "INVALID_METADATA",
            "STORE_GONE",
            "STORE_LOST_EVENTS",
            "POSITION_AFTER_END",
            "NEWER_SCHEMA",
            "INVALID_ROW",
            "STORE_CORRUPT",
            "INVALID_STORE_CONFIGURATION",
            "INVALID_BROKER_CONFIGURATION",
            "AGENT_HOST_IMPAIRED",
            "AGENT_FACTORY_TIMEOUT",
            "DUPLICATE_AGENT",
            "DUPLICATE_AGENT_TYPE",
            "UNKNOWN_AGENT_TYPE",
            "INVALID_AGENT_CONFIGURATION",
            "INVALID_AGENT_SCHEMA",
            "SHUTDOWN_TIMEOUT",
            "PROJECTION_STOPPED",
            "INVALID_RESULT",
            "RUN_FAILED",
            "RUN_BLOCKED",
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
    "MODEL_RATE_LIMITED",
    "MODEL_OVERLOADED",
    "MODEL_TIMEOUT",
    "MODEL_UNAVAILABLE",
    "MODEL_UNAUTHORIZED",
    "MODEL_INVALID_REQUEST",
    "MODEL_CONTEXT_OVERFLOW",
    "MODEL_REFUSED",
    "MODEL_INVALID_RESPONSE",
    "MODEL_REQUEST_FORBIDDEN",
    "MODEL_UNEXPECTED_REQUEST",
    "MODEL_CIRCUIT_OPEN",
    "MODEL_BACKEND",
    "MODEL_FAULTS",
    "TURN_LIMIT",
    "BUDGET_EXCEEDED",
    "UNKNOWN_PRICE",
    "GUARDRAIL_TRIPPED",
    "WRITE_IN_DOUBT",
    "CONVERSATION_MISSING",
    "OUTPUT_UNAVAILABLE",
    "OUTPUT_BACKLOG",
    "TOOL_NOT_FOUND",
    "TOOL_RESULT_TOO_LARGE",
    "INVALID_LLM_AGENT",
    "AGENT_PANICKED",
    "TASK_UNCLAIMED",
    "TASK_TIMEOUT",
    "TASK_CANCELLED",
    "TASK_DEAD_LETTERED",
    "TASK_FAILED",
    "HEARTBEAT_MISSED",
    "INVALID_PARAMETERS",
    "INVALID_OUTPUT",
    "CIRCUIT_OPEN",
    "RUN_CANCELLED",
    "RUN_PANICKED",
    "RUN_STALLED",
    "CHILD_ENDED",
    "INVALID_CHILD",
    "UNKNOWN_VERSION",
    "JOURNAL_MISMATCH",
    "JOURNAL_UNREADABLE",
    "FOREIGN_AWAIT",
    "WORKFLOW_BUSY",
    "WORKFLOW_PANICKED",
    "WORKFLOW_FAILED",
    "OPERATION_OUTSIDE_WORKFLOW",
    "STEP_PANICKED",
    "STEP_TIMEOUT",
    "SIGNAL_TIMEOUT",
    "INVALID_OPTIONS",
    "ENGINE_PANICKED",
    "PROJECTION_PANICKED",
    "SERVICE_UNREACHABLE",
    "INVALID_RESPONSE",
    "INVALID_CLIENT_CONFIGURATION",
    "INVALID_SETTINGS",
    "START_INTERRUPTED",
    "LISTEN_FAILED",
    "TELEMETRY_FAILED",
    "COLLECTOR_UNREACHABLE",
    "COLLECTOR_REFUSED",
    "AIOS_ERROR",
    "CONTINUED_AS_NEW",
    "FORKED",
    "INTERRUPTED",
    "INVALID_CONFIGURATION",
    "INVALID_DATA",
    "INVALID_DURATION",
    "NO_EVENT_LOOP",
    "NO_JOURNAL",
    "RUN_ERROR",
    "WORKFLOW_CODE",
    "WRONG_LOOP",
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
