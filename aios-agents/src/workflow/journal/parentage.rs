//! Which run is the parent of another one.
//!
//! An id is not enough: retention may have removed the parent, and a later run may use its id. So a
//! child names the incarnation of its parent as well, the id of the event that started it.

use super::{JournalError, Journals, Parent};

impl Journals {
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
