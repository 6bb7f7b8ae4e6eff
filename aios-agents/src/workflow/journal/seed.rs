//! How a run draws its UUIDs and random numbers.

use aios_core::{
    catalog::workflow::Seed,
    event::{Event, EventId},
};
use uuid::Uuid;

/// What the run draws from that an event started.
pub(crate) fn seed_of(started: &Event, run_id: &str) -> Seed {
    match started.metadata.run_id {
        Some(_) => Seed::Incarnation(started.id.to_string()),
        None => Seed::RunId(run_id.to_owned()),
    }
}

/// The UUID with this number.
pub(crate) fn draw(seed: &Seed, number: u64) -> Uuid {
    match seed {
        Seed::Incarnation(id) => EventId::derive(&format!("{id}/draw/{number}")).key(),
        Seed::RunId(id) => by_run_id(&format!("{id}/draw/{number}")),
    }
}

/// The key of a foreign id: derived ids once shared their namespace with those.
fn by_run_id(name: &str) -> Uuid {
    name.parse().unwrap_or_else(|_| EventId::derive(name)).key()
}
