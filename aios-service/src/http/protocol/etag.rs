//! `ETag`, `If-Match` and `If-None-Match` (RFC 9110, section 13): changes of resources that others have not
//! changed since.

use aios_core::catalog::codes;
use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use ring::digest::{SHA256, digest};
use serde::Serialize;
use serde_json::json;

use crate::{auth::hex, http::ApiError};

/// Stands for any tag in a condition.
pub(crate) const ANY: &str = "*";
/// Bytes of a digest that are in a tag.
const TAG_BYTES: usize = 16;

/// The tag of a representation.
///
/// The first bytes of a SHA-256 of its JSON, in quotes.
pub(crate) fn of<T: Serialize>(representation: &T) -> String {
    let text = serde_json::to_vec(representation).unwrap_or_default();
    let digest = digest(&SHA256, &text);
    format!("\"{}\"", hex::encode(digest.as_ref().get(..TAG_BYTES).unwrap_or_default()))
}

/// The answer to a GET: the response with its tag, or 304 if the client has it already. The tag must be that
/// of the whole representation.
///
/// The response is made only if it is sent.
pub(crate) fn answer(
    headers: &HeaderMap,
    tag: &str,
    response: impl FnOnce() -> Response,
) -> Response {
    let response = match is_known(headers, tag) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => response(),
    };
    let mut response = with(response, tag);
    // A client may keep it, and asks each time whether it is still valid.
    let revalidated = HeaderValue::from_static("private, no-cache");
    response.headers_mut().insert(header::CACHE_CONTROL, revalidated);
    response
}

/// Whether `If-None-Match` has the tag, strong or weak, or `*`.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    none_match(headers).iter().any(|known| known == tag || known == ANY)
}

/// The tags in `If-None-Match`, weak ones as strong ones.
pub(crate) fn none_match(headers: &HeaderMap) -> Vec<String> {
    let known = tags(headers, &header::IF_NONE_MATCH).unwrap_or_default().into_iter();
    known.map(|tag| tag.strip_prefix("W/").map(str::to_owned).unwrap_or(tag)).collect()
}

/// Adds the tag for conditions of changes to a response. It may cover a part of the representation, which no
/// client may then keep.
pub(crate) fn with(mut response: Response, tag: &str) -> Response {
    if let Ok(tag) = HeaderValue::from_str(tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// The condition `If-Match`.
#[derive(Debug)]
pub(crate) struct IfMatch(Vec<String>);

impl IfMatch {
    /// Reads `If-Match`, which a PUT and a DELETE must have.
    pub(crate) fn required(headers: &HeaderMap) -> Result<Self, ApiError> {
        let message = "the request needs `If-Match` with the `ETag` of the resource, or `*`";
        let missing = || ApiError::new(codes::PRECONDITION_REQUIRED, message);
        tags(headers, &header::IF_MATCH).map(Self).ok_or_else(missing)
    }

    /// Reads `If-Match` of a GET or a HEAD, which need not have it.
    fn of(headers: &HeaderMap) -> Option<Self> {
        tags(headers, &header::IF_MATCH).map(Self)
    }

    /// Whether the resource may have any tag.
    pub(crate) fn is_any(&self) -> bool {
        self.0.iter().any(|tag| tag == ANY)
    }

    /// The tags that the resource may have, unless it may have any.
    pub(crate) fn tags(&self) -> &[String] {
        &self.0
    }

    /// Fails unless the tag of the resource is one of the condition's.
    pub(crate) fn check(&self, tag: &str) -> Result<(), ApiError> {
        if self.is_any() || self.0.iter().any(|expected| expected == tag) {
            return Ok(());
        }
        Err(failed("the resource has changed: its `ETag` is not in `If-Match`", Some(tag)))
    }

    /// The answer to a GET, unless its tag is not one of the condition's. One without a tag fulfils only
    /// `*`. An error stays.
    pub(crate) fn apply(&self, response: Response) -> Response {
        let status = response.status();
        if !status.is_success() && status != StatusCode::NOT_MODIFIED {
            return response;
        }
        let tag = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok());
        let checked = match tag {
            Some(tag) => self.check(tag),
            None if self.is_any() => Ok(()),
            None => {
                Err(failed("the resource has no `ETag`, so only `*` can be in `If-Match`", None))
            }
        };
        match checked {
            Ok(()) => response,
            Err(error) => error.into_response(),
        }
    }
}

/// Fails if a POST has a condition: none of the resources that it creates or acts on has a tag there.
pub(crate) fn check_method(request: &Request) -> Result<(), ApiError> {
    let conditions = [header::IF_MATCH, header::IF_NONE_MATCH];
    let mut given = conditions.iter().filter(|name| request.headers().contains_key(*name));
    match given.next().filter(|_| request.method() == Method::POST) {
        Some(name) => {
            let message = format!("a POST accepts no condition; send it without `{name}`");
            Err(failed(message, None))
        }
        None => Ok(()),
    }
}

/// The condition of a GET or HEAD that its answer must fulfil.
pub(crate) fn condition_of_read(request: &Request) -> Option<IfMatch> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    is_read.then(|| IfMatch::of(request.headers())).flatten()
}

/// The error of a condition that does not hold, with the current tag if there is one.
fn failed(message: impl Into<String>, tag: Option<&str>) -> ApiError {
    let details = tag.map_or_else(|| json!({}), |tag| json!({ "etag": tag }));
    ApiError::new(codes::PRECONDITION_FAILED, message).with_details(details)
}

/// The tags in a header; `None` without one.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<String>> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let tags = values.flat_map(|value| value.split(',')).map(|tag| tag.trim().to_owned());
    let tags: Vec<_> = tags.filter(|tag| !tag.is_empty()).collect();
    (!tags.is_empty()).then_some(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &HeaderName, values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn should_compare_the_tags_of_a_condition() {
        let check = |values: &[&'static str]| {
            let condition = IfMatch::required(&headers(&header::IF_MATCH, values));
            condition.and_then(|condition| condition.check("\"b\""))
        };
        for values in [&["*"][..], &["\"b\""], &["\"a\", \"b\""], &["\"a\"", "\"b\""]] {
            assert!(check(values).is_ok(), "{values:?}");
        }
        // A weak tag never matches here.
        for values in [&["\"a\""][..], &["b"], &["W/\"b\""]] {
            assert_eq!(check(values).unwrap_err().code, "PRECONDITION_FAILED", "{values:?}");
        }
        for values in [&[][..], &[""], &[" , "]] {
            assert_eq!(check(values).unwrap_err().code, "PRECONDITION_REQUIRED", "{values:?}");
        }
    }

    #[test]
    fn should_send_what_the_client_has_not() {
        let status = |value| {
            let headers = headers(&header::IF_NONE_MATCH, &[value]);
            answer(&headers, "\"b\"", || StatusCode::OK.into_response()).status().as_u16()
        };
        assert_eq!(
            [status("\"a\""), status("\"b\""), status("W/\"b\""), status("*")],
            [200, 304, 304, 304]
        );
    }
}
