//! The log: `/events`.
//!
//! A page is filtered while the log is read. A pattern that matches nothing could otherwise read
//! the whole log in one request, so a request reads at most [`SCAN`] events and returns what it has
//! found, with the position where the next page continues. A filter by time is turned into a range
//! of positions first.
//!
//! Publishing goes to the broker and not into the log. The types of aios's own domains are refused,
//! because a forged event could end a task.

use std::sync::Arc;

use aios_core::{
    broker::BrokerExt,
    event::{self, EventId, EventType, Metadata, Pattern, Payload, Timestamp},
    store::RecordedEvent,
};
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::http::{
    ApiError,
    layers::{AuditStored, Caller, EventsPublish, EventsRead, RequestIds, metadata},
    protocol::{
        Document, Json, Listing, Query, Range, Resource, count, page,
        parts::{self, Room},
        position,
    },
    state::Api,
};

/// Type of the resource.
const KIND: &str = "event";
/// Events that one request reads at most to find those that match.
const SCAN: usize = 10_000;

/// The routes of this module.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_events, publish_event))
}

/// An event.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Event {
    /// Its type.
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "agents.backend.task_completed")]
    event_type: EventType,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    /// The service or agent that reports it.
    source: String,
    /// The data of the event.
    #[schema(value_type = serde_json::Value)]
    data: Payload,
    /// How it relates to other events.
    #[schema(value_type = Object)]
    metadata: Metadata,
    /// Its place in the log; not of an event that was published to the broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    position: Option<u64>,
    /// The stream to which it belongs; not of an event that was published to the broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    stream: Option<String>,
    /// Its place in the stream; not of an event that was published to the broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    version: Option<u64>,
}

/// Converts an event that is not in the log.
fn resource(event: event::Event) -> Resource<Event> {
    let attributes = Event {
        event_type: event.event_type,
        timestamp: event.timestamp,
        source: event.source.as_ref().to_owned(),
        data: event.payload,
        metadata: Arc::unwrap_or_clone(event.metadata),
        position: None,
        stream: None,
        version: None,
    };
    Resource::new(KIND, event.id.to_string(), attributes)
}

/// Converts an event of the log, with its places.
pub(crate) fn recorded(recorded: RecordedEvent) -> Resource<Event> {
    let mut resource = resource(recorded.event);
    let attributes = &mut resource.attributes;
    attributes.position = Some(recorded.position);
    attributes.stream = Some(recorded.stream.as_str().to_owned());
    attributes.version = Some(recorded.version);
    resource
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EventQuery {
    /// Only events whose type matches: `*` stands for one segment, `#` for any number.
    #[param(example = "workflows.*.completed")]
    pattern: Option<String>,
    /// Maximum number of events of a page; 50 by default.
    #[param(minimum = 1, maximum = 1000)]
    #[serde(default, deserialize_with = "count")]
    limit: Option<usize>,
    /// Only events of this time or later.
    #[param(value_type = Option<String>, format = DateTime)]
    created_after: Option<Timestamp>,
    /// Only events before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    created_before: Option<Timestamp>,
    /// Only events with a position above this one.
    #[serde(default, deserialize_with = "position")]
    after: Option<u64>,
}

/// Read the log
///
/// Returns a page of events in the order of the log. `meta.next` is the position after which the
/// next page begins; `null` if the log has no more events now. A page with a pattern may have fewer
/// events than `limit` although there are more. A filter by time compares the timestamps of events; an
/// event that was stored more than an hour before or after its timestamp may be left out.
#[utoipa::path(
    get,
    path = "/events",
    tag = "events",
    params(EventQuery),
    security(("bearer" = ["events:read"]), ("api_key" = ["events:read"])),
    responses((status = 200, description = "A page of events.", body = Listing<Event>)),
)]
async fn list_events(
    State(api): State<Api>,
    _: Caller<EventsRead>,
    Query(query): Query<EventQuery>,
) -> Result<Response, ApiError> {
    let limit = page::limit(query.limit)?;
    let pattern = query.pattern.map_or(Ok(Pattern::all()), |pattern| pattern.parse())?;
    let store = api.store()?;
    let range = Range { from: query.created_after, before: query.created_before };
    let (mut read, last) = range.positions(&**store, query.after.unwrap_or_default()).await?;
    let mut found = Vec::new();
    let mut scanned = 0;
    let mut room = Room::new();
    let mut is_end = read >= last;
    'page: while found.len() < limit && scanned < SCAN && !is_end {
        let part = room.part(SCAN - scanned);
        let events = store.read_log(read, part).await?;
        is_end = events.len() < part;
        let sizes = events.iter().map(|event| event.event.payload.as_str().len());
        let (rows, bytes) = (events.len(), sizes.sum());
        for event in events {
            if event.position > last || found.len() == limit {
                is_end = event.position > last;
                break;
            }
            let position = event.position;
            if pattern.matches(&event.event.event_type) && range.has(&event) {
                let event = recorded(event);
                if !room.takes(1, parts::bytes(&event)) {
                    is_end = false;
                    break 'page;
                }
                found.push(event);
            }
            (read, scanned) = (position, scanned + 1);
        }
        room.grow(rows, bytes);
    }
    Ok(api.listing(found, (!is_end).then(|| read.to_string()), Vec::new()))
}

/// The body of an event to publish.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PublishBody {
    /// Its type, of a domain other than `agents`, `workflows` and `system`.
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "orders.order.placed")]
    event_type: String,
    /// The data of the event; `null` unless given.
    #[serde(default)]
    #[schema(value_type = serde_json::Value, required = false)]
    data: Payload,
    /// Id of the event; a new UUID unless given.
    #[serde(default)]
    #[schema(required = false)]
    id: Option<String>,
    /// Correlation id of the event.
    #[serde(default)]
    #[schema(required = false)]
    correlation_id: Option<String>,
}

/// Publish an event
///
/// Publishes an event to the broker, from where every group with a matching pattern gets it. Its
/// source is `http/` and the subject of the caller.
#[utoipa::path(
    post,
    path = "/events",
    tag = "events",
    request_body = PublishBody,
    security(("bearer" = ["events:publish"]), ("api_key" = ["events:publish"])),
    responses((status = 202, description = "The broker has the event.", body = Document<Event>)),
)]
async fn publish_event(
    State(api): State<Api>,
    caller: Caller<EventsPublish>,
    _: AuditStored,
    ids: RequestIds,
    headers: HeaderMap,
    Json(body): Json<PublishBody>,
) -> Result<Response, ApiError> {
    let event_type: EventType = body.event_type.parse()?;
    event_type.check_unreserved()?;
    let subject = &caller.identity.subject;
    let source: String = format!("http/{subject}").chars().take(60).collect();
    let mut event = event::Event::new(event_type, source, &body.data)?.with_timestamp(api.now());
    event = event.with_id(match body.id {
        Some(id) => id.parse::<EventId>()?,
        None => ids.id_of("event"),
    });
    event.metadata = metadata(&caller.identity, &headers, body.correlation_id).into();
    api.runtime.broker().publish_event(event.clone()).await?;
    Ok(api.document(StatusCode::ACCEPTED, resource(event)))
}
