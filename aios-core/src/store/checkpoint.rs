use async_trait::async_trait;

use super::StoreError;

/// Remembers how far readers of the log got.
#[async_trait]
pub trait Checkpoints: Send + Sync + 'static {
    /// The position that `reader` saved last; 0 if it never did.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    async fn load_checkpoint(&self, reader: &str) -> Result<u64, StoreError>;

    /// Saves that `reader` is done with everything up to `position`. Never moves back: a lower
    /// position than the saved one changes nothing.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    async fn save_checkpoint(&self, reader: &str, position: u64) -> Result<(), StoreError>;
}
