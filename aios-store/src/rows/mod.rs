//! What the rows of the SQL stores have in common.

#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod event;
mod metadata;

use aios_core::{
    event::EventId,
    projection::{Change, Query, Record, Row},
    store::{Page, PageRequest, StoreError},
};
use uuid::Uuid;

pub(crate) use self::metadata::encode_metadata;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use self::{event::StoredEvent, metadata::decode_metadata};

/// The key of a row, and the id's text where it is no UUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) uuid: Uuid,
    pub(crate) external_id: Option<String>,
}

impl Key {
    /// The key of an id; `None` if no id can be that text, so that no row has it.
    pub(crate) fn of(id: &str) -> Option<Self> {
        let id: EventId = id.parse().ok()?;
        Some(Self { uuid: id.key(), external_id: id.foreign().map(ToOwned::to_owned) })
    }

    /// The key of a changed row; `None` if the event named an impossible id, which changes nothing.
    pub(crate) fn of_change(change: &Change) -> Option<Self> {
        Self::of(&change.id)
    }
}

/// The key after which a page begins; `None` on the first.
pub(crate) fn page_start(query: &Query) -> Result<Option<Uuid>, StoreError> {
    key_after(&query.page)
}

/// As [`page_start`], of a page that no query asks for.
pub(crate) fn key_after(page: &PageRequest) -> Result<Option<Uuid>, StoreError> {
    let Some(after) = &page.after else { return Ok(None) };
    let key = Key::of(after).ok_or_else(|| StoreError::InvalidConfiguration {
        reason: format!("a page can't begin after {after:?}, which is no id"),
    })?;
    Ok(Some(key.uuid))
}

/// A page of ids, of which one more than its limit was read.
pub(crate) fn ids_page(mut ids: Vec<String>, limit: usize) -> Page<String> {
    let is_last = ids.len() <= limit;
    ids.truncate(limit);
    let after = ids.last().filter(|_| !is_last).cloned();
    let next = after.map(|after| PageRequest { after: Some(after), limit });
    Page { rows: ids, next, unreadable: Vec::new() }
}

/// Makes a page out of what a query with `limit + 1` found.
pub(crate) fn page<R: Record>(
    rows: Vec<Row>,
    query: &Query,
    database: &str,
) -> Result<Page<R>, StoreError> {
    R::page(rows, query).map_err(|column| StoreError::Corrupt {
        database: database.to_owned(),
        reason: format!("{}.{column} holds what it can't", R::TABLE.name()),
    })
}
