//! Maps events to changes of the read models, in one pure function that every store uses.
//!
//! A store calls [`project`] for every event in the transaction that appends it, and applies the
//! [`Change`]s: a row is created or updated by setting cells. Reading is the reverse: a filter
//! becomes [`Predicate`]s, and a row of cells becomes a record.

mod agents;
mod condition;
mod payloads;
mod record;
mod table;

use self::{
    agents::{agent_change, agent_desired, agent_registered},
    payloads::{
        Assigned, Blocked, Ended, OperationFailed, Started, StatusSet, TaskOutcome, Unblocked,
    },
};
pub use self::{
    condition::{Order, Predicate, Query, Start},
    record::{Record, Row, created},
    table::{Cell, Column, Kind, Table},
};
use crate::{
    agent::TaskId,
    catalog::{
        self,
        agent::{self, Deregistered, RestartRequested, Seen, StatusChanged},
        workflow,
    },
    event::{Event, EventId, Timestamp},
    store::{AgentStatus, RecordedEvent, RunStatus, Shard, TaskStatus},
};

/// A row to create or change.
///
/// A row whose status is one of its table's [`final_statuses`](Table::final_statuses) is never
/// changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The table.
    pub table: Table,
    /// Id of the row; its key is [`EventId::key`](crate::event::EventId::key) of this text.
    pub id: String,
    /// Becomes `updated_at`, and `created_at` of a new row.
    pub at: Timestamp,
    /// Whether it creates the row, changes it, or both.
    pub effect: Effect,
    /// The predicate that an existing row must match to be changed. [`Cell::Null`] stands for a column
    /// without a value, also for `deleted_at`.
    pub only: Vec<(&'static str, Cell)>,
    /// The columns to set; others keep their values.
    pub cells: Vec<(&'static str, Cell)>,
}

/// The effect of a [`Change`], depending on whether its row exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Creates the row. An existing row is not changed.
    Create,
    /// Changes the row. A missing row is not an error.
    Update,
    /// Creates the row or changes it.
    Upsert,
}

impl Effect {
    /// Whether it creates a missing row.
    #[must_use]
    pub fn creates(self) -> bool {
        self != Self::Update
    }

    /// Whether it changes an existing row.
    #[must_use]
    pub fn updates(self) -> bool {
        self != Self::Create
    }
}

/// Returns the changes of the read models for an event. Events with unexpected data change nothing,
/// because other programs may have written them.
#[must_use]
pub fn project(recorded: &RecordedEvent) -> Vec<Change> {
    let event = &recorded.event;
    if !catalog::is_projected(&event.event_type) {
        return Vec::new();
    }
    let change = match event.event_type.segments() {
        (workflow::DOMAIN, name, workflow::REGISTERED) => workflow_registered(name, event),
        (workflow::DOMAIN, _, workflow::OPERATION_FAILED) => task_given_up(recorded),
        (workflow::DOMAIN, name, action) => return run(name, action, recorded).unwrap_or_default(),
        (agent::DOMAIN, agent_type, action) => agent_event(agent_type, action, recorded),
        _ => None,
    };
    change.into_iter().collect()
}

