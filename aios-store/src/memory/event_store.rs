//! Reads of the log and of streams.
//!
//! Each read is one critical section and returns clones. Cloning an event is cheap: its payload is
//! shared. `wait_for` does not take the lock: it waits on the watch channel of the head.

use std::{collections::HashMap, ops::Bound};

use aios_core::{
    event::Pattern,
    store::{
        Append, Appended, EventStore, MAX_PAGE, Maintenance, RecordedEvent, StoreError, StreamId,
    },
};
use async_trait::async_trait;

use super::MemoryStore;

#[async_trait]
impl EventStore for MemoryStore {
    async fn append(&self, batch: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        self.append_all(batch)
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let state = self.0.state.lock();
        let positions = state.streams.get(stream).map(|stream| stream.positions.as_slice());
        let positions = positions.unwrap_or_default();
        let page = positions.iter().skip(index(after)).take(limit.min(MAX_PAGE));
        Ok(page.filter_map(|position| state.recorded(*position).cloned()).collect())
    }

    async fn read_log(&self, after: u64, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        let state = self.0.state.lock();
        let page = state.log.range((Bound::Excluded(after), Bound::Unbounded));
        Ok(page.take(limit.min(MAX_PAGE)).map(|(_, recorded)| (**recorded).clone()).collect())
    }

    async fn read_log_except(
        &self,
        after: u64,
        up_to: u64,
        except: &[Pattern],
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        if after >= up_to {
            return Ok(Vec::new());
        }
        let state = self.0.state.lock();
        let range = (Bound::Excluded(after), Bound::Included(up_to));
        let events = state.log.range(range).map(|(_, recorded)| recorded);
        // A log has many events of few types.
        let mut types = HashMap::new();
        let wanted = events.filter(|recorded| {
            let event_type = &recorded.event.event_type;
            let is_wanted = || !except.iter().any(|pattern| pattern.matches(event_type));
            *types.entry(event_type).or_insert_with(is_wanted)
        });
        Ok(wanted.map(|recorded| (**recorded).clone()).collect())
    }

    async fn head(&self) -> Result<u64, StoreError> {
        Ok(self.0.state.lock().head())
    }

    async fn wait_for(&self, after: u64) -> Result<u64, StoreError> {
        let mut head = self.0.head.subscribe();
        let reached = head.wait_for(|head| *head > after).await;
        reached.map(|head| *head).map_err(|_| StoreError::Closed)
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        Some(self)
    }
}

/// Versions count from 1, so the event after version `n` is at index `n`.
fn index(after: u64) -> usize {
    usize::try_from(after).unwrap_or(usize::MAX)
}
