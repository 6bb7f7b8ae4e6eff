//! Whether an append is a repetition. A repetition is answered with the first result.
//!
//! A caller that got no answer, because a connection broke or a process was killed, can't know
//! whether its append is stored. It repeats the append with the same event ids. The rule that makes
//! this safe: an append whose events are *all* stored in its stream, one after the other, is a
//! repetition, whatever its expected version and its fence say now. If only a part is stored, or a
//! part is stored elsewhere, the ids were used for something else, and the append is refused with
//! the first stored id.
//!
//! PostgreSQL decides the same in its function `judge`. A later migration replaces an earlier definition;
//! `grep -l 'FUNCTION {schema}.judge(' migrations/postgres/*` lists the files that define it, the current
//! one last.

use aios_core::{
    event::EventId,
    store::{Appended, StreamId},
};

/// Where an existing event is stored.
#[derive(Clone, Debug)]
pub(crate) struct Location {
    /// The stream that has the event, not necessarily the one of the append.
    pub(crate) stream: StreamId,
    pub(crate) version: u64,
    pub(crate) position: u64,
}

/// The result of looking up the ids of an append's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// None of the events is stored.
    New,
    /// All events are stored in this stream with consecutive versions: the append is a repetition.
    Repeated(Appended),
    /// Some of the events are stored, or they are stored elsewhere. This is the first of them.
    Conflicting(EventId),
}

impl Lookup {
    /// Classifies the locations that were found for the append's events, in the order of the events.
    pub(crate) fn of(stream: &StreamId, found: &[(&EventId, Option<Location>)]) -> Self {
        // The id that the error names, if this turns out to be a conflict.
        let Some((stored, _)) = found.iter().find(|(_, location)| location.is_some()) else {
            return Self::New;
        };
        let locations: Option<Vec<&Location>> = found
            .iter()
            .map(|(_, location)| location.as_ref().filter(|at| at.stream == *stream))
            .collect();
        let locations = locations.unwrap_or_default();
        let versions = locations.iter().map(|location| location.version);
        // Consecutive versions in the order of the append. The same events in another order, or
        // with others between them, are not the same append.
        match (locations.first(), locations.last()) {
            (Some(first), Some(last)) if versions.eq(first.version..=last.version) => {
                Self::Repeated(Appended {
                    version: last.version,
                    position: last.position,
                    repeated: true,
                })
            }
            _ => Self::Conflicting((*stored).clone()),
        }
    }
}
