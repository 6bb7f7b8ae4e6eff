//! A stream per call, with at most two events:
//!
//! ```text
//! (empty) ──begun──► may have happened ──ended──► happened, with this result
//! ```
//!
//! `begun` is appended to an empty stream before the tool runs, so only one process can begin a
//! call. A process that finds the stream not empty does not run the tool: it returns the recorded
//! result, or reports the call as in doubt. A crash between the two events leaves the call in doubt
//! although it may not have run: that is the safe side.
//!
//! An event whose append fails may have been stored. It is appended again with the same id, which the
//! store recognises, so a lost response of the store leaves no doubt about a call that has not run.

use std::sync::Arc;

use aios_core::{
    agent::TaskError,
    catalog::codes,
    event::{Event, EventType},
    failure::Failure,
    store::{Append, EventStoreExt, Expected, Store, StoreError, StreamId},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Appends of an event that may fail before the attempt at the call does.
const ATTEMPTS: u32 = 3;

/// Records that calls of `write` tools began and ended, so that no process begins one twice.
#[derive(Clone, Debug)]
pub(crate) struct WriteLog {
    /// Usually that of the runtime.
    store: Arc<dyn Store>,
}

/// The state of a call when it is about to begin.
#[derive(Debug)]
pub(crate) enum WriteState {
    /// It has not begun before; it may run.
    Begun(WriteCall),
    /// It ended before, with this result.
    Ended(String),
}

/// A call that has begun.
#[derive(Debug)]
pub(crate) struct WriteCall {
    /// Where its end is recorded.
    log: WriteLog,
    /// The stream of the call.
    stream: StreamId,
}

/// Data of the event `llm.write.begun`.
#[derive(Debug, Serialize, Deserialize)]
struct WriteBegun<'k> {
    /// For people who look at the log.
    tool: &'k str,
    /// The key, which the name of the stream only has as a hash.
    key: &'k str,
}

/// Data of the event `llm.write.ended`.
#[derive(Debug, Serialize, Deserialize)]
struct WriteEnded {
    /// The text of the result.
    result: String,
}

impl WriteLog {
    /// A log in a store.
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Records durably that a call begins. Fails with `WRITE_IN_DOUBT` if it began before and nothing
    /// says how it ended.
    pub(crate) async fn begin(&self, tool: &str, key: &str) -> Result<WriteState, TaskError> {
        let stream = stream_of(key).map_err(store_failure)?;
        let event_type = EventType::new("llm", "write", "begun")?;
        let event = Event::new(event_type, "aios", &WriteBegun { tool, key })?;
        let append = Append::new(stream.clone(), vec![event]).with_expected(Expected::Empty);
        match self.append(append).await {
            Ok(()) => Ok(WriteState::Begun(WriteCall { log: self.clone(), stream })),
            Err(StoreError::Conflict { .. }) => self.earlier(tool, &stream).await,
            Err(error) => Err(store_failure(error)),
        }
    }

    /// Appends an event, again if the store may not have received it.
    async fn append(&self, append: Append) -> Result<(), StoreError> {
        for _ in 1..ATTEMPTS {
            match self.store.append_one(append.clone()).await {
                Err(error) if error.is_retryable() => {}
                appended => return appended.map(drop),
            }
        }
        self.store.append_one(append).await.map(drop)
    }

    /// The state of a call that began before.
    async fn earlier(&self, tool: &str, stream: &StreamId) -> Result<WriteState, TaskError> {
        let events = self.store.read_stream(stream, 1, 1).await.map_err(store_failure)?;
        if let Some(ended) = events.first() {
            let WriteEnded { result } = ended.event.data()?;
            return Ok(WriteState::Ended(result));
        }
        let reason = format!("a call of tool {tool} began before, and its outcome is unknown");
        Err(TaskError::terminal(Failure::new(codes::WRITE_IN_DOUBT, reason)))
    }
}

impl WriteCall {
    /// Records the result of the call, for a process that receives the call again.
    pub(crate) async fn end(&self, result: &str) -> Result<(), TaskError> {
        let event_type = EventType::new("llm", "write", "ended")?;
        let event = Event::new(event_type, "aios", &WriteEnded { result: result.to_owned() })?;
        let append =
            Append::new(self.stream.clone(), vec![event]).with_expected(Expected::Exact(1));
        self.log.append(append).await.map_err(store_failure)
    }
}

/// The stream of a call. Keys can be longer than names of streams.
fn stream_of(key: &str) -> Result<StreamId, StoreError> {
    let hash = Sha256::digest(key.as_bytes());
    let hex = hash.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    StreamId::new(format!("llm/writes/{hex}"))
}

/// The failure of a call because of the store.
#[allow(clippy::needless_pass_by_value, reason = "it is used with `map_err`")]
fn store_failure(error: StoreError) -> TaskError {
    let failure = Failure::from_error(error.code(), &error);
    TaskError::retryable(failure).with_retryable(error.is_retryable())
}
