use super::{JournalError, Journals, Parent};

impl Journals {
    /// Whether what the start of a run says of its parent means the run that `parent` names.
    ///
    /// Runs from before events named their run say nothing of their parent's incarnation. Their parent
    /// is a run from then, not one that uses its id again.
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
