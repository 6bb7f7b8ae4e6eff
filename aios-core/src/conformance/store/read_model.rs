//! The tables follow the log.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Capability,
    harness::{Harness, envelope, events, stream, typed},
};
use crate::projection::created;
use crate::store::{
    AgentFilter, AgentRecord, AgentStatus, Append, Expected, PageRequest, RunFilter, RunRecord,
    RunStatus, Shard, TaskFilter, TaskRecord, TaskStatus,
};

const STARTED: &str = "workflows.deploy.started";

async fn start(harness: &Harness<'_>, run: &str) {
    harness.append_to_run(run, STARTED, json!({ "version": 1 })).await;
}

async fn agent(harness: &Harness<'_>, action: &str, data: Value) {
    let event = typed(&format!("agents.backend.{action}"), &data);
    harness.append("agents/backend", vec![event]).await;
}

async fn runs(harness: &Harness<'_>, filter: RunFilter) -> Vec<RunRecord> {
    let page = harness.store.runs(&filter, &PageRequest::first(1000)).await.unwrap();
    assert_eq!(page.next, None);
    page.rows
}

pub(super) async fn run(harness: &Harness<'_>, id: &str) -> RunRecord {
    let filter = RunFilter { id: Some(id.to_owned()), ..RunFilter::default() };
    runs(harness, filter).await.pop().expect("the run is there")
}

fn ids(runs: &[RunRecord]) -> Vec<&str> {
    let mut ids: Vec<_> = runs.iter().map(|run| run.id.as_str()).collect();
    ids.sort_unstable();
    ids
}

async fn tasks(harness: &Harness<'_>, filter: TaskFilter) -> Vec<TaskRecord> {
    harness.store.tasks(&filter, &PageRequest::default()).await.unwrap().rows
}

async fn agents(harness: &Harness<'_>) -> Vec<AgentRecord> {
    harness.store.agents(&AgentFilter::default(), &PageRequest::default()).await.unwrap().rows
}

/// A run's row has the latest state of its journal.
pub async fn should_follow_a_run(harness: Harness<'_>) {
    let parent = json!({ "version": 3, "parent": { "run_id": "mother", "operation": 1 } });
    let started = typed(STARTED, &parent);
    harness.append("runs/r1", vec![started.clone()]).await;
    let row = run(&harness, "r1").await;
    assert_eq!((row.workflow.as_str(), row.workflow_version), ("deploy", 3));
    assert_eq!((row.shard, row.status, row.position), (Shard::of("r1"), RunStatus::Running, 1));
    assert_eq!(row.parent_run_id.as_deref(), Some("mother"));
    harness.append("runs/r2", vec![typed(STARTED, &json!({ "version": 3 }))]).await;
    let of_parent = RunFilter { parent_run_id: Some("mother".to_owned()), ..RunFilter::default() };
    let children = harness.store.runs(&of_parent, &PageRequest::default()).await.unwrap().rows;
    assert_eq!(ids(&children), ["r1"]);
    assert_eq!((row.created_at, row.updated_at), (started.timestamp, started.timestamp));
    let recorded = harness.store.read_stream(&stream("runs/r1"), 0, 1).await.unwrap();
    assert_eq!(created::<RunRecord>(&recorded), Some(row), "what a starter computes");
    let failure = json!({ "code": "X", "message": "it went wrong", "details": [1] });
    for (action, data, status, failed) in [
        ("paused", json!({}), RunStatus::Paused, false),
        ("resumed", json!({}), RunStatus::Running, false),
        ("blocked", json!({ "failure": failure }), RunStatus::Blocked, true),
        ("unblocked", json!({}), RunStatus::Running, false),
        ("cancel_requested", json!({}), RunStatus::Cancelling, false),
        ("blocked", json!({ "failure": failure }), RunStatus::Blocked, true),
        ("unblocked", json!({ "cancelling": true }), RunStatus::Cancelling, false),
        ("completed", json!({ "result": { "ok": ["✓"] } }), RunStatus::Completed, false),
    ] {
        let at = harness.append_to_run("r1", &format!("workflows.deploy.{action}"), data).await;
        let row = run(&harness, "r1").await;
        assert_eq!((row.status, row.position), (status, at.position), "{action}");
        assert_eq!(row.failure.is_some(), failed, "{action}");
        assert_eq!(row.created_at, started.timestamp);
    }
    let result = run(&harness, "r1").await.result.unwrap();
    assert_eq!(result.decode::<Value>().unwrap(), json!({ "ok": ["✓"] }));
}

