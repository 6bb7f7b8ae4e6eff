//! Checkpoints of readers. A checkpoint never moves back: of two readers with the same name, the
//! slower one does not undo the progress of the other.

use aios_core::store::{Checkpoint, Checkpoints, StoreError};
use async_trait::async_trait;

use super::MemoryStore;

/// The last position. Databases have signed integers.
const LAST: u64 = i64::MAX.cast_unsigned();

#[async_trait]
impl Checkpoints for MemoryStore {
    async fn load_checkpoint(&self, reader: &str) -> Result<u64, StoreError> {
        Ok(self.0.state.lock().checkpoints.get(reader).copied().unwrap_or_default())
    }

    async fn save_checkpoint(&self, reader: &str, position: u64) -> Result<(), StoreError> {
        let mut state = self.0.state.lock();
        let saved = state.checkpoints.entry(reader.to_owned()).or_default();
        *saved = position.min(LAST).max(*saved);
        Ok(())
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        let state = self.0.state.lock();
        let saved = state.checkpoints.iter();
        let mut saved: Vec<_> =
            saved.map(|(reader, position)| Checkpoint::new(reader.clone(), *position)).collect();
        drop(state);
        saved.sort_unstable_by(|one, other| one.reader.cmp(&other.reader));
        Ok(saved)
    }

    async fn delete_checkpoint(&self, reader: &str) -> Result<bool, StoreError> {
        Ok(self.0.state.lock().checkpoints.remove(reader).is_some())
    }
}
