//! The shapes of all answers.

use std::borrow::Cow;

use aios_core::event::Timestamp;
use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::faults::ErrorDetails;
use crate::http::ApiError;

/// Version of the shapes, in `meta.version`.
pub(crate) const VERSION: &str = "1.0.0";

/// A resource.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Resource<A> {
    /// Unique among the resources of its type.
    pub(crate) id: String,
    /// The type of the resource.
    #[serde(rename = "type")]
    pub(crate) kind: Cow<'static, str>,
    /// The attributes of the resource.
    pub(crate) attributes: A,
}

impl<A> Resource<A> {
    /// A resource of a kind.
    pub(crate) fn new(
        kind: impl Into<Cow<'static, str>>,
        id: impl Into<String>,
        attributes: A,
    ) -> Self {
        Self { id: id.into(), kind: kind.into(), attributes }
    }
}

/// About an answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Meta {
    /// When the answer was made.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) timestamp: Timestamp,
    /// Version of the shapes.
    #[schema(example = "1.0.0")]
    pub(crate) version: &'static str,
}

/// About a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListMeta {
    /// When the answer was made.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) timestamp: Timestamp,
    /// Version of the shapes.
    #[schema(example = "1.0.0")]
    pub(crate) version: &'static str,
    /// The value of `after` for the next page; `null` on the last one.
    #[schema(required)]
    pub(crate) next: Option<String>,
    /// Ids of resources of this page that cannot be read, because a newer version of aios has
    /// written them or the store is damaged.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(crate) unreadable: Vec<String>,
}

/// An answer with one resource.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Document<A> {
    pub(crate) data: Resource<A>,
    pub(crate) meta: Meta,
}

/// An answer with a page of resources.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Listing<A> {
    pub(crate) data: Vec<Resource<A>>,
    pub(crate) meta: ListMeta,
}

/// The reason of a failure.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// Stable name of the kind of error.
    #[schema(example = "RUN_NOT_FOUND")]
    pub(crate) code: String,
    /// A human-readable message.
    pub(crate) message: String,
    /// Details for programs. If a run, task, agent, agent type or workflow does not exist, `id` is the
    /// one that the request names.
    #[schema(value_type = ErrorDetails)]
    pub(crate) details: Value,
}

/// About an error.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorMeta {
    /// Id of the request, as in the header `x-request-id` and in the log.
    pub(crate) request_id: String,
    /// When the answer was made.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) timestamp: Timestamp,
}

/// An answer to a request that failed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorDocument {
    pub(crate) error: ErrorBody,
    pub(crate) meta: ErrorMeta,
}

/// Writes a body as JSON.
///
/// A body that can't be written becomes an internal error, with its cause in the log.
pub(crate) fn json<T: Serialize>(status: StatusCode, body: &T) -> Response {
    match serde_json::to_vec(body) {
        Ok(text) => {
            let mut response = (status, Body::from(text)).into_response();
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            response
        }
        Err(error) => ApiError::panicked().with_cause(error.to_string()).into_response(),
    }
}
