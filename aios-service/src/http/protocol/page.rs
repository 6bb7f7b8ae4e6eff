//! Pages of lists.
//!
//! A cursor names the list, the last row of the page, and the digest of both with the filters of the list:
//! another list, other filters, or a cursor that was cut off would skip rows or repeat them.

use std::convert::Infallible;

use aios_core::{
    catalog::codes,
    store::{Page, PageRequest, StoreError},
};
use axum::{
    extract::{FromRequestParts, Query},
    http::request::Parts,
    response::Response,
};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::{digest::digest, envelope::Resource, parts};
use crate::http::{ApiError, state::Api};

/// Rows of a page unless the request says otherwise.
pub(crate) const DEFAULT_LIMIT: usize = 50;
/// Maximum number of rows of a page.
pub(crate) const MAX_LIMIT: usize = 1000;

/// Checks the number of rows that a request asks for.
pub(crate) fn limit(limit: Option<usize>) -> Result<usize, ApiError> {
    match limit.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        limit => {
            let message = format!("`limit` is 1 to {MAX_LIMIT}, not {limit}");
            Err(ApiError::new(codes::MALFORMED_REQUEST, message))
        }
    }
}

/// Ends the name of a list in the order of time.
const BY_TIME: &str = "-by-time";
/// Length of the digest in a cursor.
const DIGEST: usize = 16;

/// The subject of a list: the path, and the parameters of the query in the order of their names, without those
/// that choose a page.
#[derive(Debug, Default)]
pub(crate) struct Filters(Vec<String>);

impl FromRequestParts<Api> for Filters {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Infallible> {
        let query = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        let mut parameters = query.map(|query| query.0).unwrap_or_default();
        parameters.retain(|(name, _)| !["limit", "after"].contains(&name.as_str()));
        parameters.sort();
        let path = percent_decode_str(parts.uri.path()).decode_utf8_lossy().into_owned();
        let rest = parameters.into_iter().flat_map(|(name, value)| [name, value]);
        Ok(Self(std::iter::once(path).chain(rest).collect()))
    }
}

/// A list in one of its orders.
#[derive(Debug)]
pub(crate) struct List {
    /// Name of the list, with its order.
    name: String,
    /// Whether it is in the order of time.
    is_by_time: bool,
    /// The subject of the list.
    filters: Filters,
}

impl List {
    /// A list in the order of ids.
    pub(crate) fn new(name: &str, filters: Filters) -> Self {
        Self { name: name.to_owned(), is_by_time: false, filters }
    }

    /// The list in the order of time, if it is so.
    pub(crate) fn by_time(mut self, is_by_time: bool) -> Self {
        if is_by_time {
            self.name.push_str(BY_TIME);
        }
        Self { is_by_time, ..self }
    }

    /// Reads the page that a request asks for.
    pub(crate) fn request(
        &self,
        asked: Option<usize>,
        after: Option<&str>,
    ) -> Result<PageRequest, ApiError> {
        Ok(PageRequest { limit: limit(asked)?, after: after.map(|it| self.read(it)).transpose()? })
    }

    /// Reads the row of a cursor. The cursor has to be what this list would write for that row,
    /// which covers the digest.
    fn read(&self, cursor: &str) -> Result<String, ApiError> {
        let escaped = cursor
            .strip_prefix(&self.name)
            .and_then(|rest| rest.strip_prefix('.')?.get(DIGEST..)?.strip_prefix('.'));
        let row = escaped.and_then(unescape).filter(|row| self.write(row) == cursor);
        row.filter(|row| !self.is_by_time || has_time(row)).ok_or_else(invalid_cursor)
    }

    /// The cursor after a row.
    fn write(&self, row: &str) -> String {
        let filters = self.filters.0.iter().map(String::as_bytes);
        let parts: Vec<_> =
            [self.name.as_bytes(), row.as_bytes()].into_iter().chain(filters).collect();
        let mut cursor = digest(&parts);
        cursor.truncate(DIGEST);
        cursor = format!("{}.{cursor}.", self.name);
        for character in row.chars() {
            match character {
                'A'..='Z' | 'a'..='z' | '0'..='9' | '-' => cursor.push(character),
                other => cursor.push_str(&format!("_{:x}_", u32::from(other))),
            }
        }
        cursor
    }

    /// Answers with a page of rows that `read` reads. It ends early if its resources are large.
    pub(crate) async fn respond<R, A, F>(
        &self,
        api: &Api,
        request: PageRequest,
        resource: impl Fn(R) -> Resource<A>,
        read: impl FnMut(PageRequest) -> F,
    ) -> Result<Response, ApiError>
    where
        A: Serialize,
        F: Future<Output = Result<Page<R>, StoreError>>,
    {
        let page = parts::page(request, resource, read).await?;
        Ok(self.answer(api, page, |resource| resource))
    }

    /// Answers with a page of rows.
    pub(crate) fn answer<R, A: Serialize>(
        &self,
        api: &Api,
        page: Page<R>,
        resource: impl Fn(R) -> Resource<A>,
    ) -> Response {
        let next = page.next.and_then(|next| next.after).map(|row| self.write(&row));
        let unreadable = page.unreadable.into_iter().map(|row| row.id).collect();
        api.listing(page.rows.into_iter().map(resource).collect(), next, unreadable)
    }
}

