//! Dead letters: `/dead-letters`.
//!
//! They are in the broker and not in the store, so the audit event of a redrive or a purge can't
//! share a commit with the effect. The handlers wait for it first ([`AuditStored`]).

use std::sync::Arc;

use aios_core::{
    broker::{Address, DeadLetter, DeadLetterFilter, DeadLetters, Group, Mailbox},
    event::{Metadata, Payload, Timestamp},
};
use axum::{extract::State, http::StatusCode, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::http::{
    ApiError,
    layers::{AuditStored, Caller, DeadLettersPurge, DeadLettersRead, DeadLettersRedrive},
    protocol::{Document, Json, Listing, Path, Query, Resource, count, page},
    state::Api,
};

/// Type of the resource.
const KIND: &str = "dead_letter";

/// The routes of this module.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_dead_letters))
        .routes(routes!(redrive_dead_letters))
        .routes(routes!(purge_dead_letters))
}

/// An event whose delivery was given up.
#[derive(Debug, Serialize, ToSchema)]
struct Letter {
    /// Type of the event.
    event_type: String,
    /// Data of the event.
    #[schema(value_type = serde_json::Value)]
    data: Payload,
    /// Metadata of the event.
    #[schema(value_type = Object)]
    metadata: Metadata,
    /// Why it was given up.
    reason: String,
    /// How often it was tried.
    attempts: u32,
    /// When it failed for the first time.
    #[schema(value_type = String, format = DateTime)]
    first_failure: Timestamp,
}

/// Converts a dead letter to its resource. Its id is that of the event.
fn resource(letter: DeadLetter) -> Resource<Letter> {
    let DeadLetter { event, reason, attempts, first_failure, .. } = letter;
    let attributes = Letter {
        event_type: event.event_type.to_string(),
        data: event.payload,
        metadata: Arc::unwrap_or_clone(event.metadata),
        reason,
        attempts,
        first_failure,
    };
    Resource::new(KIND, event.id.to_string(), attributes)
}

/// The kind of address that the events were sent to.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum AddressKind {
    /// A group: consumers that share its events. The tasks of an agent type are in the group
    /// `agents.<type>`.
    Groups,
    /// A mailbox.
    Mailboxes,
}

/// The dead letters of a group or mailbox.
async fn letters(
    api: &Api,
    (kind, name): (AddressKind, String),
) -> Result<Box<dyn DeadLetters>, ApiError> {
    let invalid = |error: aios_core::broker::InvalidAddress| {
        ApiError::from(aios_core::broker::BrokerError::from(error))
    };
    let address: Address = match kind {
        AddressKind::Groups => Group::new(name).map_err(invalid)?.into(),
        AddressKind::Mailboxes => Mailbox::new(name).map_err(invalid)?.into(),
    };
    Ok(api.runtime.broker().dead_letters(&address).await?)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LetterQuery {
    /// Most dead letters that are returned; 50 unless given.
    #[param(minimum = 1, maximum = 1000)]
    #[serde(default, deserialize_with = "count")]
    limit: Option<usize>,
}

/// List dead letters
///
/// Returns the oldest dead letters of a group or mailbox. There are no further pages: redrive or
/// purge those that were returned to see the next ones.
#[utoipa::path(
    get,
    path = "/dead-letters/{kind}/{name}",
    tag = "dead letters",
    params(
        ("kind" = inline(AddressKind), Path, description = "Kind of the address."),
        ("name" = String, Path, description = "Name of the group or mailbox."),
        LetterQuery
    ),
    security(("bearer" = ["dead_letters:read"]), ("api_key" = ["dead_letters:read"])),
    responses((status = 200, description = "The dead letters.", body = Listing<Letter>)),
)]
async fn list_dead_letters(
    State(api): State<Api>,
    _: Caller<DeadLettersRead>,
    Path(address): Path<(AddressKind, String)>,
    Query(query): Query<LetterQuery>,
) -> Result<Response, ApiError> {
    let limit = page::limit(query.limit)?;
    let letters = letters(&api, address).await?.list(limit).await?;
    Ok(api.listing(letters.into_iter().map(resource).collect(), None, Vec::new()))
}

/// Which dead letters are meant: `ids`, or `all`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SelectionBody {
    /// Those with one of these event ids.
    #[serde(default)]
    #[schema(required = false)]
    ids: Option<Vec<String>>,
    /// All dead letters that there are.
    #[serde(default)]
    #[schema(required = false)]
    all: bool,
}

impl SelectionBody {
    /// Exactly one of both has to be given, so that an empty body never means all.
    fn filter(self) -> Result<DeadLetterFilter, ApiError> {
        match (self.ids, self.all) {
            (None, true) => Ok(DeadLetterFilter::All),
            (Some(ids), false) => {
                let ids: Result<_, _> = ids.iter().map(|id| id.parse()).collect();
                Ok(DeadLetterFilter::Ids(ids?))
            }
            _ => Err(ApiError::new("INVALID_REQUEST", "give `ids` or `\"all\": true`")),
        }
    }
}

/// How many dead letters an action has handled.
#[derive(Debug, Serialize, ToSchema)]
struct Handled {
    /// How many dead letters the attempt has handled. If a process dies while it handles a request with an
    /// `Idempotency-Key`, the repetition counts only those that were left.
    count: usize,
}

/// Send dead letters back to where they came from
///
/// They are delivered again, with a fresh count of attempts.
#[utoipa::path(
    post,
    path = "/dead-letters/{kind}/{name}/actions/redrive",
    tag = "dead letters",
    params(
        ("kind" = inline(AddressKind), Path, description = "Kind of the address."),
        ("name" = String, Path, description = "Name of the group or mailbox.")
    ),
    request_body = SelectionBody,
    security(("bearer" = ["dead_letters:redrive"]), ("api_key" = ["dead_letters:redrive"])),
    responses((status = 200, description = "They were sent back.", body = Document<Handled>)),
)]
async fn redrive_dead_letters(
    State(api): State<Api>,
    _: Caller<DeadLettersRedrive>,
    _: AuditStored,
    Path(address): Path<(AddressKind, String)>,
    Json(body): Json<SelectionBody>,
) -> Result<Response, ApiError> {
    let filter = body.filter()?;
    let name = address.1.clone();
    let count = letters(&api, address).await?.redrive(filter).await?;
    Ok(api.document(StatusCode::OK, Resource::new("dead_letter_redrive", name, Handled { count })))
}

/// Delete dead letters
#[utoipa::path(
    post,
    path = "/dead-letters/{kind}/{name}/actions/purge",
    tag = "dead letters",
    params(
        ("kind" = inline(AddressKind), Path, description = "Kind of the address."),
        ("name" = String, Path, description = "Name of the group or mailbox.")
    ),
    request_body = SelectionBody,
    security(("bearer" = ["dead_letters:purge"]), ("api_key" = ["dead_letters:purge"])),
    responses((status = 200, description = "They were deleted.", body = Document<Handled>)),
)]
async fn purge_dead_letters(
    State(api): State<Api>,
    _: Caller<DeadLettersPurge>,
    _: AuditStored,
    Path(address): Path<(AddressKind, String)>,
    Json(body): Json<SelectionBody>,
) -> Result<Response, ApiError> {
    let filter = body.filter()?;
    let name = address.1.clone();
    let count = letters(&api, address).await?.purge(filter).await?;
    Ok(api.document(StatusCode::OK, Resource::new("dead_letter_purge", name, Handled { count })))
}
