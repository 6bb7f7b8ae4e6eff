//! The cancellation of a run reaches its children, on whichever engine they are.

use std::{collections::BTreeMap, sync::Arc};

use aios_core::{Chain, clock::ClockExt, event::EventId};
use futures_util::{StreamExt, stream};
use tracing::{error, warn};

use super::{Engine, Message};
use crate::workflow::journal::{CancelRequested, Entry, JournalError};

/// Children that are asked to cancel at once.
const AT_ONCE: usize = 32;

impl Engine {
    /// Asks children to cancel, once each however often this is repeated. Returns when every request
    /// is durable, or its child is found to have ended.
    pub(super) async fn cancel_children(
        self: &Arc<Self>,
        parent: &Arc<str>,
        incarnation: &EventId,
        children: BTreeMap<u64, Box<str>>,
    ) {
        let each = |(operation, child): (u64, Box<str>)| async move {
            let id = EventId::derive(&format!("{incarnation}/{operation}/cancel"));
            self.cancel_child(parent, child.into(), id).await;
        };
        stream::iter(children).for_each_concurrent(AT_ONCE, each).await;
    }

    async fn cancel_child(self: &Arc<Self>, parent: &Arc<str>, child: Arc<str>, id: EventId) {
        let mut back_off = self.options.back_off.0;
        while let Err(error) = self.request_cancel(parent, Arc::clone(&child), id.clone()).await {
            match error {
                // It was never started, or ends by itself.
                JournalError::UnknownRun { .. } | JournalError::Ended { .. } => return,
                error if error.is_retryable() => {
                    warn!(error = %Chain(&error), run = %child, "could not cancel a child; trying again");
                }
                error => {
                    return error!(error = %Chain(&error), run = %child, "could not cancel a child");
                }
            }
            self.clock.sleep(back_off).await;
            back_off = (back_off * 2).min(self.options.back_off.1);
        }
    }

    async fn request_cancel(
        self: &Arc<Self>,
        parent: &Arc<str>,
        mut child: Arc<str>,
        id: EventId,
    ) -> Result<(), JournalError> {
        if self.journals.row(&child).await?.parent_run_id.as_deref() != Some(&**parent) {
            // Somebody else's run has the id; the child was never started.
            return Ok(());
        }
        loop {
            let entry = Entry::CancelRequested(CancelRequested {
                reason: format!("run {parent}, which started this one, was cancelled"),
            });
            match self.journals.append(&child, entry, Some(id.clone())).await {
                Ok(()) => {
                    self.tell(&child, Message::Nudge);
                    return Ok(());
                }
                Err(error @ JournalError::Ended { .. }) => {
                    let ended = self.journals.ended(&child).await?;
                    match ended.and_then(|ended| ended.continued_as) {
                        Some(next) => child = next,
                        None => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}
