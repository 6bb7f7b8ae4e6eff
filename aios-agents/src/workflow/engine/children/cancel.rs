//! Propagates the cancellation of a run to its children, on whichever engine they run.
//!
//! A request is an entry in the journal of the child, so it is durable before the parent ends, and the
//! child need not be running. Its id derives from the parent and the operation: repeated after a crash,
//! or sent by two engines, it is recorded once. A child that has continued as another run is followed
//! to that one.

use std::sync::Arc;

use aios_core::{
    Chain,
    event::{EventId, Metadata},
    failure::Failure,
    store::StoreError,
};
use futures_util::{StreamExt, stream};
use tracing::warn;

use super::Child;
use crate::workflow::{
    engine::{Engine, Message},
    journal::{CancelRequested, Entry, InheritedChild, JournalError, Parent},
};

/// Children that are cancelled concurrently.
const AT_ONCE: usize = 32;

/// A child that is cancelled.
enum Cancelled {
    /// One of the run itself.
    Own(Child),
    /// One of an earlier run of its chain.
    Inherited(InheritedChild),
}

impl Cancelled {
    /// Id of the child.
    fn run_id(&self) -> &str {
        match self {
            Self::Own(child) => &child.started.run_id,
            Self::Inherited(child) => &child.run_id,
        }
    }

    /// The run and the operation that started it.
    fn parent(&self) -> &Parent {
        match self {
            Self::Own(child) => &child.parent,
            Self::Inherited(child) => &child.parent,
        }
    }
}

impl Engine {
    /// Requests the cancellation of children, and of those of earlier runs of the chain. A repeated call
    /// does not repeat the requests. Returns once every request is durable or its child has ended; fails
    /// if a child can never be cancelled, after all others were asked.
    ///
    /// `why` becomes a part of the reason in the journal of each child, for people who look at it.
    pub(crate) async fn cancel_children(
        self: &Arc<Self>,
        children: Vec<Child>,
        inherited: Vec<InheritedChild>,
        why: &'static str,
    ) -> Result<(), Failure> {
        let own = children.into_iter().map(Cancelled::Own);
        let all = own.chain(inherited.into_iter().map(Cancelled::Inherited));
        let each = |child: Cancelled| async move { self.cancel_child(&child, why).await };
        let all = stream::iter(all).map(each).buffer_unordered(AT_ONCE);
        let asked: Vec<Result<(), Failure>> = all.collect().await;
        asked.into_iter().collect()
    }

    /// Requests the cancellation of one child, until the request is durable. An error is permanent.
    async fn cancel_child(
        self: &Arc<Self>,
        child: &Cancelled,
        why: &'static str,
    ) -> Result<(), Failure> {
        let mut backoff = self.options.backoff.initial_delay;
        while let Err(error) = self.request_cancel(child, why).await {
            let run_id = child.run_id();
            if !error.is_retryable() {
                let Failure { code, message, .. } = error.failure();
                return Err(Failure::new(
                    code,
                    format!("child {run_id} can't be cancelled: {message}"),
                ));
            }
            warn!(error = %Chain(&error), run = %run_id, "could not cancel a child; trying again");
            self.clock.sleep(backoff).await;
            backoff = self.options.backoff.next(backoff);
        }
        Ok(())
    }

    /// Appends the request, if the run is the child that this operation started.
    ///
    /// A child that does not exist is started as a cancelled run. Otherwise a start that another engine
    /// has begun and that is delayed, in a frozen process for example, would start a child that no
    /// engine cancels.
    async fn request_cancel(
        self: &Arc<Self>,
        child: &Cancelled,
        why: &'static str,
    ) -> Result<(), JournalError> {
        let Parent { run_id, incarnation, operation, .. } = child.parent();
        let incarnation = incarnation.as_ref().map_or_else(String::new, EventId::to_string);
        let id = EventId::derive(&format!("{incarnation}/{operation}/cancel"));
        let entry = Entry::CancelRequested(CancelRequested::new(format!(
            "run {run_id}, which started this one, {why}"
        )));
        let child_id = child.run_id();
        let started = match (self.journals.started(child_id).await?, child) {
            (Some((_, started, _)), _) => started,
            // It existed when its parent continued as another run.
            (None, Cancelled::Inherited(_)) => return Ok(()),
            (None, Cancelled::Own(child)) => {
                match self.create_cancelled(child, &entry, &id).await {
                    // It was started in between.
                    Err(JournalError::Exists { .. }) => {
                        match self.journals.started(child_id).await? {
                            Some((_, started, _)) => started,
                            None => return Ok(()),
                        }
                    }
                    // No process that starts it has its workflow, this one included.
                    Err(JournalError::UnknownWorkflow { .. }) => return Ok(()),
                    created => return created,
                }
            }
        };
        if !self.journals.is_parent(started.parent.as_ref(), child.parent()).await? {
            // Its id belongs to another run.
            return Ok(());
        }
        match self.journals.append_to_current(child_id, &entry, Some(&id), None).await {
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

    /// Starts a child together with the request to cancel it.
    async fn create_cancelled(
        self: &Arc<Self>,
        child: &Child,
        request: &Entry,
        id: &EventId,
    ) -> Result<(), JournalError> {
        let codec = self.journals.codec(child.started.workflow.as_str())?;
        let encoded = codec.encode(request.clone(), self.clock.now(), Metadata::empty())?;
        self.create_child(child, vec![encoded.event.with_id(id.clone())]).await
    }
}
