//! Calls of OTLP over gRPC, which are requests of HTTP/2.
//!
//! OTLP needs one kind of call with one message in each direction. That is a POST whose body is the
//! message with a prefix of five bytes, and whose outcome is in the trailers, so no library for
//! gRPC is needed.

use std::time::Duration;

use aios_core::Chain;
use axum::http::{HeaderMap, Response, StatusCode, header};
use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http_body_util::{BodyExt, Limited};
use prost::Message;
use reqwest::{Body, Client, Url};

use super::{
    CollectorError,
    http::{MAX_ANSWER, TIMEOUT, shown},
};

/// The deadline that the collector gets, which is [`TIMEOUT`].
const DEADLINE: &str = "10S";
/// Length of the prefix of a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// Padding is optional in values of headers.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Calls the method of a URL once, and returns the answer.
pub(super) async fn call<A: Message + Default>(
    http: &Client,
    url: &Url,
    headers: &HeaderMap,
    message: &impl Message,
) -> Result<A, CollectorError> {
    let unreachable = |reason: String| CollectorError::Unreachable { url: shown(url), reason };
    let request = http
        .post(url.clone())
        .headers(headers.clone())
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header("grpc-timeout", DEADLINE)
        .timeout(TIMEOUT)
        .body(framed(message));
    let response = request.send().await;
    let response =
        response.map_err(|error| unreachable(Chain(&error.without_url()).to_string()))?;
    let (head, body) = Response::<Body>::from(response).into_parts();
    if !head.status.is_success() {
        return Err(refused(url, of_http(head.status), &head.headers));
    }
    let read = Limited::new(body, MAX_ANSWER).collect().await;
    let read = read.map_err(|error| unreachable(Chain(&*error).to_string()))?;
    // An answer without a message has its status in the head.
    let trailers = read.trailers().unwrap_or(&head.headers);
    let status = trailers.get("grpc-status").and_then(|it| it.to_str().ok()?.parse().ok());
    let invalid = || CollectorError::InvalidAnswer { url: shown(url) };
    match status.ok_or_else(invalid)? {
        0 => unframed(&read.to_bytes()).ok_or_else(invalid),
        status => Err(refused(url, status, trailers)),
    }
}

/// A message with its prefix, not compressed.
fn framed(message: &impl Message) -> Vec<u8> {
    let length = message.encoded_len();
    let mut body = Vec::with_capacity(PREFIX + length);
    body.push(0);
    body.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    body.extend(message.encode_to_vec());
    body
}

/// The message of an answer. Its compression was not asked for.
fn unframed<A: Message + Default>(body: &[u8]) -> Option<A> {
    let (prefix, message) = body.split_at_checked(PREFIX)?;
    let (compressed, length) = prefix.split_first()?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    if *compressed != 0 || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    A::decode(message).ok()
}

/// The error of a call, with the message and the pause of the collector.
fn refused(url: &Url, status: u32, headers: &HeaderMap) -> CollectorError {
    let text = headers.get("grpc-message").map(|text| percent_decoded(text.as_bytes()));
    CollectorError::GrpcStatus {
        url: shown(url),
        status,
        message: text.filter(|text| !text.is_empty()),
        retry_after: retry_after(headers),
    }
}

/// The status for a status of HTTP, which a proxy sends; see "HTTP to gRPC Status Code Mapping".
fn of_http(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct Details {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// How long the collector asks to wait.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let details = BASE64.decode(headers.get("grpc-status-details-bin")?).ok()?;
    let details = Details::decode(&*details).ok()?.details;
    let info = details.iter().find(|it| it.type_url.ends_with("google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(&*info.value).ok()?.delay.unwrap_or_default();
    let seconds = u64::try_from(delay.seconds).unwrap_or_default();
    let nanos = u32::try_from(delay.nanos).unwrap_or_default();
    Some(Duration::from_secs(seconds) + Duration::from_nanos(nanos.into()))
}

/// A text in which `%41` is `A`.
fn percent_decoded(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
