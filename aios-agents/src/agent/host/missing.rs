//! Detects missing agents.
//!
//! Every process with a store looks at the rows of all running agents at each announcement
//! interval, not only at those of its own types: a process that has vanished cannot report itself.
//! All processes that look find the same agents, and publish the same events with the same ids, so
//! the log records each disappearance once.

use std::collections::HashMap;

use aios_core::{
    Chain,
    agent::Name,
    catalog::{
        agent::StatusChanged,
        system::{self, HeartbeatMissed},
    },
    event::{EventError, EventId, EventType, Timestamp},
    store::{AgentFilter, AgentRecord, AgentStatus, Page, PageRequest, ReadModels},
};

use super::{Shared, announcement::Announcement};
use crate::agent::{AgentError, names::AgentEventTypes};

/// How many missed announcements make an agent missing.
const MISSED: u32 = 3;

/// How many agents are read per page.
const PAGE: usize = 500;

/// Agents that seemed to be missing at the last check, with the time when they were last seen.
pub(super) type Suspects = HashMap<String, Option<Timestamp>>;

/// Announces every running agent as missing that was not seen for three intervals, and still not
/// one interval later. The second check is needed because a rebuilt table lacks the announcements
/// outside the log.
pub(super) async fn report_missing<S: ReadModels + ?Sized>(
    shared: &Shared,
    store: &S,
    suspects: &mut Suspects,
) {
    match missing(shared, store, suspects).await {
        Ok(missing) => announce_missing(shared, missing).await,
        Err(error) => {
            tracing::warn!(
                code = error.code(),
                error = %Chain(&error),
                "failed to look for missing agents"
            );
        }
    }
}

/// Announces that agents were missed, and only then changes their status: an agent whose status is
/// `missing` is not looked at again.
async fn announce_missing(shared: &Shared, missing: Vec<[Announcement; 2]>) {
    if missing.is_empty() {
        return;
    }
    let (missed, changed): (Vec<_>, Vec<_>) =
        missing.into_iter().map(|[missed, changed]| (missed, changed)).unzip();
    match shared.announce(missed).await {
        Ok(()) => shared.announce_or_warn(changed).await,
        Err(error) => shared.on_announce_failure(&error),
    }
}

/// Reads all running agents in pages. Returns the events of those that were suspected with the same
/// time before, and replaces the suspects with those of this check.
async fn missing<S: ReadModels + ?Sized>(
    shared: &Shared,
    store: &S,
    suspects: &mut Suspects,
) -> Result<Vec<[Announcement; 2]>, AgentError> {
    let filter = AgentFilter { status: Some(AgentStatus::Running), ..AgentFilter::default() };
    let oldest = shared.clock.now() - shared.options.announce_interval * MISSED;
    let mut request = Some(PageRequest::first(PAGE));
    let mut announcements = Vec::new();
    // If a page fails, the suspects so far are kept, and the others are suspected again one
    // interval later.
    let before = std::mem::take(suspects);
    while let Some(page) = request {
        let Page { rows, next, unreadable } = store.agents(&filter, &page).await?;
        let gone = rows.iter().filter(|row| row.last_seen_at.is_none_or(|seen| seen < oldest));
        for row in gone {
            // The same time as one interval ago: it was not seen since.
            if before.get(&row.id) == Some(&row.last_seen_at) {
                announcements.push(announce(shared, row)?);
            }
            suspects.insert(row.id.clone(), row.last_seen_at);
        }
        for row in unreadable {
            tracing::warn!(
                agent_id = row.id,
                column = row.column,
                "failed to read the row of an agent"
            );
        }
        request = next;
    }
    Ok(announcements)
}

/// Builds both events of a missing agent. Their ids derive from the agent and the time when it was
/// last seen, so that all processes that detect it publish the same events.
fn announce(shared: &Shared, row: &AgentRecord) -> Result<[Announcement; 2], AgentError> {
    let id = row.id.as_str();
    let names = AgentEventTypes::new(&Name::new(&row.agent_type)?)?;
    let missed = HeartbeatMissed::new(row.id.clone(), row.agent_type.clone(), row.last_seen_at);
    let changed = StatusChanged::new(row.id.clone(), AgentStatus::Missing);
    Ok([
        derived(shared.announcement(id, &heartbeat_missed()?, &missed)?, row),
        derived(shared.announcement(id, &names.status_changed, &changed)?, row),
    ])
}

/// Gives an event the id that every process derives for it.
fn derived(mut announcement: Announcement, row: &AgentRecord) -> Announcement {
    let event = &mut announcement.event;
    let seen = row.last_seen_at.map_or(0, Timestamp::as_micros);
    event.id = EventId::derive(&format!("{}/{}/{seen}", event.event_type, row.id));
    announcement
}

/// The type of the system event about a missing agent.
fn heartbeat_missed() -> Result<EventType, EventError> {
    EventType::new(system::DOMAIN, "agent", system::HEARTBEAT_MISSED)
}
