//! Every status of a run with every event.
//!
//! The table is public, so that an adapter can also check it against a log that an old version wrote.

use serde_json::{Value, json};

use super::{
    harness::{Harness, typed},
    read_model::run,
};
use crate::{
    event::Event,
    store::{RunStatus, StoreError},
};

/// Every status.
pub const STATUSES: [RunStatus; 8] = [
    RunStatus::Running,
    RunStatus::Paused,
    RunStatus::Blocked,
    RunStatus::Cancelling,
    RunStatus::Completed,
    RunStatus::Failed,
    RunStatus::Cancelled,
    RunStatus::Continued,
];

/// Types of events in the journal of a run of the workflow `deploy`; one is of another workflow.
pub const EVENTS: [&str; 15] = [
    "workflows.deploy.started",
    "workflows.deploy.paused",
    "workflows.deploy.resumed",
    "workflows.deploy.blocked",
    "workflows.deploy.unblocked",
    "workflows.deploy.cancel_requested",
    "workflows.deploy.signaled",
    "workflows.deploy.status_set",
    "workflows.deploy.step_completed",
    "workflows.deploy.completed",
    "workflows.deploy.failed",
    "workflows.deploy.cancelled",
    "workflows.deploy.continued",
    "workflows.other.completed",
    "workflows.other.cancel_requested",
];

/// The status of a run after an event.
#[must_use]
pub fn after(status: RunStatus, event_type: &str) -> RunStatus {
    let own = event_type.strip_prefix("workflows.deploy.").unwrap_or_default();
    match (status, own) {
        (status, _) if status.is_final() => status,
        (_, "completed") => RunStatus::Completed,
        (_, "failed") => RunStatus::Failed,
        (_, "cancelled") => RunStatus::Cancelled,
        (_, "continued") => RunStatus::Continued,
        (_, "cancel_requested") => RunStatus::Cancelling,
        (_, "blocked") => RunStatus::Blocked,
        (RunStatus::Running, "paused") => RunStatus::Paused,
        (RunStatus::Paused, "resumed") | (RunStatus::Blocked, "unblocked") => RunStatus::Running,
        (status, _) => status,
    }
}

/// The journal of a run that is in this status.
#[must_use]
pub fn journal(status: RunStatus) -> Vec<Event> {
    let started = event("workflows.deploy.started");
    let last = match status {
        RunStatus::Running => return vec![started],
        RunStatus::Cancelling => "cancel_requested",
        other => other.as_str(),
    };
    vec![started, event(&format!("workflows.deploy.{last}"))]
}

/// An event of this type with valid data.
#[must_use]
pub fn event(event_type: &str) -> Event {
    let failure = json!({ "code": "X", "message": "it went wrong" });
    let data = match event_type.rsplit('.').next() {
        Some("completed") => json!({ "result": 7 }),
        Some("status_set") => json!({ "text": "half", "progress": 0.5 }),
        Some("continued") => json!({ "run_id": "next" }),
        Some("blocked" | "failed" | "cancelled") => json!({ "failure": failure }),
        _ => json!({ "version": 1, "reason": "", "name": "go", "payload": Value::Null }),
    };
    typed(event_type, &data)
}

/// A run leaves a status only as the table defines; one that has ended accepts nothing.
pub async fn should_follow_every_transition_of_a_run(harness: Harness<'_>) {
    for status in STATUSES {
        for event_type in EVENTS {
            let name = format!("{status}+{event_type}");
            harness.append(&format!("runs/{name}"), journal(status)).await;
            let before = run(&harness, &name).await;
            assert_eq!(before.status, status);
            let append = harness.append_event(&name, event(event_type)).await;
            let row = run(&harness, &name).await;
            assert_eq!(row.status, after(status, event_type), "{name}");
            if status.is_final() {
                assert_eq!(append.as_ref().unwrap_err().code(), "STREAM_CLOSED", "{name}");
                assert_eq!(row, before, "{name}");
            } else {
                append.unwrap_or_else(|error: StoreError| panic!("{name}: {error}"));
            }
        }
    }
}

/// A task that was completed or cancelled is not assigned again, and does not fail afterwards.
pub async fn should_never_leave_the_end_of_a_task(harness: Harness<'_>) {
    for (end, status) in [("completed", "completed"), ("cancelled", "cancelled")] {
        let id = format!("r1/{end}");
        let given = json!({ "task_id": id, "attempt": 1 });
        let again = json!({ "task_id": id, "attempt": 2 });
        let failure = json!({ "code": "X", "message": "it went wrong" });
        let failed = json!({ "task_id": id, "failure": failure });
        for (action, data) in [
            ("assigned", given),
            (end, json!({ "task_id": id })),
            ("assigned", again),
            ("failed", failed),
            ("cancelled", json!({ "task_id": id })),
            ("completed", json!({ "task_id": id })),
        ] {
            harness.append_to_run("r1", &format!("agents.backend.task_{action}"), data).await;
        }
        let filter = crate::store::TaskFilter::default();
        let rows =
            harness.store.tasks(&filter, &crate::store::PageRequest::default()).await.unwrap();
        let row = rows.rows.into_iter().find(|row| row.id == id).unwrap();
        assert_eq!((row.status.as_str(), row.attempt, row.failure), (status, 1, None));
    }
}
