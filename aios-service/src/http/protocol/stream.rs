//! Live events: server-sent events of the log, of a run and of an agent.
//!
//! The id of a message is a position of the log. A client that connects again sends the last id and
//! gets every later event once, from any process. Streams end by themselves after some minutes,
//! with the credentials of their caller, and when the process shuts down; clients connect again, to
//! this process or another one. That is also how they move away from a process that drains.
//!
//! Nothing is buffered for a slow client: the next event is read when the one before was taken. A
//! filter may skip many events, so the position is sent from time to time without data.
//!
//! A stream that cannot be read ends. If a later attempt cannot succeed either, its last message is a
//! `failure`, without which clients would connect again without end.

use std::{convert::Infallible, sync::Arc, time::Duration};

use aios_agents::{RuntimeError, runtime::RunEvents};
use aios_core::{
    BoxFuture, Chain,
    catalog::{agent, codes, system},
    event::Pattern,
    store::{
        EventStoreExt, LogSubscription, PageRequest, RecordedEvent, Store, StoreError, TaskFilter,
    },
};
use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::{Stream, stream};
use serde::Deserialize;
use serde_json::json;
use tracing::warn;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::extract::{Path, Query, number, position};
use crate::{
    auth::Identity,
    http::{
        ApiError, Shutdown,
        layers::{AgentsRead, Caller, EventsRead, RunsRead, TasksRead},
        resources::{agents, recorded, runs},
        state::Api,
    },
};

/// Time between two comments on a stream without events, which keep proxies from closing it.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Number of events that do not match after which the client is sent the position, so that it does not
/// read them again when it reconnects.
const SKIPPED: u64 = 500;
/// Before the id of an agent in the name of its stream.
const AGENTS: &str = "agents/";

/// The routes of this module.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(stream_events))
        .routes(routes!(stream_run))
        .routes(routes!(stream_agent))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LogQuery {
    /// Only events whose type matches: `*` stands for one segment, `#` for any number.
    #[param(example = "workflows.*.completed")]
    pattern: Option<String>,
    /// Only events with a position above this one; those from now on unless given. The header
    /// `Last-Event-ID` overrides it.
    #[serde(default, deserialize_with = "position")]
    after: Option<u64>,
}

