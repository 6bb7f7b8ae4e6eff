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
}
