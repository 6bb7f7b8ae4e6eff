use super::{Epoch, Shard, StreamId};
use crate::{Cause, event::EventId};

/// Errors returned by a store.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The stream does not have the expected version.
    #[error("stream {stream} is at version {actual}, not where the append expected it")]
    Conflict {
        /// The stream.
        stream: StreamId,
        /// The actual version.
        actual: u64,
    },
    /// The stream accepts no more events, because its run has ended.
    #[error("stream {stream} accepts no event after the one that ends its run")]
    StreamClosed {
        /// The stream.
        stream: StreamId,
    },
    /// Another owner has taken the shard.
    #[error("shard {shard} is no longer owned under epoch {epoch}")]
    Fenced {
        /// The shard.
        shard: Shard,
        /// The epoch that the writer had.
        epoch: Epoch,
    },
    /// An event id is already stored, elsewhere or together with other events.
    #[error("event {id} is stored already")]
    DuplicateEvent {
        /// The id.
        id: EventId,
    },
    /// An append without events.
    #[error("an append to stream {stream} has no events")]
    EmptyAppend {
        /// The stream.
        stream: StreamId,
    },
    /// A stream name is empty or longer than 255 bytes.
    #[error("a stream name has 1 to 255 bytes, this one has {bytes}")]
    InvalidStream {
        /// Length of the refused name.
        bytes: usize,
    },
    /// An event is larger than the store accepts.
    #[error("event {id} has {bytes} bytes, the store accepts at most {limit}")]
    TooLarge {
        /// The event.
        id: EventId,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A text of an event contains a character that the store cannot keep.
    #[error("event {id} has the character NUL in its {part}, which the store can't keep")]
    InvalidText {
        /// The event.
        id: EventId,
        /// The text: its `id`, `source` or `stream`.
        part: &'static str,
    },
    /// The database is already open, in this or in another process.
    #[error("{database} is open already, in this or in another process")]
    Locked {
        /// The database.
        database: String,
    },
    /// The files of the database were moved, deleted or replaced, so that nothing more can be
    /// stored.
    #[error("{database} was deleted, moved or replaced while it was open")]
    Gone {
        /// The database.
        database: String,
    },
    /// The database was written by a newer version of aios.
    #[error("{database} has schema version {found}, this version of aios knows up to {known}")]
    NewerSchema {
        /// The database.
        database: String,
        /// The version of the database.
        found: u32,
        /// The latest version that this program knows.
        known: u32,
    },
    /// A row has a value that aios never writes. The other rows can be read.
    #[error("{database} has an invalid row: {reason}")]
    InvalidRow {
        /// The database.
        database: String,
        /// The reason.
        reason: String,
    },
    /// The files of the database are damaged.
    #[error("{database} is corrupt: {reason}")]
    Corrupt {
        /// The database.
        database: String,
        /// The reason.
        reason: String,
    },
    /// There is no room left to write.
    #[error("{database} is full")]
    Full {
        /// The database.
        database: String,
    },
    /// The backend did not answer in time.
    #[error("the store did not {operation} within {after:?}")]
    Timeout {
        /// The operation that was waited for.
        operation: &'static str,
        /// How long.
        after: std::time::Duration,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// An option or URL is invalid.
    #[error("invalid store configuration: {reason}")]
    InvalidConfiguration {
        /// The reason.
        reason: String,
    },
    /// Anything else the driver reports.
    #[error("{backend} failed to {operation}")]
    Backend {
        /// The adapter.
        backend: &'static str,
        /// The operation.
        operation: &'static str,
        /// Whether the same call may succeed later.
        retryable: bool,
        /// The error of the driver.
        source: Cause,
    },
}

impl StoreError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Full { .. } | Self::Timeout { .. } => true,
            Self::Backend { retryable, .. } => *retryable,
            _ => false,
        }
    }

    /// A stable name for this kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "CONFLICT",
            Self::StreamClosed { .. } => "STREAM_CLOSED",
            Self::Fenced { .. } => "FENCED",
            Self::DuplicateEvent { .. } => "DUPLICATE_EVENT",
            Self::EmptyAppend { .. } => "EMPTY_APPEND",
            Self::InvalidStream { .. } => "INVALID_STREAM",
            Self::TooLarge { .. } => "EVENT_TOO_LARGE",
            Self::InvalidText { .. } => "INVALID_TEXT",
            Self::Locked { .. } => "STORE_LOCKED",
            Self::Gone { .. } => "STORE_GONE",
            Self::NewerSchema { .. } => "NEWER_SCHEMA",
            Self::InvalidRow { .. } => "INVALID_ROW",
            Self::Corrupt { .. } => "STORE_CORRUPT",
            Self::Full { .. } => "STORE_FULL",
            Self::Timeout { .. } => "STORE_TIMEOUT",
            Self::Closed => "STORE_CLOSED",
            Self::InvalidConfiguration { .. } => "INVALID_STORE_CONFIGURATION",
            Self::Backend { .. } => "STORE_BACKEND",
        }
    }
}
