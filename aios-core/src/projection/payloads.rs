//! The fields that the projection reads, of events whose full data is in the
//! [catalogue](crate::catalog).
//!
//! An event with fewer fields than aios writes still changes the read models, and failures and
//! results are passed on unread, byte by byte.

use serde::Deserialize;

use crate::event::Payload;

#[derive(Deserialize)]
pub(super) struct Started {
    pub(super) version: u32,
    #[serde(default)]
    pub(super) parent: Option<Parent>,
    #[serde(default)]
    pub(super) first_run_id: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Parent {
    pub(super) run_id: String,
}

#[derive(Deserialize)]
pub(super) struct Ended {
    #[serde(default)]
    pub(super) result: Option<Payload>,
    #[serde(default)]
    pub(super) failure: Option<Payload>,
}

#[derive(Deserialize)]
pub(super) struct StatusSet {
    pub(super) text: String,
    #[serde(default)]
    pub(super) progress: Option<Payload>,
}

#[derive(Deserialize)]
pub(super) struct Blocked {
    pub(super) failure: Payload,
}

#[derive(Default, Deserialize)]
pub(super) struct Unblocked {
    #[serde(default)]
    pub(super) cancelling: bool,
}

#[derive(Deserialize)]
pub(super) struct OperationFailed {
    pub(super) operation: u64,
    #[serde(default)]
    pub(super) name: Option<String>,
    pub(super) failure: Payload,
}

#[derive(Deserialize)]
pub(super) struct Assigned {
    pub(super) task_id: String,
    #[serde(default)]
    pub(super) agent_id: Option<String>,
    pub(super) attempt: u32,
}

#[derive(Deserialize)]
pub(super) struct TaskOutcome {
    pub(super) task_id: String,
    #[serde(default)]
    pub(super) failure: Option<Payload>,
}

#[cfg(test)]
mod tests {
    use serde::{Serialize, de::DeserializeOwned};
    use serde_json::json;

    use super::*;
    use crate::{
        agent::{TaskAssigned, TaskCancelled, TaskCompleted, TaskFailed, TaskId, TaskResult},
        catalog::{agent::TaskUnclaimed, workflow},
        failure::Failure,
    };

    fn read<T: DeserializeOwned>(data: &impl Serialize) -> T {
        Payload::encode(data).unwrap().decode().unwrap()
    }

    #[test]
    fn should_read_what_the_catalogue_writes() {
        let failure = Failure::new("X", "y");
        let json = Payload::encode(&json!(1)).unwrap();
        let parent = workflow::Parent { run_id: "p".into(), incarnation: None, operation: 1 };
        let started = workflow::Started { version: 2, parent: Some(parent), ..Default::default() };
        let started: Started = read(&started);
        assert_eq!((started.version, started.parent.unwrap().run_id), (2, "p".to_owned()));
        let completed: Ended = read(&workflow::Completed::new(json.clone()));
        let failed: Ended = read(&workflow::Failed::new(failure.clone()));
        assert!(completed.result.is_some() && failed.failure.is_some());
        let status = workflow::StatusSet { operation: 1, text: "a".into(), progress: None };
        assert_eq!(read::<StatusSet>(&status).text, "a");
        read::<Blocked>(&workflow::Blocked { failure: failure.clone() });
        let name = Some("s".into());
        let data = workflow::OperationFailed { operation: 7, name, failure: failure.clone() };
        assert_eq!(read::<OperationFailed>(&data).operation, 7);
        let task_id = TaskId::new("t1");
        let assigned: Assigned = read(&TaskAssigned {
            task_id: task_id.clone(),
            agent_id: Some("a".into()),
            parameters: json.clone(),
            attempt: 3,
            timeout_ms: None,
        });
        assert_eq!((&*assigned.task_id, assigned.attempt), ("t1", 3));
        let completed =
            TaskCompleted { task_id: task_id.clone(), result: TaskResult::Success, output: json };
        assert_eq!(read::<TaskOutcome>(&completed).task_id, "t1");
        assert_eq!(read::<TaskOutcome>(&TaskCancelled { task_id: task_id.clone() }).task_id, "t1");
        let unclaimed =
            TaskUnclaimed { task_id: task_id.clone(), attempt: 1, failure: Some(failure.clone()) };
        assert!(read::<TaskOutcome>(&unclaimed).failure.is_some());
        let failed = TaskFailed { task_id, attempt: 1, failure, retryable: true };
        assert!(read::<TaskOutcome>(&failed).failure.is_some());
    }
}
