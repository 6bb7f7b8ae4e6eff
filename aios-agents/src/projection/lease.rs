//! The lease under which one process at a time runs a projection.
//!
//! The name is registered as an event with an id that derives from it, in a stream of all names.
//! The version of that event in the stream is the number of the lease. A repeated registration is
//! recognised by the store and returns the same version, so every process finds the same number.

use aios_core::{
    catalog::system::{self, ProjectionRegistered},
    event::EventId,
    store::{Append, Shard, StreamId},
};

use super::letters::note;
use crate::{runtime::RuntimeError, workflow::journal::Journals};

/// The lease of a projection. Its number is the place of the projection among all registered names,
/// so it is unique.
pub(super) async fn lease_of(journals: &Journals, name: &str) -> Result<Shard, RuntimeError> {
    let Journals { store, clock, source, .. } = journals;
    let id = EventId::derive(&format!("projections/{name}/registered"));
    let data = ProjectionRegistered::new(name.to_owned());
    let event = note(system::PROJECTION_REGISTERED, source, &**clock, &data)?.with_id(id);
    let append = Append::new(StreamId::new("system/projections")?, vec![event]);
    let place = store.append_one(append).await?.version;
    Shard::projection(place).ok_or_else(|| RuntimeError::InvalidConfiguration {
        reason: format!("too many projections to add {name}"),
    })
}
