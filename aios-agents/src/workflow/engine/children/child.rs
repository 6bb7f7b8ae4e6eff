//! The start of a child, and the report of its end to its parent.
//!
//! Both are idempotent, because each may be repeated after a crash by another engine. A child is
//! recognised by what its first event says about its parent, workflow and input, and not by its id. The
//! end is appended to the journal of the parent under an id that derives from the parent and the
//! operation.
//!
//! The report has two ways. The engine that ends the child appends it (`report_child`). If that engine
//! dies in between, the parent finds the end when it checks the child again (`start_child`, every
//! `child_poll_interval`).

use std::sync::Arc;

use aios_core::{
    Chain,
    catalog::codes,
    event::{Event, EventId, Metadata},
    failure::Failure,
    store::{RecordedEvent, RunStatus, StoreError},
};
use serde_json::json;
use tracing::warn;

use crate::workflow::{
    engine::{Engine, Message, RunOutcome, driver::too_large},
    journal::{ChildEnded, ChildStarted, Entry, JournalError, Parent, Started, is_same},
    machine::Outcome,
    run_id::InvalidRunId,
};

/// A child, from the journal of its parent.
pub(crate) struct Child {
    /// The run and operation that started it.
    pub(crate) parent: Parent,
    /// Its id, workflow and input.
    pub(crate) started: Arc<ChildStarted>,
    /// The metadata of its first event.
    pub(crate) metadata: Arc<Metadata>,
}

impl Engine {
    /// Starts a child, or checks whether a child that was started before has ended. Returns whether the
    /// child exists or never will.
    ///
    /// Called for each `StartChild` effect: when the start is recorded, after each load of the parent,
    /// and every `child_poll_interval`. An error that may pass is only logged, because the next call
    /// tries again.
    pub(crate) async fn start_child(self: Arc<Self>, child: Child) -> bool {
        let outcome = match self.child_outcome(&child).await {
            Ok(None) => return true,
            Ok(Some(outcome)) => outcome,
            Err(error) if error.is_retryable() => {
                warn!(error = %Chain(&error), run = %child.parent.run_id, "could not start a child; trying again later");
                return false;
            }
            // It exists, and is blocked until its journal is repaired.
            Err(error) if error.is_unreadable() => {
                warn!(error = %Chain(&error), run = %child.parent.run_id, "can't read the journal of a child; checking it again later");
                return true;
            }
            Err(error) => Err(child_failure(&error)),
        };
        self.report_child(&child.parent, outcome).await;
        true
    }

