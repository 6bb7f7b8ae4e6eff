//! Reads the parts of requests, with errors in the shape of the API.
//!
//! The extractors of axum answer with texts of their own and accept more than the API documents:
//! arrays for structs, unknown charsets, numbers with signs. These extractors accept what the
//! OpenAPI document says and nothing else, and name the JSON path of a fault.

use std::{borrow::Cow, fmt, marker::PhantomData};

use aios_core::catalog::codes;
use axum::{
    body::Bytes,
    extract::{
        FromRequest, FromRequestParts, OriginalUri, RawPathParams, Request,
        rejection::BytesRejection,
    },
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeOwned, Error, IntoDeserializer, MapAccess, Visitor,
        value::{Error as ValueError, MapAccessDeserializer, StrDeserializer},
    },
};
use serde_json::json;

use super::{
    checked_body::CheckedBody,
    depth::{MAX_DEPTH, is_too_deep},
    faults,
};
use crate::http::{ApiError, state::Api};

/// Longest message about a fault, in characters.
const MAX_MESSAGE: usize = 1000;

/// The body of a request, which is JSON.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Api> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        media_type(request.headers())?;
        read(&bytes(request, api).await?).map(Self)
    }
}

/// The body of an action that needs none: JSON, or nothing, whatever the content type.
#[derive(Debug)]
pub(crate) struct OptionalJson<T>(pub(crate) T);

impl<T: DeserializeOwned + Default> FromRequest<Api> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let body = bytes(Request::from_parts(parts.clone(), body), api).await?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        media_type(&parts.headers)?;
        read(&body).map(Self)
    }
}

/// The body of an action that accepts none: `{}`, or nothing.
#[derive(Debug)]
pub(crate) struct EmptyBody;

/// An object without fields.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoFields {}

impl FromRequest<Api> for EmptyBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        OptionalJson::<NoFields>::from_request(request, api).await.map(|_| Self)
    }
}

/// Reads a body, up to the limit of the options.
async fn bytes(request: Request, api: &Api) -> Result<Bytes, ApiError> {
    let checked = request.extensions().get::<CheckedBody>().cloned();
    let body = Bytes::from_request(request, api).await;
    let body = body.map_err(|rejection| unreadable_body(api, &rejection))?;
    if let Some(checked) = checked {
        checked.keep(&body);
    }
    Ok(body)
}

/// Why a body cannot be read.
pub(crate) fn unreadable_body(api: &Api, rejection: &BytesRejection) -> ApiError {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(api),
        _ => malformed("body", &rejection.body_text()),
    }
}

/// Fails unless a body is JSON in UTF-8, as it is sent.
fn media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let unsupported = |message| Err(ApiError::new(codes::UNSUPPORTED_MEDIA_TYPE, message));
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let text = types.next().and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut parts = text.split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|it| it.eq_ignore_ascii_case("application/json"));
    if !is_json || types.next().is_some() {
        return unsupported("the body of the request must have `content-type: application/json`");
    }
    if !parts.all(is_utf_8) {
        return unsupported("the body of the request must be in UTF-8, with no other `charset`");
    }
    match headers.get_all(header::CONTENT_ENCODING).iter().all(|it| is_identity(it.as_bytes())) {
        true => Ok(()),
        false => unsupported(
            "the body of the request must not be compressed; send it without `content-encoding`",
        ),
    }
}

/// Whether a parameter of a content type is another one than the charset, or names UTF-8. ASCII is a part
/// of UTF-8.
fn is_utf_8(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else { return true };
    let charset = value.trim().trim_matches('"');
    !name.trim().eq_ignore_ascii_case("charset")
        || ["utf-8", "utf8", "us-ascii"].iter().any(|it| charset.eq_ignore_ascii_case(it))
}

/// Whether a body is sent as it is.
fn is_identity(encoding: &[u8]) -> bool {
    encoding.trim_ascii().is_empty() || encoding.trim_ascii().eq_ignore_ascii_case(b"identity")
}

/// The refusal of a body above the limit.
fn too_large(api: &Api) -> ApiError {
    let limit = api.options.limits.max_body_bytes();
    ApiError::new(codes::BODY_TOO_LARGE, format!("the body has more than {limit} bytes"))
        .with_details(json!({ "limit": limit }))
}

