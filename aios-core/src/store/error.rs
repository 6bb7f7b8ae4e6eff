use super::{Epoch, Shard, StreamId};
use crate::{Cause, catalog::codes, event::EventId};

/// Errors returned by a store.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The stream does not have the expected version, because another writer came first. Read what it
    /// appended, decide again, and append with the new version. Nothing was stored.
    #[error("stream {stream} is at version {actual}, not where the append expected it")]
    Conflict {
        /// The stream.
        stream: StreamId,
        /// The actual version.
        actual: u64,
    },
    /// The stream accepts no more events, because its run has ended. Nothing that is sent to the run has
    /// an effect any more.
    #[error("stream {stream} accepts no event after the one that ends its run")]
    StreamClosed {
        /// The stream.
        stream: StreamId,
    },
    /// Another owner has taken the shard. Stop working on it: the new owner continues from what is
    /// stored.
    #[error("shard {shard} is no longer owned under epoch {epoch}")]
    Fenced {
        /// The shard.
        shard: Shard,
        /// The epoch that the writer had.
        epoch: Epoch,
    },
    /// An event id is already stored, in another stream or together with other events. An append that
    /// is repeated as it was does not fail; give a new event a new id.
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
    /// An event is larger than the store accepts. Store the data elsewhere and a reference in the event,
    /// or raise the limit in the options of the store, and that of the broker. If the events of an append
    /// are too large together, this is the largest, and the limit is what the others leave for it.
    #[error("event {id} has {bytes} bytes, the store accepts at most {limit}")]
    TooLarge {
        /// The event.
        id: EventId,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A text of an event contains the character NUL, which PostgreSQL cannot keep in an id, a source
    /// or the name of a stream. In the data of an event it can.
    #[error("event {id} has the character NUL in its {part}, which the store can't keep")]
    InvalidText {
        /// The event.
        id: EventId,
        /// The text: its `id`, `source` or `stream`.
        part: &'static str,
    },
    /// The database is already open, in this or in another process. Close it there, share the store
    /// within the process, or use PostgreSQL for several processes.
    #[error("{database} is open already, in this or in another process")]
    Locked {
        /// The database.
        database: String,
    },
    /// The files of the database were moved, deleted or replaced, so that nothing more can be
    /// stored. Restore the files, and restart the process.
    #[error("{database} was deleted, moved or replaced while it was open")]
    Gone {
        /// The database.
        database: String,
    },
    /// The log of PostgreSQL has lost events that this process knows, as in a failover to a server that
    /// lagged behind. Restart the process.
    #[error(
        "{database} has lost committed events, among them the one at position {position}; restart this \
         process"
    )]
    LostEvents {
        /// The database.
        database: String,
        /// The position of the last event that this process knows. Another event may have it now.
        position: u64,
    },
    /// The saved position of a reader is after the end of the log: the log was restored from an older
    /// backup, or the position belongs to another log. The reader would skip the events that get the positions
    /// up to its own. Delete the position, so that the reader begins again, or restore a newer backup.
    #[error(
        "the reader {reader} has the position {position}, and the log ends at {head}: the log was \
         restored from an older backup, or the position belongs to another log; delete the position, \
         for example with `aios readers retire {reader}`, and the reader begins again"
    )]
    AfterEnd {
        /// Name of the reader.
        reader: String,
        /// Its saved position.
        position: u64,
        /// The position of the last event of the log.
        head: u64,
    },
    /// The database was written by a newer version of aios. Update this program; migrations are not
    /// undone.
    #[error("{database} has schema version {found}, this version of aios knows up to {known}")]
    NewerSchema {
        /// The database.
        database: String,
        /// The version of the database.
        found: u32,
        /// The latest version that this program knows.
        known: u32,
    },
    /// A row has a value that aios never writes. The other rows can be read. Rebuild the read models, or
    /// restore a backup if it is an event.
    #[error("{database} has an invalid row: {reason}")]
    InvalidRow {
        /// The database.
        database: String,
        /// The reason.
        reason: String,
    },
    /// The files of the database are damaged. Restore a backup.
    #[error("{database} is corrupt: {reason}")]
    Corrupt {
        /// The database.
        database: String,
        /// The reason.
        reason: String,
    },
    /// There is no room left to write, on the disk or within the limit of the options. Make room; the
    /// same call succeeds then.
    #[error("{database} is full")]
    Full {
        /// The database.
        database: String,
    },
    /// The backend did not answer in time. An append may be stored; repeating it with the same events
    /// returns the first result.
    #[error("the store did not {operation} within {after:?}")]
    Timeout {
        /// The operation that was waited for.
        operation: &'static str,
        /// How long.
        after: std::time::Duration,
    },
    /// The store was closed by this process.
    #[error("the store is closed")]
    Closed,
    /// An option or URL is invalid. The reason names it.
    #[error("invalid store configuration: {reason}")]
    InvalidConfiguration {
        /// The reason.
        reason: String,
    },
    /// Anything else the driver reports. `retryable` says whether the same call may succeed later; print
    /// the cause with [`Chain`](crate::Chain).
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

    /// Whether the store is not what it was when this process opened it, so that only a restart of the
    /// process helps: its files are gone, or its log has lost events.
    #[must_use]
    pub fn needs_restart(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::LostEvents { .. })
    }

    /// A stable name for this kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => codes::CONFLICT,
            Self::StreamClosed { .. } => codes::STREAM_CLOSED,
            Self::Fenced { .. } => codes::FENCED,
            Self::DuplicateEvent { .. } => codes::DUPLICATE_EVENT,
            Self::EmptyAppend { .. } => codes::EMPTY_APPEND,
            Self::InvalidStream { .. } => codes::INVALID_STREAM,
            Self::TooLarge { .. } => codes::EVENT_TOO_LARGE,
            Self::InvalidText { .. } => codes::INVALID_TEXT,
            Self::Locked { .. } => codes::STORE_LOCKED,
            Self::Gone { .. } => codes::STORE_GONE,
            Self::LostEvents { .. } => codes::STORE_LOST_EVENTS,
            Self::AfterEnd { .. } => codes::POSITION_AFTER_END,
            Self::NewerSchema { .. } => codes::NEWER_SCHEMA,
            Self::InvalidRow { .. } => codes::INVALID_ROW,
            Self::Corrupt { .. } => codes::STORE_CORRUPT,
            Self::Full { .. } => codes::STORE_FULL,
            Self::Timeout { .. } => codes::STORE_TIMEOUT,
            Self::Closed => codes::STORE_CLOSED,
            Self::InvalidConfiguration { .. } => codes::INVALID_STORE_CONFIGURATION,
            Self::Backend { .. } => codes::STORE_BACKEND,
        }
    }
}
