use aios_core::catalog::system::{DeadLetterPosition, PROJECTION_REDRIVE_REQUESTED};
use aios_core::store::{Append, Checkpoints, EventStore, StreamId};

use super::{
    ProjectionDeadLetter,
    letters::{note, open, stream_of},
};
use crate::{runtime::RuntimeError, workflow::journal::Journals};

/// A projection, wherever it runs. Dropping it does nothing to the projection.
#[derive(Clone, Debug)]
pub struct ProjectionHandle {
    journals: Journals,
    name: String,
    stream: StreamId,
}

impl ProjectionHandle {
    pub(crate) fn new(journals: Journals, name: &str) -> Result<Self, RuntimeError> {
        Ok(Self { journals, name: name.to_owned(), stream: stream_of(name)? })
    }

    /// Name of the projection.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Up to where the log is done, as the runtime's store knows it.
    ///
    /// # Errors
    ///
    /// What the store reports.
    pub async fn position(&self) -> Result<u64, RuntimeError> {
        Ok(self.journals.store.load_checkpoint(self.stream.as_str()).await?)
    }

    /// By how many positions the projection is behind the log.
    ///
    /// # Errors
    ///
    /// What the store reports.
    pub async fn lag(&self) -> Result<u64, RuntimeError> {
        let position = self.position().await?;
        Ok(self.journals.store.head().await?.saturating_sub(position))
    }

    /// Events that were skipped and not redriven, with positions above `after`, at most `limit`.
    ///
    /// # Errors
    ///
    /// What the store reports.
    pub async fn dead_letters(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<Vec<ProjectionDeadLetter>, RuntimeError> {
        let open = open(&*self.journals.store, &self.stream).await?;
        Ok(open.into_values().filter(|it| it.position > after).take(limit).collect())
    }

    /// Asks the projection to apply a dead letter again, wherever it runs. If that fails as well, it
    /// remains a dead letter.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::UnknownDeadLetter`] if the event at that position is no dead letter; what the
    /// store reports.
    pub async fn redrive(&self, position: u64) -> Result<(), RuntimeError> {
        let Journals { store, clock, source, .. } = &self.journals;
        if !open(&**store, &self.stream).await?.contains_key(&position) {
            let projection = self.name.clone();
            return Err(RuntimeError::UnknownDeadLetter { projection, position });
        }
        let event =
            note(PROJECTION_REDRIVE_REQUESTED, source, &**clock, &DeadLetterPosition { position })?;
        store.append_one(Append::new(self.stream.clone(), vec![event])).await?;
        Ok(())
    }
}