/// Returns the change of a run for an event of its own workflow. Every event advances the position
/// of the run. The status changes if the event is a valid transition from it.
fn run(name: &str, action: &str, recorded: &RecordedEvent) -> Option<Vec<Change>> {
    let run_id = recorded.stream.run_id()?;
    let event = &recorded.event;
    let mut transition = None;
    let mut cells = match action {
        workflow::STARTED => started(name, run_id, event)?,
        workflow::PAUSED => {
            transition = Some((RunStatus::Running, RunStatus::Paused));
            Vec::new()
        }
        workflow::RESUMED => {
            transition = Some((RunStatus::Paused, RunStatus::Running));
            Vec::new()
        }
        workflow::UNBLOCKED => {
            let Unblocked { cancelling } = event.payload.decode().unwrap_or_default();
            let next = if cancelling { RunStatus::Cancelling } else { RunStatus::Running };
            transition = Some((RunStatus::Blocked, next));
            vec![("failure", Cell::Null)]
        }
        workflow::CANCEL_REQUESTED => vec![status(RunStatus::Cancelling)],
        workflow::BLOCKED => {
            let failure = event.payload.decode::<Blocked>().ok()?.failure;
            vec![status(RunStatus::Blocked), ("failure", Cell::Json(failure))]
        }
        workflow::COMPLETED => ended(RunStatus::Completed, event)?,
        workflow::FAILED => ended(RunStatus::Failed, event)?,
        workflow::CANCELLED => ended(RunStatus::Cancelled, event)?,
        workflow::CONTINUED => vec![status(RunStatus::Continued)],
        workflow::SIGNALED => Vec::new(),
        workflow::STATUS_SET => {
            let set: StatusSet = event.payload.decode().ok()?;
            let progress = set.progress.map_or(Cell::Null, Cell::Json);
            vec![("status_text", Cell::Text(set.text)), ("progress", progress)]
        }
        _ => return None,
    };
    cells.push(("position", Cell::integer(recorded.position)));
    let (effect, only) = match action {
        workflow::STARTED => (Effect::Create, Vec::new()),
        _ => (Effect::Update, vec![("workflow", Cell::text(name))]),
    };
    let id = run_id.to_owned();
    let change =
        Change { table: Table::WorkflowRuns, id, at: event.timestamp, effect, only, cells };
    let moved = transition.map(|(from, to)| moved(&change, from, to));
    Some(std::iter::once(change).chain(moved).collect())
}

/// A transition from one status to another, after an event has changed the row.
fn moved(change: &Change, from: RunStatus, to: RunStatus) -> Change {
    let mut only = change.only.clone();
    only.push(status(from));
    Change { only, cells: vec![status(to)], id: change.id.clone(), ..*change }
}

fn status(status: RunStatus) -> (&'static str, Cell) {
    ("status", Cell::text(status.as_str()))
}

fn started(name: &str, run_id: &str, event: &Event) -> Option<Vec<(&'static str, Cell)>> {
    let started: Started = event.payload.decode().ok()?;
    Some(vec![
        ("workflow", Cell::text(name)),
        ("workflow_version", Cell::integer(started.version)),
        ("shard", Cell::integer(Shard::of(run_id).number())),
        status(RunStatus::Running),
        ("parent_run_id", Cell::optional_text(started.parent.map(|parent| parent.run_id))),
        ("first_run_id", reference(started.first_run_id)),
    ])
}

/// The id of another row. NULL if nothing can have it, for example because it is longer than 255 bytes.
fn reference(id: Option<String>) -> Cell {
    Cell::optional_text(id.filter(|id| id.parse::<EventId>().is_ok()))
}

fn ended(end: RunStatus, event: &Event) -> Option<Vec<(&'static str, Cell)>> {
    let ended: Ended = event.payload.decode().ok()?;
    let mut cells = vec![status(end)];
    cells.extend(ended.result.map(|result| ("result", Cell::Json(result))));
    cells.extend(ended.failure.map(|failure| ("failure", Cell::Json(failure))));
    Some(cells)
}

fn workflow_registered(name: &str, event: &Event) -> Option<Change> {
    let registered: workflow::Registered = event.payload.decode().ok()?;
    Some(Change {
        table: Table::Workflows,
        id: format!("{name}@{}", registered.version),
        at: event.timestamp,
        effect: Effect::Upsert,
        only: Vec::new(),
        cells: vec![
            ("name", Cell::text(name)),
            ("version", Cell::integer(registered.version)),
            ("deleted_at", Cell::Null),
        ],
    })
}

