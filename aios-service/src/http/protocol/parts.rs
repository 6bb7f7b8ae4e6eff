//! Pages that end early because their resources are large.
//!
//! A resource can be as large as an event, 16 MiB by default, and a page has up to 1,000 resources: more
//! than clients read, and more than a process should hold for one request. A store counts rows, not bytes,
//! so rows are read in parts, which are larger only while the rows are small.

use aios_core::store::{Page, PageRequest, StoreError};
use serde::Serialize;

use super::envelope::Resource;

/// Maximum size in bytes of the resources of a page, unless the first resource alone is larger.
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// Rows of the first part: all of a page, unless the request asks for more than the default.
const FIRST_PART: usize = 50;
/// Maximum number of rows of a part.
const LARGEST_PART: usize = 100;

/// The room that a page has left.
#[derive(Debug)]
pub(crate) struct Room {
    /// Bytes of the resources so far.
    bytes: usize,
    /// Resources so far.
    count: usize,
    /// Maximum number of rows of the next part.
    part: usize,
}

impl Room {
    /// The room of an empty page.
    pub(crate) fn new() -> Self {
        Self { bytes: 0, count: 0, part: FIRST_PART }
    }

    /// The number of rows to read next, at least 1 and at most `wanted`.
    pub(crate) fn part(&self, wanted: usize) -> usize {
        self.part.min(wanted).max(1)
    }

    /// Takes resources of this size into the page. Returns false if there is no room for them; an
    /// empty page has room for one resource of any size.
    pub(crate) fn takes(&mut self, count: usize, bytes: usize) -> bool {
        let is_first = self.is_empty() && count <= 1;
        if !is_first && self.bytes.saturating_add(bytes) > MAX_BYTES {
            return false;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.count += count;
        true
    }

    /// Reads more rows at once if the rows of the last part were small, including rows that were left out.
    pub(crate) fn grow(&mut self, rows: usize, bytes: usize) {
        let mean = bytes.checked_div(rows).unwrap_or_default().max(1);
        let fitting = MAX_BYTES.saturating_sub(self.bytes) / mean;
        self.part = (4 * self.part).min(LARGEST_PART).min(fitting).max(1);
    }

    /// Reads only as many rows as fit, after a part for which an empty page had no room.
    fn shrink(&mut self, sizes: &[usize]) {
        let mut bytes = 0_usize;
        let fitting = sizes.iter().take_while(|size| {
            bytes = bytes.saturating_add(**size);
            bytes <= MAX_BYTES
        });
        self.part = fitting.count().max(1);
    }

    /// Whether nothing has been taken.
    fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Reads a page of a list in parts, and turns its rows into resources.
///
/// A store continues a list after the end of a part only. So a part for which there is no room is
/// left to the next page, or is read again with fewer rows if the page is empty.
pub(crate) async fn page<R, A, F>(
    request: PageRequest,
    resource: impl Fn(R) -> Resource<A>,
    mut read: impl FnMut(PageRequest) -> F,
) -> Result<Page<Resource<A>>, StoreError>
where
    A: Serialize,
    F: Future<Output = Result<Page<R>, StoreError>>,
{
    let PageRequest { after, limit } = request;
    let mut left = limit;
    let mut room = Room::new();
    let mut found =
        Page { rows: Vec::new(), next: Some(PageRequest { after, limit }), unreadable: Vec::new() };
    while left > 0
        && let Some(next) = &found.next
    {
        let part = room.part(left);
        let page = read(PageRequest { after: next.after.clone(), limit: part }).await?;
        let resources: Vec<_> = page.rows.into_iter().map(&resource).collect();
        let sizes: Vec<_> = resources.iter().map(bytes).collect();
        let (count, size) = (sizes.len(), sizes.iter().sum());
        if !room.takes(count, size) {
            if !room.is_empty() {
                break;
            }
            room.shrink(&sizes);
            continue;
        }
        room.grow(count, size);
        // The filters of a list may have left rows out.
        left = left.saturating_sub(count + page.unreadable.len());
        found.rows.extend(resources);
        found.unreadable.extend(page.unreadable);
        found.next = page.next;
    }
    Ok(found)
}

/// The bytes of a resource in an answer.
pub(crate) fn bytes<A: Serialize>(resource: &Resource<A>) -> usize {
    let mut count = Count(0);
    // What cannot be written fails when the answer is.
    let _ = serde_json::to_writer(&mut count, resource);
    count.0
}

/// Counts bytes.
struct Count(usize);

impl std::io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_take_one_resource_of_any_size_and_small_ones_up_to_the_limit() {
        let mut room = Room::new();
        assert!(!room.takes(2, MAX_BYTES + 1));
        assert!(room.takes(1, MAX_BYTES + 1));
        assert!(!room.takes(1, 1));
        let mut room = Room::new();
        assert!(room.takes(1, MAX_BYTES - 1) && room.takes(1, 1) && !room.takes(1, 1));
    }

    #[test]
    fn should_read_more_rows_at_once_while_they_are_small() {
        let mut room = Room::new();
        assert_eq!((room.part(1000), room.part(3)), (FIRST_PART, 3));
        room.grow(16, 16_000);
        assert_eq!(room.part(1000), LARGEST_PART);
        room.grow(4, MAX_BYTES / 2);
        assert_eq!(room.part(1000), 8);
        assert!(room.takes(1, MAX_BYTES));
        room.grow(1, MAX_BYTES);
        assert_eq!(room.part(1000), 1);
        room.shrink(&[MAX_BYTES - 1, 1, 1]);
        assert_eq!(room.part(1000), 2);
        room.shrink(&[MAX_BYTES + 1]);
        assert_eq!(room.part(1000), 1);
    }
}