/// A task's row has its latest attempt and its outcome.
pub async fn should_follow_a_task(harness: Harness<'_>) {
    let given = "agents.backend.task_assigned";
    for attempt in [1, 2] {
        let data = json!({ "task_id": "r1/1", "agent_id": "a1", "attempt": attempt });
        harness.append_to_run("r1", given, data).await;
        let row = tasks(&harness, TaskFilter::default()).await.pop().unwrap();
        assert_eq!((row.id.as_str(), row.run_id.as_deref()), ("r1/1", Some("r1")));
        assert_eq!((row.agent_type.as_str(), row.agent_id.as_deref()), ("backend", Some("a1")));
        assert_eq!((row.status, row.attempt), (TaskStatus::Assigned, attempt));
    }
    let failure = json!({ "code": "X", "message": "it went wrong" });
    for (action, data, status, failed) in [
        ("failed", json!({ "task_id": "r1/1", "failure": failure }), TaskStatus::Failed, true),
        ("completed", json!({ "task_id": "r1/1" }), TaskStatus::Completed, false),
    ] {
        harness.append_to_run("r1", &format!("agents.backend.task_{action}"), data).await;
        let row = tasks(&harness, TaskFilter::default()).await.pop().unwrap();
        assert_eq!((row.status, row.failure.is_some(), row.attempt), (status, failed, 2));
    }
}

/// A late report about an attempt changes only the row of its own run, and only while the attempt is open.
pub async fn should_leave_a_task_alone_that_a_late_event_does_not_concern(harness: Harness<'_>) {
    let failure = json!({ "code": "X", "message": "it went wrong" });
    let data = json!({ "task_id": "r1/1", "attempt": 1 });
    harness.append_to_run("r1", "agents.backend.task_assigned", data).await;
    let given_up = json!({ "operation": 1, "failure": failure });
    let foreign = json!({ "task_id": "r1/1", "attempt": 1, "failure": failure });
    for (run, action, data) in [
        ("r2", "agents.backend.task_unclaimed", foreign.clone()),
        ("r2", "agents.backend.task_claimed", json!({ "task_id": "r1/1", "attempt": 1 })),
        ("r2", "workflows.deploy.operation_failed", given_up),
    ] {
        harness.append_to_run(run, action, data).await;
        let row = tasks(&harness, TaskFilter::default()).await.pop().unwrap();
        assert_eq!((row.status, row.failure), (TaskStatus::Assigned, None), "{action}");
    }
    let failed = json!({ "task_id": "r1/1", "failure": failure });
    harness.append_to_run("r1", "agents.backend.task_failed", failed).await;
    let before = tasks(&harness, TaskFilter::default()).await;
    for action in ["task_claimed", "task_unclaimed"] {
        let data = json!({ "task_id": "r1/1", "attempt": 1 });
        harness.append_to_run("r1", &format!("agents.backend.{action}"), data).await;
        assert_eq!(tasks(&harness, TaskFilter::default()).await, before, "{action}");
    }
}

/// An agent's row has its configuration, its status and when it was last seen.
pub async fn should_follow_an_agent(harness: Harness<'_>) {
    let registered = json!({ "agent_id": "a1", "name": "Ada", "config": { "speed": 9 } });
    agent(&harness, "registered", registered).await;
    let all = AgentFilter::default();
    let first = harness.store.agents(&all, &PageRequest::default()).await.unwrap().rows.remove(0);
    assert_eq!((first.id.as_str(), first.agent_type.as_str()), ("a1", "backend"));
    assert_eq!(first.name, "Ada");
    assert_eq!(first.config.decode::<Value>().unwrap(), json!({ "speed": 9 }));
    assert_eq!((first.status, first.deleted_at), (AgentStatus::Running, None));
    assert!(first.last_seen_at.is_some());
    agent(&harness, "status_changed", json!({ "agent_id": "a1", "status": "missing" })).await;
    let missing = harness.store.agents(&all, &PageRequest::default()).await.unwrap().rows.remove(0);
    assert_eq!((missing.status, missing.last_seen_at), (AgentStatus::Missing, first.last_seen_at));
    agent(&harness, "seen", json!({ "agent_id": "a1" })).await;
    let seen = harness.store.agents(&all, &PageRequest::default()).await.unwrap().rows.remove(0);
    assert_eq!((seen.status, seen.last_seen_at), (AgentStatus::Running, Some(seen.updated_at)));
}

