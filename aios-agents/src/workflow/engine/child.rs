use std::sync::Arc;

use aios_core::{
    Chain,
    event::{EventId, Metadata},
    failure::Failure,
    store::RunStatus,
};
use tracing::warn;

use super::{Ended, Engine, Message};
use crate::workflow::{
    journal::{ChildEnded, ChildStarted, Entry, JournalError, Parent, Started},
    machine::Outcome,
};

impl Engine {
    /// Appends the start of a run of the latest version, and lets it begin if this engine owns its
    /// shard.
    pub(crate) async fn start_run(
        self: &Arc<Self>,
        run_id: &Arc<str>,
        workflow: &str,
        input: aios_core::event::Payload,
        parent: Option<Parent>,
        metadata: Metadata,
    ) -> Result<(), JournalError> {
        let unknown = || JournalError::UnknownWorkflow { workflow: workflow.to_owned() };
        let registered = self.journals.registry.latest(workflow).ok_or_else(unknown)?;
        let version = registered.workflow.version();
        let started = Started { version, input, start_at: None, parent, forked_from: None };
        let first = self.journals.start(run_id, workflow, started, metadata).await?;
        self.begin(run_id, vec![first]);
        Ok(())
    }

    /// Starts a child, or looks whether one that was started has ended meanwhile.
    pub(super) async fn start_child(
        self: Arc<Self>,
        parent: Arc<str>,
        child: ChildStarted,
        metadata: Metadata,
    ) {
        let outcome = match self.child_outcome(&parent, &child, metadata).await {
            Ok(None) => return,
            Ok(Some(outcome)) => outcome,
            Err(error @ JournalError::UnknownWorkflow { .. }) => {
                Err(Failure::new("WORKFLOW_NOT_FOUND", error.to_string()))
            }
            Err(error) if error.is_retryable() => {
                return warn!(error = %Chain(&error), run = %parent, "could not start a child; trying again later");
            }
            Err(error) => Err(Failure::from_error("INVALID_CHILD", &error)),
        };
        self.report_child(&parent, child.operation, outcome).await;
    }

    /// The outcome of a child; `None` if it goes on. Starts it if it does not exist.
    async fn child_outcome(
        self: &Arc<Self>,
        parent: &Arc<str>,
        child: &ChildStarted,
        metadata: Metadata,
    ) -> Result<Option<Outcome>, JournalError> {
        let run_id: Arc<str> = (*child.run_id).into();
        match self.outcome_of(Arc::clone(&run_id)).await {
            Err(JournalError::UnknownRun { .. }) => {}
            known => return known,
        }
        let parent = Some(Parent { run_id: parent.to_string(), operation: child.operation });
        let workflow = child.workflow.as_str();
        match self.start_run(&run_id, workflow, child.input.clone(), parent, metadata).await {
            Ok(()) | Err(JournalError::Exists { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The outcome of a run, or of the last one that it continued as; `None` if that goes on.
    async fn outcome_of(&self, mut run_id: Arc<str>) -> Result<Option<Outcome>, JournalError> {
        loop {
            let Some(ended) = self.journals.ended(&run_id).await? else { return Ok(None) };
            match ended.continued_as {
                Some(next) => run_id = next,
                None if ended.status.is_final() => return Ok(Some(ended.into_outcome())),
                None => return Ok(None),
            }
        }
    }

    /// Appends the end of a child to its parent's journal, once.
    pub(super) async fn report_child(
        self: &Arc<Self>,
        parent: &Arc<str>,
        operation: u64,
        outcome: Outcome,
    ) {
        let (result, failure) = match outcome {
            Ok(result) => (Some(result), None),
            Err(failure) => (None, Some(failure)),
        };
        let ended = Entry::ChildEnded(ChildEnded { operation, result, failure });
        let id = EventId::derive(&format!("{parent}/{operation}/child_ended"));
        match self.journals.append(parent, ended, Some(id)).await {
            Ok(()) => self.tell(parent, Message::Nudge),
            Err(error) => {
                warn!(error = %Chain(&error), run = %parent, "could not report a child; its parent looks for it");
            }
        }
    }
}

impl Ended {
    pub(super) fn into_outcome(self) -> Outcome {
        match (self.status, self.result, self.failure) {
            (RunStatus::Completed, result, _) => Ok(result.unwrap_or_default()),
            (_, _, Some(failure)) => Err(failure),
            (status, ..) => Err(Failure::new("CHILD_ENDED", format!("the child is {status}"))),
        }
    }
}