fn agent_event(agent_type: &str, action: &str, recorded: &RecordedEvent) -> Option<Change> {
    let event = &recorded.event;
    match action {
        agent::TASK_ASSIGNED | agent::TASK_DIRECTED => task_assigned(agent_type, recorded),
        agent::TASK_COMPLETED => task_ended(TaskStatus::Completed, event),
        agent::TASK_FAILED => task_ended(TaskStatus::Failed, event),
        agent::TASK_CANCELLED => task_ended(TaskStatus::Cancelled, event),
        agent::TASK_UNCLAIMED | agent::TASK_CLAIMED => task_claimed(recorded),
        agent::REGISTERED => agent_registered(agent_type, event),
        agent::CREATED | agent::REPLACED => agent_desired(agent_type, event),
        agent::RESTART_REQUESTED => {
            let restarted: RestartRequested = event.payload.decode().ok()?;
            let cells = vec![("status", Cell::text(AgentStatus::Waiting.as_str()))];
            Some(agent_change(restarted.agent_id, event.timestamp, cells))
        }
        agent::STATUS_CHANGED => {
            let changed: StatusChanged = event.payload.decode().ok()?;
            let cells = vec![("status", Cell::text(changed.status.as_str()))];
            Some(agent_change(changed.agent_id, event.timestamp, cells))
        }
        agent::SEEN => {
            let seen: Seen = event.payload.decode().ok()?;
            let cells = vec![
                ("status", Cell::text(AgentStatus::Running.as_str())),
                ("last_seen_at", Cell::Timestamp(event.timestamp)),
            ];
            Some(agent_change(seen.agent_id, event.timestamp, cells))
        }
        agent::DEREGISTERED | agent::DELETED => {
            let gone: Deregistered = event.payload.decode().ok()?;
            let cells = vec![
                ("status", Cell::text(AgentStatus::Stopped.as_str())),
                ("deleted_at", Cell::Timestamp(event.timestamp)),
            ];
            Some(agent_change(gone.agent_id, event.timestamp, cells))
        }
        _ => None,
    }
}

fn task_assigned(agent_type: &str, recorded: &RecordedEvent) -> Option<Change> {
    let assigned: Assigned = recorded.event.payload.decode().ok()?;
    let run_id = recorded.stream.run_id().map(ToOwned::to_owned);
    Some(Change {
        table: Table::AgentTasks,
        id: assigned.task_id,
        at: recorded.event.timestamp,
        effect: Effect::Upsert,
        only: Vec::new(),
        cells: vec![
            ("run_id", Cell::optional_text(run_id)),
            ("agent_type", Cell::text(agent_type)),
            ("agent_id", reference(assigned.agent_id)),
            ("status", Cell::text(TaskStatus::Assigned.as_str())),
            ("attempt", Cell::integer(assigned.attempt)),
        ],
    })
}

fn task_ended(end: TaskStatus, event: &Event) -> Option<Change> {
    let outcome: TaskOutcome = event.payload.decode().ok()?;
    Some(Change {
        table: Table::AgentTasks,
        id: outcome.task_id,
        at: event.timestamp,
        effect: Effect::Update,
        only: Vec::new(),
        cells: vec![
            ("status", Cell::text(end.as_str())),
            ("failure", outcome.failure.map_or(Cell::Null, Cell::Json)),
        ],
    })
}

/// An assigned task shows a failure while no agent has begun it.
fn task_claimed(recorded: &RecordedEvent) -> Option<Change> {
    let run_id = recorded.stream.run_id()?;
    let unclaimed: TaskOutcome = recorded.event.payload.decode().ok()?;
    Some(Change {
        table: Table::AgentTasks,
        id: unclaimed.task_id,
        at: recorded.event.timestamp,
        effect: Effect::Update,
        only: vec![
            ("run_id", Cell::text(run_id)),
            ("status", Cell::text(TaskStatus::Assigned.as_str())),
        ],
        cells: vec![("failure", unclaimed.failure.map_or(Cell::Null, Cell::Json))],
    })
}