/// A heartbeat is recorded in the row, and the log does not grow. If the row is not running, an
/// event has to do it; the same applies to a store that records no heartbeats.
pub async fn should_record_heartbeats_of_agents_outside_the_log(harness: Harness<'_>) {
    for id in ["a1", "a2"] {
        let registered = json!({ "agent_id": id, "name": id, "config": null });
        agent(&harness, "registered", registered).await;
    }
    agent(&harness, "status_changed", json!({ "agent_id": "a2", "status": "missing" })).await;
    let head = harness.store.head().await.unwrap();
    let rows = agents(&harness).await;
    let at = rows.iter().map(|row| row.updated_at).max().unwrap() + Duration::from_secs(60);
    let ids = ["a1", "a2", "missing"].map(str::to_owned);
    let left = harness.store.touch_agents(&ids, at).await.unwrap();
    let noted = usize::from(!harness.lacks(Capability::SignsOfLife));
    assert_eq!(left, ids[noted..]);
    assert_eq!(harness.store.head().await.unwrap(), head);
    for (before, after) in rows.iter().zip(agents(&harness).await) {
        let seen = if left.contains(&after.id) { before.last_seen_at } else { Some(at) };
        assert_eq!((after.last_seen_at, after.status), (seen, before.status), "{}", after.id);
    }
}

/// Each version of a workflow is a row; registering it again changes only its time.
pub async fn should_list_workflows_by_version(harness: Harness<'_>) {
    for version in [1, 2, 1] {
        let event = typed("workflows.deploy.registered", &json!({ "version": version }));
        harness.append("workflows/deploy", vec![event]).await;
    }
    let rows = harness.store.workflows(&PageRequest::default()).await.unwrap().rows;
    let mut listed: Vec<_> =
        rows.iter().map(|row| (row.id.as_str(), row.name.as_str(), row.version)).collect();
    listed.sort_unstable();
    assert_eq!(listed, [("deploy@1", "deploy", 1), ("deploy@2", "deploy", 2)]);
}

/// Filters are combined, and an empty one matches everything.
pub async fn should_filter_runs(harness: Harness<'_>) {
    for id in ["a", "b", "c"] {
        start(&harness, id).await;
    }
    harness.append_to_run("d", "workflows.other.started", json!({ "version": 1 })).await;
    harness.append_to_run("b", "workflows.deploy.completed", json!({ "result": 1 })).await;
    harness.append_to_run("c", "workflows.deploy.paused", json!({})).await;
    let ended = vec![RunStatus::Completed, RunStatus::Paused];
    let deploy = Some("deploy".to_owned());
    let missing = Some("missing".to_owned());
    for (filter, expected) in [
        (RunFilter::default(), &["a", "b", "c", "d"][..]),
        (RunFilter { workflow: deploy.clone(), ..RunFilter::default() }, &["a", "b", "c"]),
        (RunFilter { statuses: ended.clone(), ..RunFilter::default() }, &["b", "c"]),
        (RunFilter { shards: vec![Shard::of("a")], ..RunFilter::default() }, &["a"]),
        (
            RunFilter { shards: vec![Shard::of("b")], statuses: ended, ..RunFilter::default() },
            &["b"],
        ),
        (RunFilter { id: Some("d".to_owned()), workflow: deploy, ..RunFilter::default() }, &[]),
        (RunFilter { id: missing, ..RunFilter::default() }, &[]),
        (RunFilter { id: Some(String::new()), ..RunFilter::default() }, &[]),
    ] {
        let found = runs(&harness, filter.clone()).await;
        assert_eq!(ids(&found), expected, "{filter:?}");
    }
}

