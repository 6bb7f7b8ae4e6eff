//! Reading the progress and the dead letters of a projection, and requesting redrives, from any
//! process with the store.

use aios_core::catalog::system::{DeadLetterPosition, PROJECTION_REDRIVE_REQUESTED};
use aios_core::event::EventId;
use aios_core::store::{Append, Checkpoints, EventStore, Leases, OwnerId, StreamId};

use super::{
    DEFAULT_LEASE_TIME, ProjectionDeadLetter,
    lease::lease_of,
    letters::{note, open, stream_of},
};
use crate::{runtime::RuntimeError, workflow::journal::Journals};

/// A handle for a projection, no matter which process runs it. Dropping it does not affect the
/// projection.
///
/// # Examples
///
/// After the code of a projection was corrected, its dead letters are applied again:
///
/// ```
/// use aios_agents::{RuntimeError, prelude::*};
///
/// async fn redrive_all(runtime: &Runtime) -> Result<usize, RuntimeError> {
///     let orders = runtime.projection_handle("orders")?;
///     let letters = orders.dead_letters(0, 100).await?;
///     for letter in &letters {
///         orders.redrive(letter.position).await?;
///     }
///     Ok(letters.len())
/// }
/// # let _ = redrive_all;
/// ```
#[derive(Clone, Debug)]
pub struct ProjectionHandle {
    journals: Journals,
    /// Part of the name of its stream.
    name: String,
    /// Has the dead letters, and is the key of the saved position.
    stream: StreamId,
}

impl ProjectionHandle {
    /// Fails if the name can't be part of a stream's id.
    pub(crate) fn new(journals: Journals, name: &str) -> Result<Self, RuntimeError> {
        Ok(Self { journals, name: name.to_owned(), stream: stream_of(name)? })
    }

    /// Name of the projection.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The position of the projection that is saved in the runtime's store.
    ///
    /// # Errors
    ///
    /// Errors of the store.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn position(&self) -> Result<u64, RuntimeError> {
        Ok(self.journals.store.load_checkpoint(self.stream.as_str()).await?)
    }

    /// How many positions the projection is behind the log.
    ///
    /// # Errors
    ///
    /// Errors of the store.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn lag(&self) -> Result<u64, RuntimeError> {
        let position = self.position().await?;
        Ok(self.journals.store.head().await?.saturating_sub(position))
    }

    /// Dead letters with positions above `after` that were not redriven, at most `limit`.
    ///
    /// # Errors
    ///
    /// Errors of the store.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn dead_letters(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<Vec<ProjectionDeadLetter>, RuntimeError> {
        let open = open(&*self.journals.store, &self.stream).await?;
        Ok(open.into_values().filter(|it| it.position > after).take(limit).collect())
    }

    /// Deletes the saved position of a projection that is no longer needed, and returns whether there
    /// was one. Retention keeps what a projection with a position has not applied, even if no process
    /// runs the projection. If the projection is started again, it begins like one that
    /// never ran.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::InvalidConfiguration`] if a process runs the projection, or died less than a
    /// lease time ago while it did; errors of the store. A process that waits to try again after an error
    /// is not noticed and would run the projection from the start, so stop all of them first.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have deleted the position. Repeating it is safe; until the lease
    /// expires, after the [default lease time](DEFAULT_LEASE_TIME), a repeated call may report that the
    /// projection is running.
    pub async fn retire(&self) -> Result<bool, RuntimeError> {
        let store = &self.journals.store;
        let saved = store.checkpoints().await?;
        if !saved.iter().any(|checkpoint| checkpoint.reader == self.stream.as_str()) {
            return Ok(false);
        }
        // No process starts to run the projection while this holds its lease.
        let lease = lease_of(&self.journals, &self.name).await?;
        let owner = OwnerId::new(EventId::generate().to_string());
        let leases = store.acquire(&[lease], &owner, DEFAULT_LEASE_TIME).await?;
        if leases.is_empty() {
            let name = &self.name;
            let reason = format!(
                "a process runs the projection {name}, which can't be retired until it has stopped"
            );
            return Err(RuntimeError::InvalidConfiguration { reason });
        }
        let deleted = store.delete_checkpoint(self.stream.as_str()).await;
        store.release(&leases).await?;
        Ok(deleted?)
    }

    /// Requests that the projection applies a dead letter again, no matter which process runs it.
    /// If that fails, the event remains a dead letter.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::UnknownDeadLetter`] if the event at that position is not a dead letter;
    /// errors of the store.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have recorded the request.
    pub async fn redrive(&self, position: u64) -> Result<(), RuntimeError> {
        let Journals { store, clock, source, .. } = &self.journals;
        if !open(&**store, &self.stream).await?.contains_key(&position) {
            let projection = self.name.clone();
            return Err(RuntimeError::UnknownDeadLetter { projection, position });
        }
        let event = note(
            PROJECTION_REDRIVE_REQUESTED,
            source,
            &**clock,
            &DeadLetterPosition::new(position),
        )?;
        store.append_one(Append::new(self.stream.clone(), vec![event])).await?;
        Ok(())
    }
}
