//! Output streams of runs.
//!
//! An output stream is a list of items of one name in a run, for example the tokens of a model.
//! Several tasks can write to it, and each item names its writer. The client does not remove the
//! items of an attempt that failed: a reset tells that they are void, and the reader decides.

use std::fmt;

use aios_core::event::Payload;
use futures_util::{Stream, stream};
use serde::Deserialize;

use super::{Client, ClientError, messages::Messages, server_events::Message};

/// An item of an output stream, or a reset.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct OutputItem {
    /// Place in the stream. Offsets increase, with gaps.
    pub offset: u64,
    /// The writer: the id of a task, the idempotency key of a step, or `workflow`.
    pub writer: String,
    /// The item; `None` if the earlier items of this writer are void, because an attempt begins again.
    pub item: Option<Payload>,
}

/// The items of an output stream of a run, in order, each once: first those that are stored, then new
/// ones. It connects again after the last item when the connection breaks.
///
/// # Examples
///
/// The text of a model as it is written. An attempt that fails and begins again voids its text:
///
/// ```no_run
/// use std::collections::BTreeMap;
///
/// use aios_service::client::Client;
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let run = client.start("report", "2026-03").await?;
/// let mut items = run.stream("text", 0);
/// let mut texts: BTreeMap<String, String> = BTreeMap::new();
/// while let Some(item) = items.next().await {
///     let item = item?;
///     let text = texts.entry(item.writer).or_default();
///     match item.item {
///         Some(item) => text.push_str(&item.decode::<String>()?),
///         None => text.clear(),
///     }
/// }
/// println!("{texts:?}");
/// # Ok(())
/// # }
/// ```
pub struct OutputStream(Messages);

/// The data of a message.
#[derive(Deserialize)]
struct Data {
    writer: String,
    #[serde(default)]
    item: Option<Payload>,
}

impl OutputStream {
    /// Follows a stream after an offset.
    pub(super) fn new(client: Client, path: Vec<String>, after: u64) -> Self {
        Self(Messages::new(client, path, Vec::new(), Some(after)))
    }

    /// The next item, waiting for it without a limit; `None` at the end of the stream, which is at the
    /// latest the end of the run.
    ///
    /// Errors are those of [`EventStream::next`](super::EventStream::next).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no item is lost.
    pub async fn next(&mut self) -> Option<Result<OutputItem, ClientError>> {
        loop {
            let message = match self.0.next_new().await {
                Ok(message) => message?,
                Err(error) => return Some(Err(error)),
            };
            if message.kind.as_deref() == Some("end") {
                self.0.finish();
                return None;
            }
            if let Message { id: Some(offset), data: Some(data), kind } = message {
                return Some(item(offset, kind.as_deref(), &data));
            }
        }
    }

    /// The items as a stream, which ends when [`next`](Self::next) returns `None`.
    pub fn into_stream(self) -> impl Stream<Item = Result<OutputItem, ClientError>> + Send {
        stream::unfold(self, |mut items| async move {
            let next = items.next().await?;
            Some((next, items))
        })
    }
}

impl fmt::Debug for OutputStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.describe(formatter.debug_struct("OutputStream"))
    }
}

/// Reads the item of a message.
fn item(offset: u64, kind: Option<&str>, data: &str) -> Result<OutputItem, ClientError> {
    let Data { writer, item } = serde_json::from_str(data).map_err(|error| {
        ClientError::InvalidResponse { reason: error.to_string(), request_id: None }
    })?;
    // An item may be `null`.
    let item = match kind {
        Some("reset") => None,
        _ => Some(item.unwrap_or_default()),
    };
    Ok(OutputItem { offset, writer, item })
}
