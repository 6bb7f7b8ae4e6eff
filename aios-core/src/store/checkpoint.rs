use async_trait::async_trait;

use super::StoreError;
use crate::forward::forward;

/// Stores the positions of readers of the log.
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
}

forward!(Checkpoints {
    async load_checkpoint['a](reader: &'a str) -> Result<u64, StoreError>;
    async save_checkpoint['a](reader: &'a str, position: u64) -> Result<(), StoreError>;
});
