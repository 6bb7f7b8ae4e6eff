use aios_core::event::{Event, EventId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a run draws its UUIDs and random numbers from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seed {
    /// The id of the event that started it, which no other run has.
    Incarnation(String),
    /// Its own id: a run from before events named their run.
    RunId(String),
}

impl Seed {
    /// What the run draws from that an event started.
    pub(crate) fn of(started: &Event, run_id: &str) -> Self {
        match started.metadata.run_id {
            Some(_) => Self::Incarnation(started.id.to_string()),
            None => Self::RunId(run_id.to_owned()),
        }
    }

    /// The UUID with this number.
    pub(crate) fn draw(&self, number: u64) -> Uuid {
        match self {
            Self::Incarnation(id) => EventId::derive(&format!("{id}/draw/{number}")).key(),
            Self::RunId(id) => by_run_id(&format!("{id}/draw/{number}")),
        }
    }
}

/// The key of a foreign id: derived ids once shared their namespace with those.
fn by_run_id(name: &str) -> Uuid {
    name.parse().unwrap_or_else(|_| EventId::derive(name)).key()
}

/// UUIDs and random numbers that a fork draws as another run did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrawnFrom {
    /// What the other run draws from.
    pub seed: Seed,
    /// The operation at which it was forked: what is drawn before it is drawn from `seed`.
    pub before: u64,
}