/// Follow the log
///
/// Returns server-sent events: first those that exist, then new ones. `id` is the position in the
/// log, and `data` is the event as in a list. The first message has no `data`: its `id` is the position
/// after which events come. After a break, a client sends the last `id` as
/// `Last-Event-ID` and gets every later event once. A stream ends after some minutes. If it cannot be read,
/// its last message has `event: failure` and `{"code", "message", "details"}` as data.
#[utoipa::path(
    get,
    path = "/events/stream",
    tag = "events",
    params(
        LogQuery,
        ("last-event-id" = Option<u64>, Header, description = "Position of the last event that the client has.")
    ),
    security(("bearer" = ["events:read"]), ("api_key" = ["events:read"])),
    responses((status = 200, description = "The events.", body = String, content_type = "text/event-stream")),
)]
async fn stream_events(
    State(api): State<Api>,
    caller: Caller<EventsRead>,
    headers: HeaderMap,
    Query(query): Query<LogQuery>,
) -> Result<Response, ApiError> {
    let pattern = query.pattern.map_or(Ok(Pattern::all()), |pattern| pattern.parse())?;
    let store = Arc::clone(api.store()?);
    let after = begin(&*store, last_event_id(&headers)?.or(query.after)).await?;
    let source = Source::Log(store.subscribe(after));
    Ok(answer(Follow::new(&api, &caller.identity, source, Filter::Type(pattern), after)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AgentQuery {
    /// Only events with a position in the log above this one; those from now on unless given. The
    /// header `Last-Event-ID` overrides it.
    #[serde(default, deserialize_with = "position")]
    after: Option<u64>,
}

/// Follow an agent
///
/// Returns the events about an agent, and about the tasks that are assigned to this one agent, as
/// server-sent events; see `/events/stream`.
#[utoipa::path(
    get,
    path = "/agents/{agent_id}/events",
    tag = "agents",
    params(
        ("agent_id" = String, Path, description = "Id of the agent."),
        AgentQuery,
        ("last-event-id" = Option<u64>, Header, description = "Position of the last event that the client has.")
    ),
    security(("bearer" = ["agents:read", "tasks:read"]), ("api_key" = ["agents:read", "tasks:read"])),
    responses((status = 200, description = "The events.", body = String, content_type = "text/event-stream")),
)]
async fn stream_agent(
    State(api): State<Api>,
    caller: Caller<AgentsRead>,
    _: Caller<TasksRead>,
    headers: HeaderMap,
    Path(id): Path<String>,
    Query(query): Query<AgentQuery>,
) -> Result<Response, ApiError> {
    let agent_type = agents::find(&api, &id).await?.agent_type;
    let store = Arc::clone(api.store()?);
    let after = begin(&*store, last_event_id(&headers)?.or(query.after)).await?;
    let source = Source::Log(Arc::clone(&store).subscribe(after));
    let filter = Filter::Agent { id, agent_type, store };
    Ok(answer(Follow::new(&api, &caller.identity, source, filter, after)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RunQuery {
    /// Only events with a position in the log above this one; all unless given. The header
    /// `Last-Event-ID` overrides it.
    #[serde(default, deserialize_with = "position")]
    after: Option<u64>,
}

/// Follow a run
///
/// Returns the events of a run as server-sent events, up to the one that ends the run; see
/// `/events/stream`. Answers with 204, at which browsers stop connecting again, if the run has ended
/// and has no later event.
#[utoipa::path(
    get,
    path = "/runs/{run_id}/events",
    tag = "runs",
    params(
        ("run_id" = String, Path, description = "Id of the run."),
        RunQuery,
        ("last-event-id" = Option<u64>, Header, description = "Position of the last event that the client has.")
    ),
    security(("bearer" = ["runs:read"]), ("api_key" = ["runs:read"])),
    responses(
        (status = 200, description = "The events.", body = String, content_type = "text/event-stream"),
        (status = 204, description = "The run has ended and has no later event."),
    ),
)]
async fn stream_run(
    State(api): State<Api>,
    caller: Caller<RunsRead>,
    headers: HeaderMap,
    Path(id): Path<String>,
    Query(query): Query<RunQuery>,
) -> Result<Response, ApiError> {
    let after = last_event_id(&headers)?.or(query.after).unwrap_or_default();
    let row = runs::find(&api, &id).await?;
    begin(&**api.store()?, Some(after)).await?;
    if row.status.is_final() && row.position <= after {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let source = Source::Run(Box::new(api.runtime.handle(&id).await?.events(0)));
    let filter = Filter::Type(Pattern::all());
    Ok(answer(Follow::new(&api, &caller.identity, source, filter, after)))
}

/// The position after which a stream begins: the given one, or the end of the log. Fails if the client has
/// events that the log does not have: it would wait for later ones and miss those in between.
async fn begin(store: &dyn Store, after: Option<u64>) -> Result<u64, ApiError> {
    let head = store.head().await?;
    let after = after.unwrap_or(head);
    if after <= head {
        return Ok(after);
    }
    let message = format!(
        "the log ends at position {head}, before {after}: the position is of another log, or this one was \
         restored from an older copy; read what you have again"
    );
    let details = json!({ "head": head, "after": after });
    Err(ApiError::new(codes::INVALID_CURSOR, message).with_details(details))
}

/// Reads the position of the last event that the client has. It overrides the query, because a
/// browser sends it with the URL of the first request.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let mut values = headers.get_all("last-event-id").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let position = value.to_str().ok().filter(|_| values.next().is_none());
    let position = position.and_then(number);
    let message = "`Last-Event-ID` is the position of an event, and given once";
    position.map(Some).ok_or_else(|| ApiError::new(codes::MALFORMED_REQUEST, message))
}

/// The answer with the events.
fn answer(follow: Follow) -> Response {
    events(follow.into_stream())
}

/// The answer with a stream of messages.
pub(crate) fn events(
    messages: impl Stream<Item = Result<Event, Infallible>> + Send + 'static,
) -> Response {
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(messages).keep_alive(keep_alive).into_response();
    // Asks nginx to pass events on at once.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The last message of a stream that broke: the failure, unless a later attempt may succeed.
pub(crate) fn failure(error: RuntimeError) -> Option<Event> {
    let (code, is_retryable) = (error.code(), error.is_retryable());
    let text = Chain(&error).to_string();
    warn!(code, error = text, is_retryable, "a stream of events broke");
    if is_retryable {
        return None;
    }
    let text = serde_json::to_string(&ApiError::from(error).failure()).ok()?;
    Some(Event::default().event("failure").data(text))
}

/// Where the events of a stream come from.
enum Source {
    /// The whole log, from a position.
    Log(LogSubscription<dyn Store>),
    /// The journal of a run, up to its end.
    Run(Box<RunEvents>),
}

impl Source {
    /// The next event; `None` after the end of the run. Cancel safe.
    async fn next(&mut self) -> Result<Option<RecordedEvent>, RuntimeError> {
        match self {
            Self::Log(log) => Ok(Some(log.next().await?)),
            Self::Run(run) => run.next().await,
        }
    }
}

/// Which events are sent.
enum Filter {
    /// Those whose type matches.
    Type(Pattern),
    /// Those about an agent, and about the tasks that are assigned to it.
    Agent { id: String, agent_type: String, store: Arc<dyn Store> },
}

/// The fields by which an event belongs to an agent.
#[derive(Deserialize)]
struct About {
    #[serde(default)]
    agent_id: Option<String>,
    #[serde(default)]
    task_id: Option<String>,
}

impl Filter {
    /// Whether an event is sent. Cancel safe.
    async fn matches(&self, event: &RecordedEvent) -> Result<bool, StoreError> {
        let (id, agent_type, store) = match self {
            Self::Type(pattern) => return Ok(pattern.matches(&event.event.event_type)),
            Self::Agent { id, agent_type, store } => (id, agent_type, store),
        };
        let (domain, entity, _) = event.event.event_type.segments();
        // Events that no agent of the type causes, such as that it is missing.
        if domain == system::DOMAIN {
            let stream = event.stream.as_str().strip_prefix(AGENTS);
            return Ok(stream == Some(id.as_str()));
        }
        if domain != agent::DOMAIN || entity != agent_type {
            return Ok(false);
        }
        let Ok(About { agent_id, task_id }) = event.event.data() else { return Ok(false) };
        if agent_id.is_some() || task_id.is_none() {
            return Ok(agent_id.as_ref() == Some(id));
        }
        let filter = TaskFilter { id: task_id, include_deleted: true, ..TaskFilter::default() };
        let task = store.tasks(&filter, &PageRequest::first(1)).await?.rows.pop();
        Ok(task.is_some_and(|task| task.agent_id.as_ref() == Some(id)))
    }
}

/// A stream of events. It reads no faster than the client, a page at a time, so a slow client holds
/// one page in memory and catches up from the store.
struct Follow {
    source: Source,
    filter: Filter,
    after: u64,
    /// Whether the client knows the position after which events come.
    has_begun: bool,
    skipped: u64,
    /// Whether the last message was sent.
    has_failed: bool,
    end: BoxFuture<'static, ()>,
    shutdown: Shutdown,
}

impl Follow {
    /// Follows a source after a position, until the identity of the caller ends or the stream has
    /// lived long enough.
    fn new(api: &Api, identity: &Identity, source: Source, filter: Filter, after: u64) -> Self {
        let end = api.stream_end(identity);
        let shutdown = api.options.shutdown.clone();
        let has_begun = matches!(source, Source::Run(_));
        Self { source, filter, after, has_begun, skipped: 0, has_failed: false, end, shutdown }
    }

    /// The messages of the stream.
    fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut follow| async move {
            let event = follow.next().await?;
            Some((Ok(event), follow))
        })
    }

    /// The next message to send; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Event> {
        if self.has_failed {
            return None;
        }
        if !self.has_begun {
            self.has_begun = true;
            return Some(Event::default().id(self.after.to_string()));
        }
        loop {
            let next = tokio::select! {
                biased;
                () = self.shutdown.begun() => return None,
                () = &mut self.end => return None,
                next = self.source.next() => next,
            };
            let event = match next {
                Ok(event) => event?,
                Err(error) => return self.failed(error),
            };
            let position = event.position;
            if position <= self.after {
                continue;
            }
            match self.filter.matches(&event).await {
                Ok(true) => {
                    self.skipped = 0;
                    return message(event);
                }
                Ok(false) => {}
                Err(error) => return self.failed(error.into()),
            }
            self.skipped += 1;
            if self.skipped >= SKIPPED {
                self.skipped = 0;
                return Some(Event::default().id(position.to_string()));
            }
        }
    }

    /// The last message after a fault, if there is one.
    fn failed(&mut self, error: RuntimeError) -> Option<Event> {
        self.has_failed = true;
        failure(error)
    }
}

/// The message of an event.
fn message(event: RecordedEvent) -> Option<Event> {
    let position = event.position;
    match serde_json::to_string(&recorded(event)) {
        // A line break of JSON is white space between its parts.
        Ok(text) => {
            let text = text.replace(['\r', '\n'], " ");
            Some(Event::default().id(position.to_string()).data(text))
        }
        Err(error) => {
            warn!(%error, position, "failed to write an event; its stream ended");
            None
        }
    }
}
