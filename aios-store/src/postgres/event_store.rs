//! The port of the event log.
//!
//! Appends go to the writer task, and reads use a connection of the pool each. A read is repeated on
//! another connection if its connection is lost, because reading has no effect. `close` has an order: no
//! further append is accepted, waiting readers end, the writer commits what is queued, the background
//! tasks stop, and the pool is closed last, because the writer needs it.

use aios_core::{
    event::Pattern,
    store::{
        Append, Appended, EventStore, MAX_PAGE, Maintenance, RecordedEvent, StoreError, StreamId,
    },
};
use async_trait::async_trait;
use tokio::task::AbortHandle;

use super::{PostgresStore, read};

#[async_trait]
impl EventStore for PostgresStore {
    async fn append(&self, batch: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        self.append_all(batch).await
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        read::read_stream(&self.0.database, &self.0.head, stream, after, limit).await
    }

    async fn read_streams(
        &self,
        streams: &[StreamId],
        limit: usize,
    ) -> Result<Vec<Vec<RecordedEvent>>, StoreError> {
        read::read_streams(&self.0.database, &self.0.head, streams, limit).await
    }

    async fn read_log(&self, after: u64, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        self.0.head.known()?;
        // A page from memory is complete or not served at all, so no event can be missed here.
        let now = self.0.database.clock().elapsed();
        match self.0.tail.page(after, limit.min(MAX_PAGE), now) {
            Some(page) => Ok(page),
            None => read::read_log(&self.0.database, &self.0.head, after, limit).await,
        }
    }

    async fn read_log_except(
        &self,
        after: u64,
        up_to: u64,
        except: &[Pattern],
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        read::read_log_except(&self.0.database, &self.0.head, after, up_to, except).await
    }

    async fn head(&self) -> Result<u64, StoreError> {
        read::last_event(&self.0.database, &self.0.head).await.map(|last| last.position)
    }

    async fn wait_for(&self, after: u64) -> Result<u64, StoreError> {
        self.0.head.wait_for(after).await
    }

    /// Commits the queued appends and closes the connections, but not those of a pool that was passed in.
    /// Takes hardly longer than the append timeout.
    ///
    /// # Cancel safety
    ///
    /// The first poll closes the store to new appends. If the future is dropped, the writer still commits
    /// the queued appends, but the connections stay open until the store is dropped. Call again to close
    /// them.
    async fn close(&self) -> Result<(), StoreError> {
        *self.0.queue.lock() = None;
        self.0.head.close();
        let writer = self.0.writer.lock().take();
        if let Some(writer) = writer {
            self.join_writer(writer).await;
        }
        self.0.background_tasks.iter().for_each(AbortHandle::abort);
        self.0.tail.clear();
        self.0.database.close().await;
        Ok(())
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        Some(self)
    }
}
