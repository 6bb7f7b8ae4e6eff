use async_trait::async_trait;

use super::StoreError;
use crate::forward::forward;

/// The saved position of a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// Name of the reader.
    pub reader: String,
    /// Everything up to this position is processed.
    pub position: u64,
}

impl Checkpoint {
    /// Creates a checkpoint.
    #[must_use]
    pub fn new(reader: String, position: u64) -> Self {
        Self { reader, position }
    }
}

/// Stores the positions of readers of the log.
///
/// Retention keeps what a reader with a checkpoint has not processed, so the checkpoint of a reader
/// that never continues has to be deleted.
///
/// # Examples
///
/// ```
/// use aios_core::store::{Checkpoint, Store, StoreError};
///
/// /// The reader that retention waits for, if the log has events that it has not processed.
/// async fn slowest(store: &dyn Store) -> Result<Option<Checkpoint>, StoreError> {
///     let head = store.head().await?;
///     let behind = store.checkpoints().await?.into_iter().filter(|it| it.position < head);
///     Ok(behind.min_by_key(|it| it.position))
/// }
/// # let _ = slowest;
/// ```
#[async_trait]
pub trait Checkpoints: Send + Sync + 'static {
    /// The last position that `reader` saved; 0 if it never did.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn load_checkpoint(&self, reader: &str) -> Result<u64, StoreError>;

    /// Records that `reader` has processed everything up to `position`. Never moves back: a
    /// position below the saved one changes nothing.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have saved the position. Repeating it is safe.
    async fn save_checkpoint(&self, reader: &str, position: u64) -> Result<(), StoreError>;

    /// All checkpoints, in the order of the bytes of their readers' names.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError>;

    /// Deletes the checkpoint of `reader`, for which retention no longer keeps anything then, and
    /// returns whether there was one. A reader that saves again has a checkpoint again.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have deleted the checkpoint. Repeating it is safe.
    async fn delete_checkpoint(&self, reader: &str) -> Result<bool, StoreError>;
}

forward!(Checkpoints {
    async load_checkpoint['a](reader: &'a str) -> Result<u64, StoreError>;
    async save_checkpoint['a](reader: &'a str, position: u64) -> Result<(), StoreError>;
    async checkpoints[]() -> Result<Vec<Checkpoint>, StoreError>;
    async delete_checkpoint['a](reader: &'a str) -> Result<bool, StoreError>;
});
