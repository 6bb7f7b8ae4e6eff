//! The seed from which a run derives its UUIDs and random numbers.

use aios_core::{
    catalog::workflow::Seed,
    event::{Event, EventId},
};
use uuid::Uuid;

/// The seed of the run that an event started.
///
/// Events of earlier versions do not name their run. Runs that were started then have drawn from their
/// id, and continue to.
pub(crate) fn seed_of(started: &Event, run_id: &str) -> Seed {
    match started.metadata.run_id {
        Some(_) => Seed::Incarnation(started.id.to_string()),
        None => Seed::RunId(run_id.to_owned()),
    }
}

/// The UUID with this number in the sequence of a seed.
pub(crate) fn uuid_at(seed: &Seed, number: u64) -> Uuid {
    match seed {
        Seed::Incarnation(id) => EventId::derive(&format!("{id}/draw/{number}")).key(),
        Seed::RunId(id) => by_run_id(&format!("{id}/draw/{number}")),
    }
}

/// The key of an id by the rules of earlier versions, in which derived ids shared the namespace of
/// foreign ids.
fn by_run_id(name: &str) -> Uuid {
    name.parse().unwrap_or_else(|_| EventId::derive(name)).key()
}
