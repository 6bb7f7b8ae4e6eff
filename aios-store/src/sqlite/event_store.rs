//! The port of the event log.
//!
//! | call | runs on |
//! |---|---|
//! | `append` | the writer; a call is one job, and the jobs that are queued share a transaction |
//! | `read_…` | a connection of the read pool, on a blocking thread of tokio |
//! | `head`, `wait_for` | the watch channel of the head, without a query |
//! | `close` | the writer, which commits what is queued, closes the file and drops the head's sender |
//!
//! The writer publishes the head after the commit, so a reader that was woken by it finds the events. A
//! dropped sender is how every waiting task learns that the store is closed.

use aios_core::{
    event::Pattern,
    store::{
        Append, Appended, EventStore, MAX_PAGE, Maintenance, RecordedEvent, StoreError, StreamId,
    },
};
use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{
    SqliteStore,
    lease::CLOSED,
    read::{LOG_PAGE, LOG_RANGE, STREAM_PAGE, matching_types, stored_events},
    writer::AppendJob,
};
use crate::rows::{Previous, StoredEvent};

#[async_trait]
impl EventStore for SqliteStore {
    async fn append(&self, batch: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        let length = batch.len();
        let (reply, replied) = oneshot::channel();
        let job = AppendJob::new(batch, self.max_event_bytes(), reply);
        let _caller = match self.writer().send(Box::new(job)).await {
            Ok(caller) => caller,
            Err(error) => return vec![Err(error); length],
        };
        match replied.await {
            Ok(reply) => reply.answers,
            Err(_) => vec![Err(StoreError::Closed); length],
        }
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let parameters = (stream.as_str().to_owned(), signed(after), page_limit(limit));
        let read = move |connection: &Connection| {
            let (name, after, limit) = &parameters;
            stored_events(connection, STREAM_PAGE, (name, after, limit))
        };
        self.recorded(self.read("read a stream", read).await?)
    }

    async fn read_streams(
        &self,
        streams: &[StreamId],
        limit: usize,
    ) -> Result<Vec<Vec<RecordedEvent>>, StoreError> {
        let parameters = (streams.to_vec(), page_limit(limit));
        let read = move |connection: &Connection| {
            let (streams, limit) = &parameters;
            let read =
                |name: &StreamId| stored_events(connection, STREAM_PAGE, (name.as_str(), 0, limit));
            streams.iter().map(read).collect::<rusqlite::Result<Vec<_>>>()
        };
        let found = self.read("read streams", read).await?;
        found.into_iter().map(|events| self.recorded(events)).collect()
    }

    async fn read_log(&self, after: u64, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        let parameters = (signed(after), page_limit(limit));
        let read = move |connection: &Connection| stored_events(connection, LOG_PAGE, parameters);
        self.recorded(self.read("read the log", read).await?)
    }

    async fn read_log_except(
        &self,
        after: u64,
        up_to: u64,
        except: &[Pattern],
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        // The excluded types are looked up before the events are read. An event that is committed in
        // between could have a new type that matches a pattern, so the range ends at the current head.
        let up_to = signed(up_to.min(*self.head_watch().borrow()));
        let after = signed(after);
        let except = except.to_vec();
        let read = move |connection: &Connection| {
            let excluded = matching_types(connection, &except)?;
            stored_events(connection, LOG_RANGE, (after, up_to, excluded))
        };
        self.recorded(self.read("read the log", read).await?)
    }

    async fn head(&self) -> Result<u64, StoreError> {
        let head = self.head_watch();
        // The writer has dropped its end if the store is closed.
        head.has_changed().map_err(|_| StoreError::Closed)?;
        Ok(*head.borrow())
    }

    async fn wait_for(&self, after: u64) -> Result<u64, StoreError> {
        let mut head = self.head_watch().clone();
        let reached = head.wait_for(|head| *head > after).await;
        reached.map(|head| *head).map_err(|_| StoreError::Closed)
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.writer().end().await;
        let mut head = self.head_watch().clone();
        // The writer drops the sender after it has closed the file.
        while head.changed().await.is_ok() {}
        self.releases().send_replace(CLOSED);
        Ok(())
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        Some(self)
    }
}

impl SqliteStore {
    /// Decodes the rows, on the caller's task and not on the thread that read them.
    fn recorded(&self, events: Vec<StoredEvent>) -> Result<Vec<RecordedEvent>, StoreError> {
        let mut previous = Previous::default();
        let recorded = |event: StoredEvent| event.into_recorded(self.database(), &mut previous);
        events.into_iter().map(recorded).collect()
    }
}

/// Converts a position or version to SQLite's signed integers. No event is beyond `i64::MAX`.
fn signed(after: u64) -> i64 {
    i64::try_from(after).unwrap_or(i64::MAX)
}

/// The number of rows of a page, at most `MAX_PAGE`.
fn page_limit(limit: usize) -> i64 {
    i64::try_from(limit.min(MAX_PAGE)).unwrap_or(i64::MAX)
}
