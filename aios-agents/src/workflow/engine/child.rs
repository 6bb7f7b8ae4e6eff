use std::sync::Arc;

use aios_core::{
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
            Err(error) => {
                return warn!(%error, run = %parent, "could not start a child; trying again later");
            }
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
        match self.journals.ended(&run_id).await {
            // The run that a child continued as has the same parent.
            Ok(Some(ended)) if ended.status == RunStatus::Continued => return Ok(None),
            Ok(Some(ended)) if ended.status.is_final() => return Ok(Some(ended.into_outcome())),
            Ok(_) => return Ok(None),
            Err(JournalError::UnknownRun { .. }) => {}
            Err(error) => return Err(error),
        }
        let parent = Some(Parent { run_id: parent.to_string(), operation: child.operation });
        let workflow = child.workflow.as_str();
        match self.start_run(&run_id, workflow, child.input.clone(), parent, metadata).await {
            Ok(()) | Err(JournalError::Exists { .. }) => Ok(None),
            Err(error) => Err(error),
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
            Ok(()) => self.tell(parent, Message::Nudge).await,
            Err(error) => {
                warn!(%error, run = %parent, "could not report a child; its parent looks for it");
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
