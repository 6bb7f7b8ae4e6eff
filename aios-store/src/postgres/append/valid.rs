//! An append that passed the checks that do not need the log.

use aios_core::store::{Append, StoreError};

use crate::validation::validate_append;

/// A validated append, with the encoded metadata of its events.
#[derive(Clone, Debug)]
pub(crate) struct ValidAppend {
    pub(crate) append: Append,
    /// One element per event; `None` for the default metadata of the stream.
    pub(crate) metadata: Vec<Option<String>>,
}

impl ValidAppend {
    /// Validates an append whose events have at most `limit` bytes each.
    ///
    /// # Errors
    ///
    /// The same as [`validate_append`].
    pub(crate) fn new(append: Append, limit: usize) -> Result<Self, StoreError> {
        let metadata = validate_append(&append, limit)?;
        Ok(Self { append, metadata })
    }

    /// The bytes of each event's payload and metadata, as they are written.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = usize> {
        self.append.events.iter().zip(&self.metadata).map(|(event, metadata)| {
            event.payload.as_str().len() + metadata.as_ref().map_or(0, String::len)
        })
    }
}
