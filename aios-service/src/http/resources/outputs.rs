//! Output streams of runs as server-sent events: `/runs/{run_id}/streams/{name}`.
//!
//! An output stream is a stream of the log, and the id of a message is the offset of its item. A
//! client that connects again sends the last id and gets every later item once. Nothing is
//! buffered: the next item is read when the client has taken the one before.

use std::convert::Infallible;

use aios_agents::output::{OutputContent, OutputItem, OutputReader};
use aios_core::{BoxFuture, event::Payload, output::stream_of};
use axum::{
    extract::State,
    http::HeaderMap,
    response::{Response, sse::Event},
};
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use tracing::warn;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    auth::Identity,
    http::{
        ApiError, Shutdown,
        layers::{Caller, RunsRead},
        protocol::{Path, Query, events, failure, last_event_id, position},
        state::Api,
    },
};

/// The routes of this module.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(stream_output))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct OutputQuery {
    /// Only items with an offset above this one; all unless given. The header `Last-Event-ID` overrides
    /// it.
    #[serde(default, deserialize_with = "position")]
    after: Option<u64>,
}

/// Follow an output stream of a run
///
/// Returns the items that the run, its tasks and its steps write to the stream, first those that exist,
/// then new ones. `id` is the offset of an item. `event` is `item`, with `{"writer", "item"}` as data;
/// `reset`, with `{"writer"}`, if an attempt begins again and the earlier items of this writer are void;
/// or `end`, after which nothing comes. If the stream cannot be read, the last message is a `failure`, with
/// `{"code", "message", "details"}`. After a break, a client sends the last `id` as `Last-Event-ID`.
#[utoipa::path(
    get,
    path = "/runs/{run_id}/streams/{stream}",
    tag = "runs",
    params(
        ("run_id" = String, Path, description = "Id of the run."),
        ("stream" = String, Path, description = "Name of the stream."),
        OutputQuery,
        ("last-event-id" = Option<u64>, Header, description = "Offset of the last item that the client has.")
    ),
    security(("bearer" = ["runs:read"]), ("api_key" = ["runs:read"])),
    responses((status = 200, description = "The items.", body = String, content_type = "text/event-stream")),
)]
async fn stream_output(
    State(api): State<Api>,
    caller: Caller<RunsRead>,
    headers: HeaderMap,
    Path((run_id, name)): Path<(String, String)>,
    Query(query): Query<OutputQuery>,
) -> Result<Response, ApiError> {
    let after = last_event_id(&headers)?.or(query.after).unwrap_or_default();
    let handle = api.runtime.handle(&run_id).await?;
    stream_of(&run_id, &name).map_err(aios_agents::RuntimeError::from)?;
    let reader = handle.stream(&name).read_from(after);
    Ok(events(Follow::new(&api, &caller.identity, reader, after).into_stream()))
}

/// The data of a message.
#[derive(Serialize)]
struct Message<'a> {
    /// The attempt that wrote the item.
    writer: &'a str,
    /// The item; none for a reset.
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<Payload>,
}

/// Reads no faster than the client.
struct Follow {
    /// Where items come from.
    reader: OutputReader,
    /// Offset of the last item that was sent.
    after: u64,
    /// Whether the last message was sent.
    has_ended: bool,
    /// When the stream ends: with its lifetime or the credentials of the caller.
    end: BoxFuture<'static, ()>,
    /// Ends the stream at once.
    shutdown: Shutdown,
}

impl Follow {
    /// Follows a stream for this caller.
    fn new(api: &Api, identity: &Identity, reader: OutputReader, after: u64) -> Self {
        let end = api.stream_end(identity);
        let shutdown = api.options.shutdown.clone();
        Self { reader, after, has_ended: false, end, shutdown }
    }

    /// The messages.
    fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut follow| async move {
            let event = follow.next().await?;
            Some((Ok(event), follow))
        })
    }

    /// The next message to send; `None` if the client has to reconnect, or after the end.
    async fn next(&mut self) -> Option<Event> {
        if self.has_ended {
            return None;
        }
        let next = tokio::select! {
            biased;
            () = self.shutdown.begun() => return None,
            () = &mut self.end => return None,
            next = self.reader.next() => next,
        };
        match next {
            Some(Ok(item)) => self.message(item),
            Some(Err(error)) => {
                self.has_ended = true;
                failure(error)
            }
            None => {
                self.has_ended = true;
                Some(Event::default().event("end").id(self.after.to_string()).data("{}"))
            }
        }
    }

    /// The message of an item.
    fn message(&mut self, item: OutputItem) -> Option<Event> {
        let OutputItem { offset, writer, content, .. } = item;
        self.after = offset;
        let (kind, item) = match content {
            OutputContent::Item(item) => ("item", Some(item)),
            OutputContent::Reset => ("reset", None),
            // A kind that this version does not know.
            _ => return Some(Event::default().id(offset.to_string())),
        };
        match serde_json::to_string(&Message { writer: &writer, item }) {
            Ok(text) => {
                // A line break of JSON is white space between its parts.
                let text = text.replace(['\r', '\n'], " ");
                Some(Event::default().event(kind).id(offset.to_string()).data(text))
            }
            Err(error) => {
                warn!(%error, offset, "failed to write an item; its stream ended");
                None
            }
        }
    }
}
