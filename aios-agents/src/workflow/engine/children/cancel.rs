//! Propagates the cancellation of a run to its children, on whichever engine they run.
//!
//! A request is an entry in the journal of the child, so it is durable before the parent ends, and the
//! child need not be running. Its id derives from the parent and the operation: repeated after a crash,
//! or sent by two engines, it is recorded once. A child that has continued as another run is followed
//! to that one.

use std::{collections::BTreeMap, sync::Arc};

use aios_core::{Chain, event::EventId, failure::Failure, store::StoreError};
use futures_util::{StreamExt, stream};
use tracing::warn;

use crate::workflow::{
    engine::{Engine, Message},
    journal::{CancelRequested, Entry, JournalError, Parent},
};

/// Children that are cancelled concurrently.
const AT_ONCE: usize = 32;

impl Engine {
    /// Requests the cancellation of children. A repeated call does not repeat the requests. Returns
    /// once every request is durable or its child has ended; fails if a child can never be
    /// cancelled, after all others were asked.
    ///
    /// `why` becomes a part of the reason in the journal of each child, for people who look at it.
    pub(crate) async fn cancel_children(
        self: &Arc<Self>,
        parent: &Arc<str>,
        incarnation: &EventId,
        children: BTreeMap<u64, Box<str>>,
        why: &'static str,
    ) -> Result<(), Failure> {
        let each = |(operation, child): (u64, Box<str>)| async move {
            let parent = Parent::new(parent.to_string(), Some(incarnation.clone()), operation);
            self.cancel_child(&parent, &child, why).await
        };
        let all = stream::iter(children).map(each).buffer_unordered(AT_ONCE);
        let asked: Vec<Result<(), Failure>> = all.collect().await;
        asked.into_iter().collect()
    }

    /// Requests the cancellation of one child, until the request is durable. An error is permanent.
    async fn cancel_child(
        self: &Arc<Self>,
        parent: &Parent,
        child: &str,
        why: &'static str,
    ) -> Result<(), Failure> {
        let mut backoff = self.options.backoff.initial_delay;
        while let Err(error) = self.request_cancel(parent, child, why).await {
            if !error.is_retryable() {
                let Failure { code, message, .. } = error.failure();
                return Err(Failure::new(
                    code,
                    format!("child {child} can't be cancelled: {message}"),
                ));
            }
            warn!(error = %Chain(&error), run = child, "could not cancel a child; trying again");
            self.clock.sleep(backoff).await;
            backoff = self.options.backoff.next(backoff);
        }
        Ok(())
    }

    /// Appends the request, if the run is the child that this operation started.
    async fn request_cancel(
        self: &Arc<Self>,
        parent: &Parent,
        child: &str,
        why: &'static str,
    ) -> Result<(), JournalError> {
        let started = self.journals.started(child).await?.map(|(_, started, _)| started);
        let named = started.and_then(|started| started.parent);
        if !self.journals.is_parent(named.as_ref(), parent).await? {
            // The child was never started, or its id belongs to another run.
            return Ok(());
        }
        let Parent { run_id, incarnation, operation, .. } = parent;
        let incarnation = incarnation.as_ref().map_or_else(String::new, EventId::to_string);
        let id = EventId::derive(&format!("{incarnation}/{operation}/cancel"));
        let entry = Entry::CancelRequested(CancelRequested::new(format!(
            "run {run_id}, which started this one, {why}"
        )));
        match self.journals.append_to_current(child, &entry, Some(&id), None).await {
            Ok(reached) => self.send(&reached.into(), Message::Wake),
            // It has ended, perhaps long ago, or it was asked before it continued as another run
            // and forwarded the request.
            Err(
                JournalError::Ended { .. }
                | JournalError::UnknownRun { .. }
                | JournalError::Store(StoreError::DuplicateEvent { .. }),
            ) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
