//! The caller: `/me`.
//!
//! It needs no permission, so that any valid credentials can be tried.

use aios_core::event::Timestamp;
use axum::{Extension, extract::State, http::StatusCode, response::Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    auth::Identity,
    http::{
        ApiError,
        protocol::{Document, Resource},
        state::Api,
    },
};

/// The routes of this module.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(get_me))
}

/// A caller of the API.
#[derive(Debug, Serialize, ToSchema)]
struct Me {
    /// The caller's permissions.
    #[schema(example = json!(["runs:read", "tasks:*"]))]
    permissions: Vec<String>,
    /// When the credentials end.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

/// Get the caller
///
/// Returns who the credentials of the request belong to, and what they allow.
#[utoipa::path(
    get,
    path = "/me",
    tag = "me",
    security(("bearer" = []), ("api_key" = [])),
    responses((status = 200, description = "The caller.", body = Document<Me>)),
)]
async fn get_me(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
) -> Result<Response, ApiError> {
    let permissions = identity.permissions.iter().map(ToString::to_string).collect();
    let me = Me { permissions, expires_at: identity.expires_at };
    Ok(api.document(StatusCode::OK, Resource::new("caller", &*identity.subject, me)))
}
