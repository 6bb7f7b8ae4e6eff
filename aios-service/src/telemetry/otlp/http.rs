//! Requests of OTLP over HTTP.

use std::time::Duration;

use aios_core::Chain;
use axum::http::{HeaderMap, header};
use prost::Message;
use reqwest::{Client, Response, Url};

use super::CollectorError;

/// How long a request may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// How much of an answer is read.
pub(super) const MAX_ANSWER: usize = 64 * 1024;

/// Sends a message of protobuf once, and returns the answer.
pub(super) async fn post<A: Message + Default>(
    http: &Client,
    url: &Url,
    headers: &HeaderMap,
    message: &impl Message,
) -> Result<A, CollectorError> {
    let unreachable = |error: reqwest::Error| CollectorError::Unreachable {
        url: shown(url),
        reason: Chain(&error.without_url()).to_string(),
    };
    let request = http
        .post(url.clone())
        .headers(headers.clone())
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .timeout(TIMEOUT)
        .body(message.encode_to_vec());
    let response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    if !status.is_success() {
        let retry_after = retry_after(response.headers());
        return Err(CollectorError::Refused {
            url: shown(url),
            status: status.as_u16(),
            retry_after,
        });
    }
    let form = Form::of(response.headers());
    let body = read(response).await.map_err(unreachable)?;
    let invalid = || CollectorError::InvalidAnswer { url: shown(url) };
    match form {
        Form::Protobuf => A::decode(&*body).map_err(|_| invalid()),
        Form::Page => Err(invalid()),
        Form::Other => Ok(A::default()),
    }
}

/// Form of the body of an answer.
enum Form {
    /// The message of the protocol.
    Protobuf,
    /// A page for people: the server is not a collector.
    Page,
    /// Some collectors answer with a text or JSON.
    Other,
}

impl Form {
    /// The form that the headers name; without one, that of the protocol.
    fn of(headers: &HeaderMap) -> Self {
        let Some(form) = headers.get(header::CONTENT_TYPE) else { return Self::Protobuf };
        let form = form.to_str().unwrap_or_default().to_ascii_lowercase();
        match form.split(';').next().unwrap_or_default().trim() {
            "application/x-protobuf" => Self::Protobuf,
            "text/html" => Self::Page,
            _ => Self::Other,
        }
    }
}

/// The URL without credentials and parameters.
pub(super) fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

/// The header in seconds. Collectors do not send its form with a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Reads the answer. What is longer than an answer can be is cut off.
async fn read(mut response: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while body.len() <= MAX_ANSWER
        && let Some(chunk) = response.chunk().await?
    {
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
