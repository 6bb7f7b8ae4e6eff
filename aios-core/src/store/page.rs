/// The page to read.
///
/// # Examples
///
/// Reads all pages of a listing:
///
/// ```
/// use aios_core::store::{PageRequest, ReadModels, RunFilter, StoreError};
///
/// async fn ids(store: &dyn ReadModels, workflow: &str) -> Result<Vec<String>, StoreError> {
///     let filter = RunFilter { workflow: Some(workflow.to_owned()), ..RunFilter::default() };
///     let mut request = PageRequest::first(500);
///     let mut ids = Vec::new();
///     loop {
///         let page = store.runs(&filter, &request).await?;
///         ids.extend(page.rows.into_iter().map(|run| run.id));
///         match page.next {
///             Some(next) => request = next,
///             None => return Ok(ids),
///         }
///     }
/// }
/// # let _ = ids;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Continues after this row; from the start if `None`. Pages are ordered by the key of the id, and
    /// this is the id of a row. Pages of a query that is [ordered by creation][order] continue after
    /// what [`Page::next`] has.
    ///
    /// [order]: crate::projection::Order::Created
    pub after: Option<String>,
    /// The maximum number of rows, 1 to [`MAX_PAGE`](super::MAX_PAGE).
    pub limit: usize,
}

impl PageRequest {
    /// The first page of at most `limit` rows.
    #[must_use]
    pub fn first(limit: usize) -> Self {
        Self { after: None, limit }
    }
}

impl Default for PageRequest {
    fn default() -> Self {
        Self::first(100)
    }
}

/// One page of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// The id after which the next page begins; `None` on the last one.
    pub next: Option<PageRequest>,
    /// Rows of this page that cannot be read. A query for a single row fails instead.
    pub unreadable: Vec<UnreadableRow>,
}

/// A row with a value that this version of aios cannot read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnreadableRow {
    /// Id of the row.
    pub id: String,
    /// The column with that value.
    pub column: &'static str,
}
