//! The encoding of rows that the stores share.
//!
//! The stores keep ids as UUIDs: an id that is a UUID is its own key, and any other text has the
//! UUIDv5 of the text as its key and the text itself in the column `external_id`. All three stores
//! order rows by that key, so a page of one store begins and ends at the same rows as a page of
//! another.
//!
//! A page is read with one row more than it has. That row is not returned; it only tells whether
//! there is a next page.

#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod event;
mod metadata;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod partial;

use aios_core::{
    event::{EventId, Timestamp},
    projection::{Change, Query, Record, Row},
    store::{Page, PageRequest, StoreError},
};
use uuid::Uuid;

pub(crate) use self::metadata::encode_metadata;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use self::{
    event::{Previous, StoredEvent},
    metadata::decode_metadata,
    partial::{PartialIndex, any_status, is_among},
};

/// The key of a row, and the text of the id if it is not a UUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// The primary key.
    pub(crate) uuid: Uuid,
    /// `None` if the id is a UUID, which is then written from the key again.
    pub(crate) external_id: Option<String>,
}

impl Key {
    /// Returns the key of an id, or `None` if the text is not a valid id. No row has an invalid id.
    pub(crate) fn of(id: &str) -> Option<Self> {
        let id: EventId = id.parse().ok()?;
        Some(Self { uuid: id.key(), external_id: id.foreign().map(ToOwned::to_owned) })
    }

    /// Returns the key of a changed row, or `None` if the event names an invalid id. Such a change is
    /// ignored.
    pub(crate) fn of_change(change: &Change) -> Option<Self> {
        Self::of(&change.id)
    }
}

/// The row after which the page of a query begins: when it was created, if the rows are ordered by that,
/// and its key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) key: Uuid,
}

/// Returns the row after which the page of a query begins, or `None` for the first page.
///
/// # Errors
///
/// [`StoreError::InvalidConfiguration`] if the start is not from an earlier page of the same list.
pub(crate) fn page_start(query: &Query) -> Result<Option<Start>, StoreError> {
    let Some(start) = query.start().map_err(no_start)? else { return Ok(None) };
    let key = Key::of(start.id).ok_or_else(|| no_start(start.id))?;
    Ok(Some(Start { created_at: start.created_at, key: key.uuid }))
}

/// Returns the key after which a page begins, or `None` for the first page.
///
/// # Errors
///
/// The same as [`page_start`].
pub(crate) fn key_after(page: &PageRequest) -> Result<Option<Uuid>, StoreError> {
    let Some(after) = &page.after else { return Ok(None) };
    Ok(Some(Key::of(after).ok_or_else(|| no_start(after))?.uuid))
}

/// The error for a page request that no earlier page returned, such as one that a client invented.
fn no_start(after: &str) -> StoreError {
    StoreError::InvalidConfiguration {
        reason: format!(
            "a page cannot begin after {after:?}, which is not from an earlier page of this list"
        ),
    }
}

/// Makes a page of the ids that a query with `limit + 1` found. The next page begins after the last
/// id that is returned.
pub(crate) fn ids_page(mut ids: Vec<String>, limit: usize) -> Page<String> {
    let is_last = ids.len() <= limit;
    ids.truncate(limit);
    let after = ids.last().filter(|_| !is_last).cloned();
    let next = after.map(|after| PageRequest { after: Some(after), limit });
    Page { rows: ids, next, unreadable: Vec::new() }
}

/// Makes a page of the rows that a query with `limit + 1` found.
///
/// A row of a list that can't be read is named in `unreadable`, so that one damaged row does not
/// hide all others.
///
/// # Errors
///
/// [`StoreError::InvalidRow`] if the query asks for one row and that row can't be read.
pub(crate) fn page<R: Record>(
    rows: Vec<Row>,
    query: &Query,
    database: &str,
) -> Result<Page<R>, StoreError> {
    R::page(rows, query).map_err(|column| StoreError::InvalidRow {
        database: database.to_owned(),
        reason: format!("invalid value in {}.{column}", R::TABLE.name()),
    })
}