/// Tasks are found by run, type and status; agents by type and status.
pub async fn should_filter_tasks_and_agents(harness: Harness<'_>) {
    for (run, kind, task) in
        [("r1", "backend", "t1"), ("r1", "planner", "t2"), ("r2", "backend", "t3")]
    {
        let data = json!({ "task_id": task, "attempt": 1 });
        harness.append_to_run(run, &format!("agents.{kind}.task_assigned"), data).await;
        let registered = json!({ "agent_id": format!("agent-{task}"), "name": task });
        let event = typed(&format!("agents.{kind}.registered"), &registered);
        harness.append("agents", vec![event]).await;
    }
    harness.append_to_run("r2", "agents.backend.task_completed", json!({ "task_id": "t3" })).await;
    let backend = Some("backend".to_owned());
    let run = Some("r1".to_owned());
    let done = Some(TaskStatus::Completed);
    for (filter, count) in [
        (TaskFilter::default(), 3),
        (TaskFilter { run_id: run.clone(), ..TaskFilter::default() }, 2),
        (TaskFilter { agent_type: backend.clone(), ..TaskFilter::default() }, 2),
        (TaskFilter { id: Some("t1".into()), ..TaskFilter::default() }, 1),
        (TaskFilter { id: Some("t9".into()), ..TaskFilter::default() }, 0),
        (TaskFilter { agent_id: Some("a9".into()), ..TaskFilter::default() }, 0),
        (TaskFilter { status: done, ..TaskFilter::default() }, 1),
        (TaskFilter { run_id: run, status: done, ..TaskFilter::default() }, 0),
    ] {
        assert_eq!(tasks(&harness, filter.clone()).await.len(), count, "{filter:?}");
    }
    let filter = AgentFilter { agent_type: backend, ..AgentFilter::default() };
    let agents = harness.store.agents(&filter, &PageRequest::default()).await.unwrap().rows;
    assert_eq!(agents.len(), 2);
    for (id, found) in [("agent-t1", 1), ("agent-t9", 0)] {
        let filter = AgentFilter { id: Some(id.into()), ..AgentFilter::default() };
        let agents = harness.store.agents(&filter, &PageRequest::default()).await.unwrap().rows;
        assert_eq!(agents.len(), found, "{id}");
    }
    let filter = AgentFilter { status: Some(AgentStatus::Stopped), ..AgentFilter::default() };
    assert!(harness.store.agents(&filter, &PageRequest::default()).await.unwrap().rows.is_empty());
}

/// Pages follow one another without duplicates or gaps, and the last one is marked.
pub async fn should_page_in_the_order_of_keys(harness: Harness<'_>) {
    for number in 0..25 {
        start(&harness, &format!("run-{number}")).await;
    }
    let whole = runs(&harness, RunFilter::default()).await;
    let mut request = Some(PageRequest::first(10));
    let mut paged = Vec::new();
    let mut sizes = Vec::new();
    while let Some(next) = request {
        let page = harness.store.runs(&RunFilter::default(), &next).await.unwrap();
        sizes.push(page.rows.len());
        paged.extend(page.rows);
        request = page.next;
    }
    assert_eq!(sizes, [10, 10, 5]);
    assert_eq!(paged, whole);
    let exact = harness.store.runs(&RunFilter::default(), &PageRequest::first(25)).await.unwrap();
    assert_eq!((exact.rows.len(), exact.next), (25, None));
}

/// An engine finds the changes since its last query.
pub async fn should_find_runs_changed_after_a_position(harness: Harness<'_>) {
    for id in ["a", "b", "c"] {
        start(&harness, id).await;
    }
    harness.append_to_run("a", "workflows.deploy.signaled", json!({})).await;
    for (changed_after, expected) in
        [(0, &["a", "b", "c"][..]), (1, &["a", "b", "c"]), (2, &["a", "c"]), (3, &["a"]), (4, &[])]
    {
        let found = runs(&harness, RunFilter { changed_after, ..RunFilter::default() }).await;
        assert_eq!(ids(&found), expected, "after {changed_after}");
    }
}

/// A deregistered agent is gone from the list, and comes back when it registers again.
pub async fn should_hide_deleted_rows_unless_requested(harness: Harness<'_>) {
    let registered = json!({ "agent_id": "a1", "name": "Ada" });
    let deleted = AgentFilter { include_deleted: true, ..AgentFilter::default() };
    let list = async |filter: &AgentFilter| {
        harness.store.agents(filter, &PageRequest::default()).await.unwrap().rows
    };
    agent(&harness, "registered", registered.clone()).await;
    agent(&harness, "deregistered", json!({ "agent_id": "a1" })).await;
    assert!(list(&AgentFilter::default()).await.is_empty());
    let hidden = list(&deleted).await.remove(0);
    assert_eq!(hidden.status, AgentStatus::Stopped);
    assert_eq!(hidden.deleted_at, Some(hidden.updated_at));
    agent(&harness, "registered", registered).await;
    let back = list(&AgentFilter::default()).await.remove(0);
    assert_eq!((back.deleted_at, back.created_at), (None, hidden.created_at));
}

