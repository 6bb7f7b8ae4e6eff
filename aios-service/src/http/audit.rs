//! Audit events: who changed what, from where, and with which outcome.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use aios_core::{
    Chain,
    catalog::system::{self, ApiCalled},
    clock::Clock,
    event::{Event, EventError, EventType, Metadata},
    store::{Append, EventStoreExt, Store, StoreError, StreamId},
};
use axum::{
    extract::{
        ConnectInfo, MatchedPath, OriginalUri, Request, State, connect_info::MockConnectInfo,
    },
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};
use tracing::{error, info};

use super::{ApiError, Audit, request_id::RequestId, state::Api, trace::metadata};
use crate::auth::Identity;

/// How long an audit event may take to be stored.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before an append is repeated.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest text that is taken from a request, in characters.
const MAX_TEXT: usize = 500;

/// Records a call once it has ended, also if its client or the time limit ended it.
pub(crate) async fn audit(State(api): State<Api>, request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    let Some(mut call) = Call::new(&api, &request) else { return next.run(request).await };
    let response = next.run(request).await;
    let error = response.extensions().get::<ApiError>();
    call.data.status = Some(response.status().as_u16());
    call.data.code = error.map(|error| error.code.clone().into_owned());
    if let Some(recording) = call.record() {
        // The task records it even if this request is cancelled.
        if let Err(error) = recording.await {
            error!(%error, "the task that records an audit event failed");
        }
    }
    response
}

/// A call that has begun. Dropping it records it.
struct Call {
    audit: Audit,
    data: ApiCalled,
    metadata: Metadata,
    store: Option<Arc<dyn Store>>,
    clock: Arc<dyn Clock>,
    is_recorded: bool,
}

impl Call {
    fn new(api: &Api, request: &Request) -> Option<Self> {
        let extensions = request.extensions();
        let identity = extensions.get::<Identity>()?;
        let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0);
        let peer =
            peer.or_else(|| extensions.get::<MockConnectInfo<SocketAddr>>().map(|peer| peer.0));
        let headers = request.headers();
        // A nested router sees the rest of the path alone.
        let path = extensions.get::<OriginalUri>().map_or(request.uri(), |uri| &uri.0).path();
        let data = ApiCalled {
            subject: identity.subject.to_string(),
            method: request.method().to_string(),
            route: extensions.get::<MatchedPath>().map(|path| path.as_str().to_owned()),
            path: path.chars().take(MAX_TEXT).collect(),
            peer: peer.map(|peer| peer.ip().to_string()),
            forwarded_for: text(headers, "x-forwarded-for"),
            user_agent: text(headers, header::USER_AGENT.as_str()),
            request_id: extensions.get::<RequestId>().map(|id| id.0.to_string()),
            status: None,
            code: None,
        };
        Some(Self {
            audit: api.options.audit,
            data,
            metadata: metadata(identity, headers, None),
            store: api.runtime.store().cloned(),
            clock: Arc::clone(&api.options.clock),
            is_recorded: false,
        })
    }

    /// Begins to record the call.
    fn record(&mut self) -> Option<tokio::task::JoinHandle<()>> {
        self.is_recorded = true;
        let (Audit::Events, Some(store)) = (self.audit, self.store.take()) else {
            info!(target: "aios_service::audit", call = ?self.data, "the API was called");
            return None;
        };
        let (data, metadata) = (self.data.clone(), self.metadata.clone());
        let clock = Arc::clone(&self.clock);
        Some(tokio::spawn(async move {
            let appended = tokio::select! {
                biased;
                appended = append(&*store, &*clock, &data, metadata) => appended,
                () = clock.sleep(TIMEOUT) => Err(format!("it took longer than {TIMEOUT:?}")),
            };
            if let Err(error) = appended {
                error!(target: "aios_service::audit", error, call = ?data, "failed to store an audit event");
            }
        }))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // Without a runtime, the process ends, and there is nothing left to spawn on.
        if !self.is_recorded && tokio::runtime::Handle::try_current().is_ok() {
            // The task continues without its handle.
            drop(self.record());
        }
    }
}

async fn append(
    store: &dyn Store,
    clock: &dyn Clock,
    data: &ApiCalled,
    metadata: Metadata,
) -> Result<(), String> {
    let (stream, event) =
        event(clock, data, metadata).map_err(|error| Chain(&error).to_string())?;
    loop {
        // Repeating an append is safe: the event has an id.
        let append = Append::new(stream.clone(), vec![event.clone()]);
        match store.append_one(append).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_retryable() => clock.sleep(PAUSE).await,
            Err(error) => return Err(Chain(&error).to_string()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum InvalidAudit {
    #[error(transparent)]
    Event(#[from] EventError),
    #[error(transparent)]
    Stream(#[from] StoreError),
}

fn event(
    clock: &dyn Clock,
    data: &ApiCalled,
    metadata: Metadata,
) -> Result<(StreamId, Event), InvalidAudit> {
    let now = clock.now();
    let date: String = now.to_string().chars().take_while(|it| *it != 'T').collect();
    let stream = StreamId::new(format!("system/audit/{date}"))?;
    let event_type = EventType::new(system::DOMAIN, "api", system::API_CALLED)?;
    let mut event = Event::new(event_type, "aios", data)?.with_timestamp(now);
    event.metadata = metadata.into();
    Ok((stream, event))
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.chars().take(MAX_TEXT).collect())
}
