//! Bodies whose faults are reported together.
//!
//! Handlers decide what is valid, and stop at the first fault. Once one of them has refused a request, the body
//! is compared with its schema, so that its sender can correct all of it at once.
//!
//! ```text
//! guard ─► … ─► extractor ── keeps the bytes ─► handler ── 400 or 422 ─► guard: the faults of the bytes
//! ```

use std::sync::{Arc, OnceLock};

use aios_core::catalog::codes;
use axum::{body::Bytes, http::StatusCode, response::Response};
use serde_json::{Value, json};

use super::{
    depth::is_too_deep,
    error::ApiError,
    faults::{Fault, MAX_FAULTS, faults},
};

/// The body of a request with its schema, from when it is read.
#[derive(Clone, Debug)]
pub(crate) struct CheckedBody(Arc<(Arc<Value>, OnceLock<Bytes>)>);

impl CheckedBody {
    /// The body of a request that has this schema; nothing is read yet.
    pub(crate) fn new(schema: Arc<Value>) -> Self {
        Self(Arc::new((schema, OnceLock::new())))
    }

    /// Keeps the bytes of the body.
    pub(crate) fn keep(&self, bytes: &Bytes) {
        // A body is read once.
        let _ = self.0.1.set(bytes.clone());
    }

    /// Adds the faults of the body to an error about it. The first fault of a body that does not fit its type is
    /// known.
    pub(crate) fn explain(&self, mut response: Response) -> Response {
        let statuses = [StatusCode::BAD_REQUEST, StatusCode::UNPROCESSABLE_ENTITY];
        let (schema, bytes) = &*self.0;
        let body = bytes.get().filter(|_| statuses.contains(&response.status()));
        let error = response.extensions_mut().get_mut::<ApiError>();
        let (Some(body), Some(error)) = (body, error) else { return response };
        // Of the parameters of an agent, which has a schema of its own.
        if error.details.get("faults").is_some() && error.code != codes::INVALID_REQUEST {
            return response;
        }
        if is_too_deep(body) {
            return response;
        }
        let Ok(body) = serde_json::from_slice(body) else { return response };
        add(error, faults(schema, &body));
        response
    }
}

/// Adds faults to an error, which may have the one at which reading has stopped. The schema tells it more
/// exactly, if it knows it.
fn add(error: &mut ApiError, mut faults: Vec<Fault>) {
    let known = error.details.pointer("/faults/0").and_then(|fault| {
        let text = |name| fault.get(name).and_then(Value::as_str).map(str::to_owned);
        Some(Fault { path: text("path")?, message: text("message")? })
    });
    if let Some(known) = known {
        let is_within = |path: &str| {
            let rest = path.strip_prefix(&*known.path);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        if !faults.iter().any(|fault| is_within(&fault.path)) {
            faults.insert(0, known);
            faults.truncate(MAX_FAULTS);
        }
    }
    if faults.is_empty() {
        return;
    }
    if error.code == codes::INVALID_REQUEST && faults.len() > 1 {
        let more = faults.len() - 1;
        error.message = format!("{} (and {more} more, in `details.faults`)", error.message).into();
    }
    if let Some(details) = error.details.as_object_mut() {
        details.insert("faults".to_owned(), json!(faults));
    }
}