/// The refusal of a part that can't be read.
fn malformed(part: &str, reason: &str) -> ApiError {
    ApiError::new(
        codes::MALFORMED_REQUEST,
        format!("the {part} of the request cannot be read: {reason}"),
    )
}

/// Reads a body. A body that is not JSON is malformed (400); one that does not fit the type is
/// invalid (422), with the path of the fault.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    if is_too_deep(body) {
        let message = format!("the body is nested more than {MAX_DEPTH} levels deep");
        return Err(ApiError::new(codes::MALFORMED_REQUEST, message));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut deserializer, &mut track);
    let value =
        object(tracked).map_err(|error| serde_path_to_error::Error::new(track.path(), error));
    let value = value.map_err(|error| {
        let path = faults::path_of(error.path());
        let error = error.into_inner();
        match error.classify() {
            serde_json::error::Category::Data => {
                // It may repeat a value.
                let text: String = error.to_string().chars().take(MAX_MESSAGE).collect();
                let fault = json!({ "path": path, "message": text });
                ApiError::new(codes::INVALID_REQUEST, format!("invalid body: {path}: {text}"))
                    .with_details(json!({ "faults": [fault] }))
            }
            _ => malformed("body", &error.to_string()),
        }
    })?;
    deserializer.end().map_err(|error| malformed("body", &error.to_string()))?;
    Ok(value)
}

/// Reads a struct from an object alone; by default, serde takes arrays too.
pub(crate) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    deserializer.deserialize_map(ObjectVisitor(PhantomData))
}

/// Like [`object`], for a struct that may be missing or `null`.
pub(crate) fn optional_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    /// Reads the struct that is there.
    struct Present<T>(T);

    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Present<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            object(deserializer).map(Self)
        }
    }

    Ok(Option::<Present<T>>::deserialize(deserializer)?.map(|Present(it)| it))
}

/// Reads a position of the log or a version of a stream from a query.
pub(crate) fn position<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    let text = Option::<Cow<'de, str>>::deserialize(deserializer)?;
    text.map(|text| number(&text).ok_or_else(|| not_a_number::<D>(&text))).transpose()
}

/// Reads a number of resources from a query.
pub(crate) fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let text = Option::<Cow<'de, str>>::deserialize(deserializer)?;
    let count = |text: &str| number(text).and_then(|number| usize::try_from(number).ok());
    text.map(|text| count(&text).ok_or_else(|| not_a_number::<D>(&text))).transpose()
}

/// The fault of a text that is not a number of the API.
fn not_a_number<'de, D: Deserializer<'de>>(text: &str) -> D::Error {
    let shown: String = text.chars().take(50).collect();
    D::Error::custom(format!("{shown:?} is not a number from 0 to {} in digits", i64::MAX))
}

/// Reads a number of a query or a header: digits, without a sign and without zeros before it. A store
/// counts positions as signed numbers, so none is greater than [`i64::MAX`].
pub(crate) fn number(text: &str) -> Option<u64> {
    let is_canonical =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let number = text.parse().ok().filter(|_| is_canonical)?;
    i64::try_from(number).is_ok().then_some(number)
}

/// Reads an integer. As in JSON Schema, a number with the fraction 0 is one: `6.0` is 6.
pub(crate) fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    let whole = number.as_u64().or_else(|| whole(number.as_f64()?));
    whole.filter(|it| i64::try_from(*it).is_ok()).ok_or_else(|| {
        D::Error::custom(format!("{number} is not an integer from 0 to {}", i64::MAX))
    })
}

/// The integer that is written as a floating-point number, if it is one that no rounding has changed.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
fn whole(number: f64) -> Option<u64> {
    /// Up to here, 2⁵³, a double represents every integer.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let is_whole = number.fract() == 0.0 && (0.0..=EXACT).contains(&number);
    is_whole.then_some(number as u64)
}

/// Accepts an object and nothing else.
struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

/// The query of a request.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Api> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, ApiError> {
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|query| Self(query.0))
            .map_err(|rejection| malformed("query", &rejection.body_text()))
    }
}