    /// The outcome of a child; `None` while it runs. Starts the child if it does not exist.
    ///
    /// | the run with this id | then |
    /// |---|---|
    /// | does not exist | it is started |
    /// | is this child | its outcome, or that of the run that it continued as |
    /// | is another run | the operation fails with `RUN_EXISTS` |
    async fn child_outcome(
        self: &Arc<Self>,
        child: &Child,
    ) -> Result<Option<Outcome>, JournalError> {
        let run_id: Arc<str> = (*child.started.run_id).into();
        // A start that fails because the run exists leads to one more look at it.
        let mut tried = false;
        loop {
            match self.journals.started(&run_id).await? {
                Some(found) if self.is_child(&found, child).await? => {
                    return self.journals.outcome_of(Arc::clone(&run_id)).await;
                }
                // Not this parent's child: a child of another parent, a run without a parent, an
                // ancestor, or the parent itself.
                Some(_) => return Err(JournalError::Exists { run_id: run_id.to_string() }),
                None if tried => return Err(JournalError::Exists { run_id: run_id.to_string() }),
                None => {}
            }
            tried = true;
            match self.create_child(child, Vec::new()).await {
                Ok(()) => return Ok(None),
                // Perhaps an earlier attempt started it, and the store's answer was lost.
                Err(JournalError::Exists { .. }) => {}
                Err(JournalError::Store(error)) if !error.is_retryable() => {
                    return Ok(Some(Err(start_refused(&error))));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Appends the start of a child together with other first events, and activates it.
    pub(super) async fn create_child(
        self: &Arc<Self>,
        child: &Child,
        others: Vec<Event>,
    ) -> Result<(), JournalError> {
        let run_id: Arc<str> = (*child.started.run_id).into();
        let mut started = Started::default();
        started.input = child.started.input.clone();
        started.parent = Some(child.parent.clone());
        let workflow = child.started.workflow.as_str();
        // Before the append: see `Starts::is_overtaken`.
        let starting = self.starting(&run_id);
        let metadata = Arc::clone(&child.metadata);
        let first = self.start_run(&run_id, workflow, started, others, metadata).await?;
        starting.activate_new(first);
        Ok(())
    }

    /// Appends the start of a run of the newest version, and the other first events of its journal.
    ///
    /// The version is that of this process: the parent does not choose it. If only other engines have the
    /// workflow, it is theirs, and one of them advances the run.
    pub(crate) async fn start_run(
        &self,
        run_id: &str,
        workflow: &str,
        mut started: Started,
        others: Vec<Event>,
        metadata: Arc<Metadata>,
    ) -> Result<Vec<RecordedEvent>, JournalError> {
        let unknown = || JournalError::UnknownWorkflow {
            workflow: workflow.to_owned(),
            registered: self.journals.registry.names(),
        };
        // A run keeps the version that it begins with.
        started.version = self.newest_version(workflow).await?.ok_or_else(unknown)?;
        self.journals.start(run_id, workflow, started, others, (*metadata).clone()).await
    }

    /// Appends the end of a child to its parent's journal, once.
    ///
    /// An outcome that the journal can't hold is replaced by a failure. A parent whose journal can't be read
    /// is blocked, and checks the child when it continues. Another permanent error of the store stops the
    /// engine, because the parent would wait without end.
    pub(crate) async fn report_child(self: &Arc<Self>, parent: &Parent, outcome: Outcome) {
        let Parent { run_id, operation, .. } = parent;
        let ended = |outcome: Outcome| {
            let (result, failure) = match outcome {
                Ok(result) => (Some(result), None),
                Err(failure) => (None, Some(failure)),
            };
            Entry::ChildEnded(ChildEnded::new(*operation, result, failure))
        };
        let mut reported = self.append_to_parent(parent, ended(outcome)).await;
        if let Err(error) = &reported
            && !error.is_retryable()
            && !error.is_unreadable()
        {
            let failure = match error {
                // The end of the child was slightly smaller.
                JournalError::Store(StoreError::TooLarge { bytes, limit, .. }) => {
                    too_large("the end of the child", *bytes, *limit)
                }
                error => error.failure(),
            };
            reported = self.append_to_parent(parent, ended(Err(failure))).await;
        }
        match reported {
            Ok(()) => self.send(&run_id.as_str().into(), Message::Wake),
            Err(error) if error.is_retryable() => {
                warn!(error = %Chain(&error), run = %run_id, "could not report the end of a child; its parent checks it later");
            }
            Err(error) if error.is_unreadable() => {
                warn!(error = %Chain(&error), run = %run_id, "can't read the journal of a run whose child has ended; it checks the child when it continues");
            }
            // The parent would check the child and fail in the same way without end.
            Err(error) => self.fail("report the end of a child", &error.failure()),
        }
    }

    /// Appends an entry to the journal of a parent. Does nothing if the parent has ended or its id
    /// belongs to a later run.
    ///
    /// The incarnation decides: a later run that uses the id of the parent does not wait for this
    /// child.
    async fn append_to_parent(&self, parent: &Parent, entry: Entry) -> Result<(), JournalError> {
        let Parent { run_id, operation, .. } = parent;
        let Some(first) = self.journals.first(run_id).await? else { return Ok(()) };
        let incarnation = first.event.id;
        let found = Parent::new(run_id.clone(), Some(incarnation.clone()), *operation);
        if !self.journals.is_parent(Some(parent), &found).await? {
            return Ok(());
        }
        let id = EventId::derive_from(&incarnation, &format!("{operation}/child_ended"));
        match self.journals.append(run_id, entry, Some(id)).await {
            Err(JournalError::Ended { .. }) => Ok(()),
            result => result,
        }
    }

    /// Whether a run is the child that an operation of its parent started.
    ///
    /// The input is compared by value: a parent that was replayed by other code, or in another version
    /// of a language, may write the same value differently.
    async fn is_child(
        &self,
        (workflow, started, _): &(String, Started, EventId),
        child: &Child,
    ) -> Result<bool, JournalError> {
        Ok(*workflow == *child.started.workflow.as_str()
            && started.predecessor.is_none()
            && is_same(&started.input, &child.started.input)
            && self.journals.is_parent(started.parent.as_ref(), &child.parent).await?)
    }
}

/// The failure with which the operation ends if its child can't be started.
fn child_failure(error: &JournalError) -> Failure {
    match error {
        JournalError::UnknownWorkflow { .. } => {
            Failure::new(codes::WORKFLOW_NOT_FOUND, error.to_string())
        }
        JournalError::Exists { run_id } => Failure::new(
            codes::RUN_EXISTS,
            format!("run {run_id} already exists and was not started by this operation"),
        ),
        JournalError::InvalidId(error) => Failure::new(InvalidRunId::CODE, error.to_string()),
        JournalError::Store(_) => error.failure(),
        error => Failure::from_error(codes::INVALID_CHILD, error),
    }
}

/// The failure with which the operation ends if the store refuses the start of its child for good. The
/// codes of the store do not tell that the child has never run, so the details do.
fn start_refused(error: &StoreError) -> Failure {
    Failure::from_error(error.code(), error).with_details(json!({ "is_started": false }))
}

impl RunOutcome {
    /// The outcome as the parent sees it: anything but a completed run is a failure.
    pub(crate) fn into_outcome(self) -> Outcome {
        match (self.status, self.result, self.failure) {
            (RunStatus::Completed, result, _) => Ok(result.unwrap_or_default()),
            (_, _, Some(failure)) => Err(failure),
            (status, ..) => Err(Failure::new(codes::CHILD_ENDED, format!("the child is {status}"))),
        }
    }
}