/// A task without an answer of its agent fails with its operation. Steps have a name but no row;
/// children have neither.
fn task_given_up(recorded: &RecordedEvent) -> Option<Change> {
    let run_id = recorded.stream.run_id()?;
    let failed: OperationFailed = recorded.event.payload.decode().ok()?;
    if failed.name.is_some() {
        return None;
    }
    let task_id = TaskId::of_run(run_id, failed.operation);
    Some(Change {
        table: Table::AgentTasks,
        id: task_id.as_str().to_owned(),
        at: recorded.event.timestamp,
        effect: Effect::Update,
        only: vec![("run_id", Cell::text(run_id))],
        cells: vec![
            ("status", Cell::text(TaskStatus::Failed.as_str())),
            ("failure", Cell::Json(failed.failure)),
        ],
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn recorded(event_type: &str, stream: &str, data: &Value) -> RecordedEvent {
        let event = Event::new(event_type.parse().unwrap(), "test", data).unwrap();
        RecordedEvent { position: 7, stream: stream.parse().unwrap(), version: 1, event }
    }

    #[test]
    fn should_create_a_run_where_it_starts() {
        let changes =
            project(&recorded("workflows.deploy.started", "runs/r1", &json!({"version": 2})));
        assert_eq!((changes.len(), changes[0].table), (1, Table::WorkflowRuns));
        assert!(changes[0].effect == Effect::Create && changes[0].id == "r1");
        assert!(changes[0].cells.contains(&("workflow_version", Cell::Integer(2))));
        assert!(changes[0].cells.contains(&("position", Cell::Integer(7))));
    }

    #[test]
    fn should_ignore_steps_and_strangers() {
        for (event_type, stream, data) in [
            ("workflows.deploy.step_completed", "runs/r1", json!({"operation": 1})),
            ("workflows.deploy.started", "elsewhere", json!({"version": 1})),
            ("workflows.deploy.started", "runs/r1", json!("nonsense")),
            ("orders.order.placed", "orders/1", json!({})),
            ("agents.backend.task_assigned", "runs/r1", json!({"task": 1})),
        ] {
            assert_eq!(project(&recorded(event_type, stream, &data)), []);
        }
    }

    #[test]
    fn should_only_name_columns_that_exist() {
        let failure = json!({"code": "X", "message": "y"});
        for (event_type, data) in [
            ("workflows.w.registered", json!({"version": 1})),
            (
                "workflows.w.started",
                json!({"version": 1, "parent": {"run_id": "p", "operation": 1}}),
            ),
            ("workflows.w.completed", json!({"result": [1]})),
            ("workflows.w.failed", json!({"failure": failure})),
            ("workflows.w.status_set", json!({"operation": 1, "text": "half", "progress": 0.5})),
            ("workflows.w.blocked", json!({"failure": failure})),
            ("agents.a.registered", json!({"agent_id": "a1", "name": "n", "config": {}})),
            ("agents.a.seen", json!({"agent_id": "a1"})),
            ("agents.a.status_changed", json!({"agent_id": "a1", "status": "missing"})),
            ("agents.a.deregistered", json!({"agent_id": "a1"})),
            ("agents.a.task_assigned", json!({"task_id": "r1/1", "attempt": 1, "parameters": []})),
            ("workflows.w.operation_failed", json!({"operation": 1, "failure": failure})),
            (
                "agents.a.task_failed",
                json!({"task_id": "r1/1", "attempt": 1, "retryable": true, "failure": failure}),
            ),
        ] {
            let changes = project(&recorded(event_type, "runs/r1", &data));
            assert_eq!(changes.len(), 1, "{event_type}");
            for (name, cell) in changes[0].cells.iter().chain(&changes[0].only) {
                let column = changes[0].table.column(name).unwrap();
                assert!(cell.fits(column.kind), "{event_type} {name}");
            }
        }
    }
}
