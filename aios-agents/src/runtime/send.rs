//! Commands with an id: sent once, however often they are repeated.
//!
//! The id of the event derives from that of the command. An event with a known id is not stored twice
//! in a stream. If the run has continued as another one, the id may be known in the stream of the
//! predecessor, which has passed its signals on: the store then reports a duplicate, which counts as
//! sent. A run that has ended refuses new events, but not the repetition of one that it has.

use aios_core::{
    event::{EventId, Metadata, Payload},
    store::{RunRecord, StoreError},
};

use super::{Client, RuntimeError};
use crate::workflow::journal::{Entry, JournalError};

/// Maximum size of a run's metadata, in bytes of JSON.
const MAX_METADATA_BYTES: usize = 64 * 1024;

/// A command, and who sends it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command<'c> {
    /// The command.
    pub(super) entry: &'c Entry,
    /// The id of its event.
    pub(super) id: &'c EventId,
    /// The correlation, user and trace of the caller, as far as they are set.
    pub(super) metadata: &'c Metadata,
    /// Whether it may have been sent before.
    pub(super) earlier: Earlier,
}

/// The calls that may have sent a command before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Earlier {
    /// It has a new id.
    Never,
    /// The id is new, and an attempt has failed.
    ThisCall,
    /// The caller has chosen the id.
    AnyCall,
}

/// The id of the event that a request with an id has recorded in a run.
///
/// Both ids may contain any separator, so the length of the first one says where it ends. The kind of
/// the request stands before the second one.
pub(super) fn request_id(run_id: &str, kind: &str, id: &str) -> EventId {
    EventId::derive(&format!("{}:{run_id}/{kind}/{id}", run_id.len()))
}

/// Sends a command to an existing run, whose row is read unless it was just read. A command that was sent
/// before, perhaps to the run that continued as this one, is not sent again.
pub(super) async fn send(
    client: &Client,
    run_id: &str,
    command: Command<'_>,
    known: Option<RunRecord>,
) -> Result<(), RuntimeError> {
    let Command { entry, id, metadata, earlier } = command;
    let journals = &client.journals;
    match journals.append_to_current_for(metadata, run_id, entry, Some(id), known).await {
        Ok(reached) => client.nudge(reached),
        Err(JournalError::Store(StoreError::DuplicateEvent { id: known })) if known == *id => {}
        Err(error @ JournalError::Ended { .. }) => {
            let is_sent = match earlier {
                Earlier::Never => false,
                Earlier::ThisCall => journals.has_recorded(run_id, id).await?,
                Earlier::AnyCall => {
                    let reached = journals.current(run_id).await?.id;
                    journals.has_received(&reached, entry, id).await?
                }
            };
            if !is_sent {
                return Err(error.into());
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Rejects metadata that would leave too little space in an event.
pub(super) fn check_metadata(metadata: &Metadata) -> Result<(), RuntimeError> {
    let bytes = Payload::encode(metadata)?.as_str().len();
    if bytes > MAX_METADATA_BYTES {
        let reason = format!(
            "the metadata of a run has {bytes} bytes, more than the maximum of {MAX_METADATA_BYTES}; \
             every event of the run carries it"
        );
        return Err(RuntimeError::InvalidConfiguration { reason });
    }
    Ok(())
}
