//! Which run is the parent of another one, and how a child ended.
//!
//! An id is not enough: retention may have removed the parent, and a later run may use its id. So a
//! child names the incarnation of its parent as well, the id of the event that started it.

use std::sync::Arc;

use aios_core::{event::Payload, store::RunStatus};

use super::{ChildStarted, JournalError, Journals, Parent};
use crate::workflow::machine::Outcome;

impl Journals {
    /// The result of a child; `None` if it has not succeeded, or its id belongs to another run.
    pub(crate) async fn result_of_child(
        &self,
        child: &ChildStarted,
        parent: &Parent,
    ) -> Result<Option<Payload>, JournalError> {
        let Some((_, started, _)) = self.started(&child.run_id).await? else { return Ok(None) };
        if !self.is_parent(started.parent.as_ref(), parent).await? {
            return Ok(None);
        }
        match self.outcome_of((*child.run_id).into()).await {
            Ok(outcome) => Ok(outcome.and_then(Result::ok)),
            Err(JournalError::UnknownRun { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The outcome of a run, or of the last run that it continued as; `None` while that one runs.
    ///
    /// A run that has continued and whose successor is not known yet counts as running.
    pub(crate) async fn outcome_of(
        &self,
        run_id: Arc<str>,
    ) -> Result<Option<Outcome>, JournalError> {
        let mut run_id = run_id;
        loop {
            let Some(ended) = self.ended(&run_id).await? else { return Ok(None) };
            match ended.continued_as {
                Some(next) => run_id = next,
                None if ended.status == RunStatus::Continued => return Ok(None),
                None if ended.status.is_final() => return Ok(Some(ended.into_outcome())),
                None => return Ok(None),
            }
        }
    }

    /// Whether the parent recorded in the start of a run, `named`, is the run that `parent` names.
    ///
    /// Runs of earlier versions, whose events did not name their run, do not record the incarnation of
    /// their parent. Their parent is then a run of an earlier version too, not a later run with the same
    /// id.
    pub(crate) async fn is_parent(
        &self,
        named: Option<&Parent>,
        parent: &Parent,
    ) -> Result<bool, JournalError> {
        match named {
            Some(named) if named.incarnation.is_some() => Ok(named == parent),
            Some(named)
                if (&named.run_id, named.operation) == (&parent.run_id, parent.operation) =>
            {
                let first = self.first(&parent.run_id).await?;
                Ok(first.is_some_and(|first| first.event.metadata.run_id.is_none()))
            }
            _ => Ok(false),
        }
    }
}
