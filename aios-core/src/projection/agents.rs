//! Changes of the rows of agents.

use super::{Cell, Change, Effect, Table};
use crate::{
    catalog::agent::Registered,
    event::{Event, Timestamp},
    store::AgentStatus,
};

pub(super) fn agent_change(id: String, at: Timestamp, cells: Vec<(&'static str, Cell)>) -> Change {
    // What a process reports late does not bring a deleted agent back.
    let only = vec![("deleted_at", Cell::Null)];
    Change { table: Table::Agents, id, at, effect: Effect::Update, only, cells }
}

pub(super) fn agent_registered(agent_type: &str, event: &Event) -> Option<Change> {
    let registered: Registered = event.payload.decode().ok()?;
    Some(Change {
        table: Table::Agents,
        id: registered.agent_id,
        at: event.timestamp,
        effect: Effect::Upsert,
        only: Vec::new(),
        cells: vec![
            ("agent_type", Cell::text(agent_type)),
            ("name", Cell::Text(registered.name)),
            ("config", Cell::Json(registered.config)),
            ("status", Cell::text(AgentStatus::Running.as_str())),
            ("last_seen_at", Cell::Timestamp(event.timestamp)),
            ("deleted_at", Cell::Null),
        ],
    })
}

/// An agent that some process must host.
pub(super) fn agent_desired(agent_type: &str, event: &Event) -> Option<Change> {
    let mut change = agent_registered(agent_type, event)?;
    for (name, cell) in &mut change.cells {
        match *name {
            "status" => *cell = Cell::text(AgentStatus::Waiting.as_str()),
            "last_seen_at" => *cell = Cell::Null,
            _ => {}
        }
    }
    Some(change)
}
