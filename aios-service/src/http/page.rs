//! Pages of lists.

use aios_core::store::{Page, PageRequest};
use axum::response::Response;
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

/// Ends the name of a list in the order of time.
const BY_TIME: &str = "-by-time";

/// A list in one of its orders. A cursor belongs to the list and the order that returned it.
#[derive(Debug)]
pub(crate) struct List {
    name: String,
    is_by_time: bool,
}

impl List {
    pub(crate) fn new(name: &str, is_by_time: bool) -> Self {
        let order = if is_by_time { BY_TIME } else { "" };
        Self { name: format!("{name}{order}"), is_by_time }
    }

    /// Reads the page that a request asks for.
    pub(crate) fn request(
        &self,
        asked: Option<usize>,
        after: Option<&str>,
    ) -> Result<PageRequest, ApiError> {
        Ok(PageRequest { limit: limit(asked)?, after: after.map(|it| self.read(it)).transpose()? })
    }

    fn read(&self, cursor: &str) -> Result<String, ApiError> {
        let escaped = cursor.strip_prefix(&self.name).and_then(|rest| rest.strip_prefix('.'));
        let row = escaped.and_then(unescape);
        row.filter(|row| !self.is_by_time || has_time(row)).ok_or_else(|| {
            let message = "`after` must be the `meta.next` of an earlier page of this list";
            ApiError::new("INVALID_CURSOR", message)
        })
    }

    /// Answers with a page of rows.
    pub(crate) fn answer<R, A: Serialize>(
        &self,
        api: &Api,
        page: Page<R>,
        resource: impl Fn(R) -> Resource<A>,
    ) -> Response {
        let next = page.next.and_then(|next| next.after).map(|row| write(&self.name, &row));
        let unreadable = page.unreadable.into_iter().map(|row| row.id).collect();
        api.listing(page.rows.into_iter().map(resource).collect(), next, unreadable)
    }
}

/// Reads the page of a list in the order of ids.
pub(crate) fn request(
    list: &str,
    asked: Option<usize>,
    after: Option<&str>,
) -> Result<PageRequest, ApiError> {
    List::new(list, false).request(asked, after)
}

/// Answers with a page of a list in the order of ids.
pub(crate) fn answer<R, A: Serialize>(
    api: &Api,
    list: &str,
    page: Page<R>,
    resource: impl Fn(R) -> Resource<A>,
) -> Response {
    List::new(list, false).answer(api, page, resource)
}

/// Whether a row of a list in the order of time is one: microseconds, `/` and an id.
fn has_time(row: &str) -> bool {
    let Some((micros, id)) = row.split_once('/') else { return false };
    let digits = micros.strip_prefix('-').unwrap_or(micros);
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number && (1..=18).contains(&digits.len()) && !id.is_empty()
}

fn write(list: &str, id: &str) -> String {
    let mut cursor = format!("{list}.");
    for character in id.chars() {
        match character {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '-' => cursor.push(character),
            other => cursor.push_str(&format!("_{:x}_", u32::from(other))),
        }
    }
    cursor
}

/// The regular expression of the cursors of a list: the name of the list and an id, in which other
/// characters than letters, digits and `-` are written as their numbers between underscores.
pub(crate) fn pattern(list: &str) -> String {
    let number =
        "[1-9a-f][0-9a-f]{0,2}|[1-9abcef][0-9a-f]{3}|d[0-7][0-9a-f]{2}|[1-9a-f][0-9a-f]{4}";
    let character = format!("([A-Za-z0-9-]|_({number}|10[0-9a-f]{{4}})_)");
    match list {
        "runs" | "tasks" => format!(r"^{list}({BY_TIME}\.-?[0-9]{{1,18}}_2f_|\.){character}+$"),
        list => format!(r"^{list}\.{character}+$"),
    }
}

/// Reads the id of a cursor; `None` if no cursor has it.
fn unescape(escaped: &str) -> Option<String> {
    let mut id = String::new();
    let mut rest = escaped;
    while let Some(first) = rest.chars().next() {
        rest = rest.get(first.len_utf8()..)?;
        match first {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '-' => id.push(first),
            '_' => {
                let (number, after) = rest.split_once('_')?;
                id.push(numbered(number)?);
                rest = after;
            }
            _ => return None,
        }
    }
    (!id.is_empty()).then_some(id)
}

fn numbered(number: &str) -> Option<char> {
    let is_number = number.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let value = u32::from_str_radix(number, 16).ok().filter(|_| is_number)?;
    char::from_u32(value).filter(|_| !number.starts_with('0'))
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

    fn read(list: &str, cursor: &str) -> Result<String, ApiError> {
        List::new(list, false).read(cursor)
    }

    #[test]
    fn should_read_only_its_own_cursors() {
        for id in ["r\n1", "a~r2", "a_b_", "ü/\u{10ffff}", "01-AZ"] {
            assert_eq!(read("runs", &write("runs", id)).unwrap(), id);
        }
        let by_time = List::new("runs", true);
        for row in ["1700000000/r1", "-1/a/b"] {
            assert_eq!(by_time.read(&write("runs-by-time", row)).unwrap(), row);
        }
        for cursor in ["runs.r1", "runs-by-time.r1", "runs-by-time.1_2f_", "runs-by-time.a_2f_b"] {
            assert_eq!(by_time.read(cursor).unwrap_err().code, "INVALID_CURSOR", "{cursor}");
        }
        let error = read("runs", &write("runs-by-time", "1/r1")).unwrap_err();
        assert_eq!(error.code, "INVALID_CURSOR");
        let cursor = write("runs", "r\n1");
        assert_eq!(cursor, "runs.r_a_1");
        for (list, cursor) in
            [("tasks", cursor.as_str()), ("runs", ""), ("runs", "%%"), ("runs", "AA")]
                .into_iter()
                .chain(
                    [
                        "runs.",
                        "runs._",
                        "runs.__",
                        "runs._+1_",
                        "runs._0a_",
                        "runs._d800_",
                        "runs.a b",
                    ]
                    .map(|cursor| ("runs", cursor)),
                )
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