/// The error for a cursor that is not one of the list.
pub(crate) fn invalid_cursor() -> ApiError {
    let message =
        "`after` must be the `meta.next` of an earlier page of this list, with the same filters";
    ApiError::new(codes::INVALID_CURSOR, message)
}

/// Whether the text is the key of a row in a list by time: microseconds, `/` and an id.
fn has_time(row: &str) -> bool {
    let Some((micros, id)) = row.split_once('/') else { return false };
    let digits = micros.strip_prefix('-').unwrap_or(micros);
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number && (1..=18).contains(&digits.len()) && !id.is_empty()
}

/// The regular expression of the cursors of a list: the name of the list, a digest and an id, in which
/// other characters than letters, digits and `-` are written as their numbers between underscores.
pub(crate) fn pattern(list: &str) -> String {
    let number =
        "[1-9a-f][0-9a-f]{0,2}|[1-9abcef][0-9a-f]{3}|d[0-7][0-9a-f]{2}|[1-9a-f][0-9a-f]{4}";
    let character = format!("([A-Za-z0-9-]|_({number}|10[0-9a-f]{{4}})_)");
    let digest = format!("[0-9a-f]{{{DIGEST}}}");
    match list {
        "runs" | "tasks" => {
            format!(r"^{list}({BY_TIME}\.{digest}\.-?[0-9]{{1,18}}_2f_|\.{digest}\.){character}+$")
        }
        list => format!(r"^{list}\.{digest}\.{character}+$"),
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

/// The character with a number, in the only form that cursors have: lower-case, without zeros
/// before it.
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
        ApiError::new(codes::MALFORMED_REQUEST, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(texts: &[&str]) -> Filters {
        Filters(texts.iter().map(ToString::to_string).collect())
    }

    fn list(name: &str) -> List {
        List::new(name, filters(&["/runs", "workflow", "welcome"]))
    }

    fn code(list: &List, cursor: &str) -> std::borrow::Cow<'static, str> {
        list.read(cursor).unwrap_err().code
    }

    #[test]
    fn should_read_only_its_own_cursors() {
        let runs = list("runs");
        for id in ["r\n1", "a~r2", "a_b_", "ü/\u{10ffff}", "01-AZ"] {
            assert_eq!(runs.read(&runs.write(id)).unwrap(), id);
        }
        let by_time = list("runs").by_time(true);
        for row in ["1700000000/r1", "-1/a/b"] {
            assert_eq!(by_time.read(&by_time.write(row)).unwrap(), row);
        }
        for row in ["r1", "1/", "a/b", "/r1"] {
            assert_eq!(code(&by_time, &by_time.write(row)), "INVALID_CURSOR", "{row}");
        }
        assert_eq!(code(&by_time, &runs.write("1/r1")), "INVALID_CURSOR");
        assert_eq!(code(&runs, &by_time.write("1/r1")), "INVALID_CURSOR");
        assert_eq!(code(&list("tasks"), &runs.write("r1")), "INVALID_CURSOR");
        let cursor = runs.write("r\n1");
        let digest = &cursor["runs.".len()..][..DIGEST];
        assert_eq!(cursor, format!("runs.{digest}.r_a_1"));
        for id in ["", "_", "__", "_+1_", "_0a_", "_d800_", "a b", "r_A_1", "r_a_2", "r_a_", "r"] {
            assert_eq!(code(&runs, &format!("runs.{digest}.{id}")), "INVALID_CURSOR", "{id}");
        }
        for cursor in ["", "%%", "AA", "runs", "runs.", "runs.r1", "runs.ü.r1"] {
            assert_eq!(code(&runs, cursor), "INVALID_CURSOR", "{cursor}");
        }
    }

    #[test]
    fn should_read_no_cursor_of_other_filters_and_none_that_is_cut_off() {
        let cursor = list("runs").write("order-17");
        for others in [
            &["/runs"][..],
            &["/runs", "workflow", "other"],
            &["/runs", "workflow", "welcome", "status", "running"],
            &["/agents/a/runs", "workflow", "welcome"],
        ] {
            let other = List::new("runs", filters(others));
            assert_eq!(code(&other, &cursor), "INVALID_CURSOR", "{others:?}");
        }
        for length in 0..cursor.len() {
            let cut = &cursor[..length];
            assert_eq!(code(&list("runs"), cut), "INVALID_CURSOR", "{cut}");
        }
    }

    #[test]
    fn should_describe_its_cursors() {
        let describes = |list: &List, row: &str| {
            let schema =
                serde_json::json!({ "pattern": pattern(list.name.trim_end_matches(BY_TIME)) });
            let validator = jsonschema::validator_for(&schema).unwrap();
            validator.is_valid(&list.write(row).into())
        };
        for id in ["r\n1", "a~r2", "ü/\u{10ffff}"] {
            assert!(describes(&list("runs"), id) && describes(&list("agents"), id), "{id:?}");
        }
        assert!(describes(&list("runs").by_time(true), "-17/r1"));
    }

    #[test]
    fn should_take_limits_from_1_to_1000() {
        assert!(limit(Some(0)).is_err() && limit(Some(1001)).is_err());
        assert_eq!((limit(None).unwrap(), limit(Some(1000)).unwrap()), (50, 1000));
    }
}