/// The parameters of a route. Those of the path at which the API is mounted come before them and are
/// left out.
#[derive(Debug)]
pub(crate) struct Path<T>(pub(crate) T);

/// The parameters that a route has in its path: one, or two.
pub(crate) trait PathParameters: Sized {
    /// Reads the parameters from the end of the path; an error says what is wrong.
    fn read<'p>(reversed: impl Iterator<Item = &'p str>) -> Result<Self, String>;
}

impl PathParameters for String {
    fn read<'p>(mut reversed: impl Iterator<Item = &'p str>) -> Result<Self, String> {
        reversed.next().map(ToOwned::to_owned).ok_or_else(missing_parameter)
    }
}

impl<T: DeserializeOwned> PathParameters for (T, String) {
    fn read<'p>(mut reversed: impl Iterator<Item = &'p str>) -> Result<Self, String> {
        let (last, first) = (reversed.next(), reversed.next());
        let (last, first) = last.zip(first).ok_or_else(missing_parameter)?;
        let first: StrDeserializer<'_, ValueError> = first.into_deserializer();
        Ok((T::deserialize(first).map_err(|error| error.to_string())?, last.to_owned()))
    }
}

/// The reason if a route has fewer parameters than its handler takes.
fn missing_parameter() -> String {
    "a parameter is missing".to_owned()
}

impl<T: PathParameters> FromRequestParts<Api> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let all = RawPathParams::from_request_parts(parts, api).await;
        let all = all.map_err(|rejection| malformed("path", &rejection.body_text()))?;
        let all: Vec<_> = all.iter().map(|(_, value)| value).collect();
        let read = T::read(all.into_iter().rev());
        read.map(Self).map_err(|reason| malformed("path", &reason))
    }
}

/// The path at which the API is mounted, as it was sent; empty at the root.
#[derive(Debug)]
pub(crate) struct Prefix(String);

impl Prefix {
    /// The path of a resource. Parts are percent-encoded.
    pub(crate) fn location(&self, parts: &[&str]) -> String {
        let mut path = self.0.trim_end_matches('/').to_owned();
        for part in parts {
            path.push('/');
            for byte in part.bytes() {
                match byte {
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                        path.push(char::from(byte));
                    }
                    byte => path.push_str(&format!("%{byte:02X}")),
                }
            }
        }
        path
    }
}

impl FromRequestParts<Api> for Prefix {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let Ok(OriginalUri(sent)) = OriginalUri::from_request_parts(parts, api).await;
        let mounted = sent.path().strip_suffix(parts.uri.path()).unwrap_or_default();
        Ok(Self(mounted.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_read_numbers_in_one_spelling() {
        for (text, value) in [("0", 0), ("7", 7), ("10", 10)] {
            assert_eq!(number(text), Some(value), "{text}");
        }
        assert_eq!(number("9223372036854775807"), Some(i64::MAX.unsigned_abs()));
        let others = ["", "+5", "-0", "05", "00", " 5", "5 ", "5.0", "1e3", "0x5", "1_0", "٥"];
        for text in others.into_iter().chain(["9223372036854775808", "18446744073709551616"]) {
            assert_eq!(number(text), None, "{text:?}");
        }
    }

    #[test]
    fn should_read_integers_that_are_written_as_numbers_with_a_fraction() {
        let read = |text: &str| integer(&mut serde_json::Deserializer::from_str(text)).ok();
        for (text, number) in [("0", 0), ("6246.0", 6246), ("1e3", 1000), ("-0.0", 0)] {
            assert_eq!(read(text), Some(number), "{text}");
        }
        assert_eq!(read("9223372036854775807"), Some(i64::MAX.unsigned_abs()));
        for text in ["6.5", "-1", "-1.0", "9223372036854775808", "1e19", "null", "\"1\""] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn should_encode_the_parts_of_a_location() {
        let prefix = Prefix("/api/v1".to_owned());
        assert_eq!(prefix.location(&["runs", "a/b ü"]), "/api/v1/runs/a%2Fb%20%C3%BC");
        assert_eq!(Prefix(String::new()).location(&["runs", "r\r\n"]), "/runs/r%0D%0A");
    }
}
