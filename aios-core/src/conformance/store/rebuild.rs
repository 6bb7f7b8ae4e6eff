//! The tables can be rebuilt from the log.

use futures_util::future::join;
use serde_json::json;

use super::harness::{Harness, events};
use crate::store::{
    AgentFilter, AgentRecord, PageRequest, RunFilter, RunRecord, Store, TaskFilter, TaskRecord,
    WorkflowRecord,
};

type Tables = (Vec<AgentRecord>, Vec<TaskRecord>, Vec<WorkflowRecord>, Vec<RunRecord>);

async fn tables(store: &dyn Store) -> Tables {
    let page = PageRequest::first(1000);
    let agents = AgentFilter { include_deleted: true, ..AgentFilter::default() };
    let tasks = TaskFilter { include_deleted: true, ..TaskFilter::default() };
    let runs = RunFilter { include_deleted: true, ..RunFilter::default() };
    (
        store.agents(&agents, &page).await.unwrap().rows,
        store.tasks(&tasks, &page).await.unwrap().rows,
        store.workflows(&page).await.unwrap().rows,
        store.runs(&runs, &page).await.unwrap().rows,
    )
}

/// Appends events of every kind.
async fn live(harness: &Harness<'_>, number: u64) {
    let failure = json!({ "code": "X", "message": "it went wrong" });
    let (run, task) = (format!("run-{number}"), format!("run-{number}/1"));
    let agent = format!("agent-{}", number % 3);
    for (event_type, data) in [
        ("workflows.deploy.registered", json!({ "version": number % 5 })),
        ("agents.backend.registered", json!({ "agent_id": agent, "name": "Ada", "config": [1] })),
        ("workflows.deploy.started", json!({ "version": 1 })),
        ("workflows.deploy.step_completed", json!({ "operation": 1, "result": 1 })),
        ("agents.backend.task_assigned", json!({ "task_id": task, "attempt": 1 })),
        ("agents.backend.task_failed", json!({ "task_id": task, "failure": failure })),
        ("agents.backend.deregistered", json!({ "agent_id": "agent-1" })),
        ("workflows.deploy.failed", json!({ "failure": failure })),
    ] {
        harness.append_to_run(&run, event_type, data).await;
    }
}

/// Rebuilt tables equal the live ones, row by row, including those of an empty log.
pub async fn should_rebuild_what_was_live(harness: Harness<'_>) {
    let store = &*harness.store;
    store.rebuild().await.unwrap();
    assert_eq!(tables(store).await, Tables::default());
    for number in 0..20 {
        live(&harness, number).await;
    }
    let before = tables(store).await;
    assert_eq!((before.0.len(), before.1.len(), before.2.len(), before.3.len()), (3, 20, 5, 20));
    store.rebuild().await.unwrap();
    assert_eq!(tables(store).await, before);
}

/// Appends during a rebuild are in the tables afterwards.
pub async fn should_rebuild_while_others_append(harness: Harness<'_>) {
    harness.append("elsewhere", events(0..500)).await;
    let writer = async {
        for number in 0..10 {
            live(&harness, number).await;
        }
    };
    let rebuilder = async {
        for _ in 0..5 {
            harness.store.rebuild().await.unwrap();
        }
    };
    join(writer, rebuilder).await;
    let before = tables(&*harness.store).await;
    assert_eq!(before.3.len(), 10);
    harness.store.rebuild().await.unwrap();
    assert_eq!(tables(&*harness.store).await, before);
}