/// Tables and log change together or not at all.
pub async fn should_change_nothing_for_a_refused_append(harness: Harness<'_>) {
    let started = typed(STARTED, &json!({ "version": 1 }));
    let append = Append::new(stream("runs/r1"), vec![started]).with_expected(Expected::Exact(3));
    assert!(harness.try_append(append).await.is_err());
    let old = events([1]);
    harness.append("elsewhere", old.clone()).await;
    let mut mixed = vec![typed(STARTED, &json!({ "version": 1 }))];
    mixed.extend(old);
    assert!(harness.try_append(Append::new(stream("runs/r1"), mixed)).await.is_err());
    assert!(runs(&harness, RunFilter::default()).await.is_empty());
}

/// The log may contain anything; an event that does not match a table changes nothing.
pub async fn should_ignore_events_that_do_not_match(harness: Harness<'_>) {
    start(&harness, "r1").await;
    let before = run(&harness, "r1").await;
    let long = "x".repeat(256);
    for (event_type, data) in [
        (STARTED, json!("no version")),
        ("workflows.deploy.failed", json!({ "failure": 7, "result": "x" })),
        ("agents.backend.registered", json!({ "agent_id": "", "name": "no id" })),
        ("agents.backend.registered", json!({ "agent_id": long, "name": "too long" })),
        ("agents.backend.seen", json!({ "agent_id": "never registered" })),
        ("agents.backend.task_completed", json!({ "task_id": "never given" })),
    ] {
        harness.append("elsewhere", vec![typed(event_type, &data)]).await;
    }
    harness.append_to_run("r2", "workflows.deploy.completed", json!({ "result": 1 })).await;
    assert_eq!(runs(&harness, RunFilter::default()).await, [before]);
    assert!(tasks(&harness, TaskFilter::default()).await.is_empty());
    let agents = harness.store.agents(&AgentFilter::default(), &PageRequest::default()).await;
    assert!(agents.unwrap().rows.is_empty());
}

/// A page that begins after an impossible row is an error of the caller.
pub async fn should_refuse_a_page_after_an_invalid_id(harness: Harness<'_>) {
    let page = PageRequest { after: Some(String::new()), limit: 10 };
    let error = harness.store.runs(&RunFilter::default(), &page).await.unwrap_err();
    assert_eq!(error.code(), "INVALID_STORE_CONFIGURATION");
}

/// An id has at most 255 bytes, so a longer one refers to nothing, and is left out of the rows. The event is
/// stored. Such an id may be too long for an index of a database.
pub async fn should_leave_out_ids_that_nothing_can_have(harness: Harness<'_>) {
    // Not one repeated character, which a database would compress.
    let long: String = (0_u64..600).map(|it| format!("{:05x}", it * it * 7919 % 999_983)).collect();
    for (run, id, is_kept) in
        [("a", "x".repeat(255), true), ("b", long, false), ("c", String::new(), false)]
    {
        let started = json!({ "version": 1, "first_run_id": id });
        harness.append_to_run(run, "workflows.deploy.started", started.clone()).await;
        let task = json!({ "task_id": format!("{run}/1"), "attempt": 1, "agent_id": id });
        harness.append_to_run(run, "agents.backend.task_assigned", task).await;
        let kept = is_kept.then_some(id);
        let read = harness.stream(&format!("runs/{run}")).await;
        assert_eq!(envelope(&read[0].event)["data"], started, "{run}");
        let page = PageRequest::default();
        let of_run = RunFilter { id: Some(run.to_owned()), ..RunFilter::default() };
        let rows = harness.store.runs(&of_run, &page).await.unwrap().rows;
        assert_eq!((rows.len(), &rows[0].first_run_id), (1, &kept), "{run}");
        let of_run = TaskFilter { run_id: Some(run.to_owned()), ..TaskFilter::default() };
        let rows = harness.store.tasks(&of_run, &page).await.unwrap().rows;
        assert_eq!((rows.len(), &rows[0].agent_id), (1, &kept), "{run}");
    }
}
