//! Answers to requests.
//!
//! An error without the shape of the API did not come from the service. If its status is one that
//! proxies send while a service is away, the request may be repeated; any other one means that the
//! URL is wrong.

use std::time::Duration;

use aios_core::{Chain, catalog::codes};
use axum::http::header;
use reqwest::Response;
use serde::Deserialize;
use serde_json::Value;

use super::ClientError;

/// Largest body that is read, in bytes.
pub(super) const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// The error of a request without an answer. A connection that was never made has sent nothing.
pub(super) fn unreachable(error: &reqwest::Error) -> ClientError {
    ClientError::Unreachable { reason: Chain(error).to_string(), is_unsent: error.is_connect() }
}

/// The id under which the service logs the request.
pub(super) fn request_id(response: &Response) -> Option<String> {
    let value = response.headers().get("x-request-id")?;
    value.to_str().ok().map(ToOwned::to_owned)
}

/// Reads a body, up to the limit.
pub(super) async fn read(
    mut response: Response,
    id: &Option<String>,
) -> Result<Vec<u8>, ClientError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&error))? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BODY_BYTES {
            let reason = format!("its body has more than {MAX_BODY_BYTES} bytes");
            return Err(ClientError::InvalidResponse { reason, request_id: id.clone() });
        }
    }
    Ok(body)
}

/// After which time the request may succeed. The form with a date is ignored.
pub(super) fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse();
    seconds.ok().map(Duration::from_secs)
}

/// The error of an answer.
pub(super) async fn refusal(response: Response) -> ClientError {
    let status = response.status().as_u16();
    let request_id = request_id(&response);
    let retry_after = retry_after(&response);
    let body = match read(response, &request_id).await {
        Ok(body) => body,
        Err(error) => return error,
    };
    let (code, message, details) = match serde_json::from_slice::<ErrorDocument>(&body) {
        Ok(ErrorDocument { error }) => (error.code, error.message, error.details),
        // Not from the service: from something before it, such as a proxy.
        Err(_) if matches!(status, 429 | 502 | 503 | 504) => {
            let message = format!("the answer has the status {status}");
            (codes::SERVICE_UNREACHABLE.to_owned(), message, Value::Null)
        }
        Err(_) => {
            let reason = format!(
                "it has the status {status} and no error of the API; does the URL name the API, \
                 up to and including its prefix such as /api/v1?"
            );
            return ClientError::InvalidResponse { reason, request_id };
        }
    };
    ClientError::Service { status, code, message, details, request_id, retry_after }
}

/// An error of the API.
#[derive(Deserialize)]
struct ErrorDocument {
    error: ErrorBody,
}

/// The parts of an error.
#[derive(Deserialize)]
struct ErrorBody {
    code: String,
    message: String,
    #[serde(default)]
    details: Value,
}
