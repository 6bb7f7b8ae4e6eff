//! Pages of lists.

use aios_core::store::{Page, PageRequest};
use axum::response::Response;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;

use super::{ApiError, envelope::Resource, state::Api};

/// Rows of a page unless the request says otherwise.
pub(crate) const DEFAULT_LIMIT: usize = 50;
/// Most rows of a page.
pub(crate) const MAX_LIMIT: usize = 1000;

/// Checks the number of rows that a request asks for.
pub(crate) fn limit(limit: Option<usize>) -> Result<usize, ApiError> {
    match limit.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        limit => {
            let message = format!("`limit` is 1 to {MAX_LIMIT}, not {limit}");
            Err(ApiError::new("MALFORMED_REQUEST", message))
        }
    }
}

/// Reads the page that a request asks for. A cursor belongs to the list that returned it.
pub(crate) fn request(
    list: &str,
    asked: Option<usize>,
    after: Option<&str>,
) -> Result<PageRequest, ApiError> {
    Ok(PageRequest { limit: limit(asked)?, after: after.map(|it| read(list, it)).transpose()? })
}

fn read(list: &str, cursor: &str) -> Result<String, ApiError> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let id = text.as_deref().and_then(|text| text.strip_prefix(list)?.strip_prefix('\n'));
    id.map(ToOwned::to_owned).ok_or_else(|| {
        let message = "`after` must be the `meta.next` of an earlier page of this list";
        ApiError::new("INVALID_CURSOR", message)
    })
}

fn write(list: &str, id: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{list}\n{id}"))
}

/// Answers with a page of rows.
pub(crate) fn answer<R, A: Serialize>(
    api: &Api,
    list: &str,
    page: Page<R>,
    resource: impl Fn(R) -> Resource<A>,
) -> Response {
    let next = page.next.and_then(|next| next.after).map(|id| write(list, &id));
    let unreadable = page.unreadable.into_iter().map(|row| row.id).collect();
    api.listing(page.rows.into_iter().map(resource).collect(), next, unreadable)
}

/// Reads a status.
pub(crate) fn status<S>(
    text: &str,
    parse: impl Fn(&str) -> Option<S>,
    all: impl Iterator<Item = &'static str>,
) -> Result<S, ApiError> {
    parse(text).ok_or_else(|| {
        let text: String = text.chars().take(50).collect();
        let all: Vec<_> = all.collect();
        let message = format!("{text:?} is not a status; these are: {}", all.join(", "));
        ApiError::new("MALFORMED_REQUEST", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_read_only_its_own_cursors() {
        let cursor = write("runs", "r\n1");
        assert_eq!(read("runs", &cursor).unwrap(), "r\n1");
        for (list, cursor) in
            [("tasks", cursor.as_str()), ("runs", ""), ("runs", "%%"), ("runs", "AA")]
        {
            assert_eq!(read(list, cursor).unwrap_err().code, "INVALID_CURSOR", "{cursor}");
        }
    }

    #[test]
    fn should_take_limits_from_1_to_1000() {
        assert!(limit(Some(0)).is_err() && limit(Some(1001)).is_err());
        assert_eq!((limit(None).unwrap(), limit(Some(1000)).unwrap()), (50, 1000));
    }
}
