//! Output streams: named streams of a run for what it shows while it works, such as the tokens of a
//! language model.
//!
//! An output stream is not part of the journal. Nothing is replayed from it, and writing to it does
//! not wait for a commit of the run. Its events are in their own stream of the log, `outputs/<run
//! id>/<name>`; they change no read model and are not published.

use std::{fmt, sync::Arc};

use serde::Serialize;

use crate::{
    BoxFuture,
    catalog::codes,
    event::{EventError, Payload, is_segment},
    store::{StoreError, StreamId},
};

/// The text with which the names of these streams of the log begin.
pub(crate) const PREFIX: &str = "outputs/";
/// Longest name of an output stream, in bytes.
const MAX_NAME_BYTES: usize = 40;

/// Errors of writing to an output stream.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The name of the stream is invalid.
    #[error(
        "a name of an output stream is [a-z][a-z0-9_]* with at most {MAX_NAME_BYTES} bytes, not \
         {name:?}"
    )]
    InvalidName {
        /// The name.
        name: String,
    },
    /// Output can't be stored here.
    #[error("there are no output streams here: {reason}")]
    Unavailable {
        /// The reason.
        reason: &'static str,
    },
    /// Too much output waits to be stored.
    #[error("{bytes} bytes of output wait to be stored; await `flush` before writing more")]
    Backlog {
        /// Size of what waits.
        bytes: usize,
    },
    /// An item is too large.
    #[error("an item has {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Size of the item.
        bytes: usize,
        /// Largest size of an item.
        limit: usize,
    },
    /// The item can't be encoded as JSON.
    #[error("failed to encode an item")]
    InvalidData(#[from] EventError),
    /// The store refused the output permanently.
    #[error("failed to store output")]
    Store(#[from] StoreError),
}

impl OutputError {
    /// Stable code of the error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidName { .. } => codes::INVALID_OUTPUT_STREAM,
            Self::Unavailable { .. } => codes::OUTPUT_UNAVAILABLE,
            Self::Backlog { .. } => codes::OUTPUT_BACKLOG,
            Self::TooLarge { .. } => codes::EVENT_TOO_LARGE,
            Self::InvalidData(error) => error.code(),
            Self::Store(error) => error.code(),
        }
    }
}

/// Where an [`OutputStream`] writes; implemented by hosts of agents and workflows.
pub trait OutputSink: Send + Sync + 'static {
    /// Adds an item to those that are stored next.
    ///
    /// # Errors
    ///
    /// See [`OutputStream::write`].
    fn write(&self, item: Payload) -> Result<(), OutputError>;

    /// Adds the end of the stream to what is stored next.
    ///
    /// # Errors
    ///
    /// See [`OutputStream::end`].
    fn end(&self) -> Result<(), OutputError>;

    /// Waits until everything written so far is stored.
    fn flush(&self) -> BoxFuture<'_, Result<(), OutputError>>;
}

/// Opens output streams; implemented by hosts of agents.
pub trait Outputs: Send + Sync + 'static {
    /// Opens a stream of a run for one writer.
    ///
    /// # Errors
    ///
    /// [`OutputError`] if the name is invalid, or if output can't be stored here.
    fn open(&self, run_id: &str, name: &str, writer: &str) -> Result<OutputStream, OutputError>;
}

/// A writer of a named output stream of a run. Clones write as the same writer.
///
/// Items are stored in batches, in the order in which they were written. Several writers may write
/// to one stream, for example the tasks of a run: the order of their batches is the order in which
/// they were stored.
///
/// If a task or step is attempted again, its new attempt writes the output again. Readers get a
/// reset first, which says that what this writer wrote before is void.
///
/// # Examples
///
/// A task that writes faster than the store accepts the items waits for it:
///
/// ```
/// use aios_core::output::{OutputError, OutputStream};
///
/// async fn copy(lines: &[String], stream: &OutputStream) -> Result<(), OutputError> {
///     for line in lines {
///         if let Err(OutputError::Backlog { .. }) = stream.write(line) {
///             stream.flush().await?;
///             stream.write(line)?;
///         }
///     }
///     stream.end()
/// }
/// # let _ = copy;
/// ```
#[derive(Clone)]
pub struct OutputStream(Arc<dyn OutputSink>);

impl OutputStream {
    /// A stream that writes to a sink; for hosts.
    #[must_use]
    pub fn new(sink: Arc<dyn OutputSink>) -> Self {
        Self(sink)
    }

    /// Writes an item. It does not wait: the item is stored with the next batch.
    ///
    /// # Errors
    ///
    /// [`OutputError::TooLarge`] for more than 256 KiB; [`OutputError::Backlog`] if 4 MiB wait to
    /// be stored, which does not happen in the code of a workflow; [`OutputError::Store`] if the
    /// store has refused an earlier item.
    pub fn write<T: Serialize + ?Sized>(&self, item: &T) -> Result<(), OutputError> {
        self.0.write(Payload::encode(item)?)
    }

    /// Writes an item that is JSON already; see [`write`](Self::write).
    ///
    /// # Errors
    ///
    /// See [`write`](Self::write).
    pub fn write_payload(&self, item: Payload) -> Result<(), OutputError> {
        self.0.write(item)
    }

    /// Ends the stream: readers read no further than this. A stream that is not ended ends with its
    /// run.
    ///
    /// # Errors
    ///
    /// See [`write`](Self::write).
    pub fn end(&self) -> Result<(), OutputError> {
        self.0.end()
    }

    /// Waits until everything written so far is stored. The host of a task, step or run does so at
    /// its end; call it to write no faster than the store can take.
    ///
    /// # Errors
    ///
    /// [`OutputError::Store`] if the store refuses it permanently.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was written is stored nevertheless.
    pub async fn flush(&self) -> Result<(), OutputError> {
        self.0.flush().await
    }
}

impl fmt::Debug for OutputStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("OutputStream").finish_non_exhaustive()
    }
}

/// The stream of the log that has the events of an output stream: `outputs/<run id>/<name>`.
///
/// # Errors
///
/// [`OutputError::InvalidName`] if the name is not `[a-z][a-z0-9_]*` with at most 40 bytes;
/// [`OutputError::Store`] if the id of the run is too long.
pub fn stream_of(run_id: &str, name: &str) -> Result<StreamId, OutputError> {
    if name.len() > MAX_NAME_BYTES || !is_segment(name) {
        return Err(OutputError::InvalidName { name: crate::event::excerpt(name) });
    }
    Ok(StreamId::new(format!("{PREFIX}{run_id}/{name}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_refuse_invalid_names() {
        assert_eq!(stream_of("r1", "tokens").unwrap().as_str(), "outputs/r1/tokens");
        for name in ["", "Tokens", "a/b", "1", &"x".repeat(41)] {
            assert_eq!(stream_of("r1", name).unwrap_err().code(), "INVALID_OUTPUT_STREAM");
        }
        assert_eq!(stream_of(&"r".repeat(250), "a").unwrap_err().code(), "INVALID_STREAM");
    }
}
