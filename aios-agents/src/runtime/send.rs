//! Commands with an id: sent once, however often they are repeated.
//!
//! The id of the event derives from that of the command. An event with a known id is not stored twice
//! in a stream. If the run has continued as another one, the id may be known in the stream of the
//! predecessor, which has passed its signals on: the store then reports a duplicate, which counts as
//! sent. A run that has ended refuses new events, but not the repetition of one that it has.

use aios_core::{event::EventId, store::StoreError};

use super::{Client, RuntimeError};
use crate::workflow::journal::{Entry, JournalError};

/// The id of the event that a request with an id has recorded in a run.
///
/// Both ids may contain any separator, so the length of the first one says where it ends. The kind of
/// the request stands before the second one.
pub(super) fn request_id(run_id: &str, kind: &str, id: &str) -> EventId {
    EventId::derive(&format!("{}:{run_id}/{kind}/{id}", run_id.len()))
}

/// Sends a signal to an existing run. A signal that was sent before, perhaps to the run that
/// continued as this one, is not sent again.
pub(super) async fn send(
    client: &Client,
    run_id: &str,
    entry: &Entry,
    id: &EventId,
) -> Result<(), RuntimeError> {
    match client.journals.append_to_current(run_id, entry, Some(id), None).await {
        Ok(reached) => client.nudge(reached),
        Err(JournalError::Store(StoreError::DuplicateEvent { id: known })) if known == *id => {}
        Err(error @ JournalError::Ended { .. }) => {
            let reached = client.journals.current(run_id).await?.id;
            if !client.journals.has_received(&reached, entry, id).await? {
                return Err(error.into());
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
