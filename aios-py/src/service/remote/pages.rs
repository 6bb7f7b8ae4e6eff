//! Pages of a service, which has a limit of items in each.
//!
//! A client of a store returns as many rows as are asked for, up to the limit of a store. To return
//! the same from a service, pages are requested until there are enough items.

use aios_service::client::{ClientError, Page, PageQuery};

/// Maximum number of items that the service returns in one page.
pub(super) const PAGE: usize = 1000;

/// Pages until there are `limit` items, as `[rows, next]`.
pub(super) async fn collect<T, F>(
    limit: usize,
    mut after: Option<String>,
    fetch: impl Fn(PageQuery) -> F,
) -> Result<(Vec<T>, Option<String>), ClientError>
where
    F: Future<Output = Result<Page<T>, ClientError>>,
{
    let mut items = Vec::new();
    loop {
        let mut query = PageQuery::new().with_limit((limit - items.len()).min(PAGE));
        if let Some(after) = after.take() {
            query = query.with_after(after);
        }
        let page = fetch(query).await?;
        items.extend(page.items);
        after = page.next;
        if after.is_none() || items.len() >= limit {
            return Ok((items, after));
        }
    }
}
