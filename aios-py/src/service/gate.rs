//! The requests of a session, which end before its runtime does.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aios_agents::Runtime;
use aios_core::clock::{Clock, SystemClock};
use aios_service::http::{Shutdown, api, health};
use axum::{
    Router,
    body::{Body, HttpBody, to_bytes},
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use serde_json::json;
use tokio::{sync::watch, task::JoinHandle};
use tower::ServiceExt;
use tracing::warn;

use super::options::ApiArguments;
use crate::session::SessionSlot;

/// How long requests may take to end once they were told to.
const GRACE: Duration = Duration::from_secs(1);

/// The routers of a session, and the requests in progress.
pub(crate) struct Requests {
    shutdown: Shutdown,
    /// Each request in progress has a receiver; `true` ends them.
    cut: watch::Sender<bool>,
    routers: Mutex<HashMap<u64, Router>>,
    servers: Mutex<Vec<JoinHandle<()>>>,
}

/// A request in progress.
pub(super) struct Entry {
    router: Router,
    pub(super) cut: watch::Receiver<bool>,
}

impl Requests {
    pub(crate) fn new() -> Self {
        let (shutdown, cut) = (Shutdown::new(), watch::Sender::new(false));
        Self { shutdown, cut, routers: Mutex::default(), servers: Mutex::default() }
    }

    pub(super) fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    pub(super) fn add_server(&self, server: JoinHandle<()>) {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).push(server);
    }

    /// How many requests are in progress.
    pub(super) fn in_progress(&self) -> usize {
        self.cut.receiver_count()
    }

    fn routers(&self) -> MutexGuard<'_, HashMap<u64, Router>> {
        self.routers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn router(&self, runtime: &Arc<Runtime>, arguments: &ApiArguments) -> Router {
        let create = || {
            let options = arguments.options().with_shutdown(self.shutdown.clone());
            let api = api(Arc::clone(runtime), options);
            let router = match arguments.prefix.as_str() {
                "" => api,
                prefix => Router::new().nest(prefix, api),
            };
            match arguments.has_health {
                true => router.merge(health(Arc::clone(runtime), self.shutdown.clone())),
                false => router,
            }
        };
        self.routers().entry(arguments.serial).or_insert_with(create).clone()
    }

    /// Ends all requests: streams and waiting ones at once, others within `limit`. No router is left
    /// that refers to the runtime.
    pub(crate) async fn close(&self, limit: Duration) {
        self.shutdown.begin();
        self.routers().clear();
        let clock = SystemClock;
        tokio::select! {
            biased;
            () = self.cut.closed() => {}
            () = clock.sleep(limit) => {
                warn!(?limit, "HTTP requests did not end in time; they are cut off");
                self.cut.send_replace(true);
                tokio::select! {
                    biased;
                    () = self.cut.closed() => {}
                    () = clock.sleep(GRACE) => {}
                }
            }
        }
        let servers =
            std::mem::take(&mut *self.servers.lock().unwrap_or_else(PoisonError::into_inner));
        for mut server in servers {
            tokio::select! {
                biased;
                _ = &mut server => {}
                () = clock.sleep(GRACE) => server.abort(),
            }
        }
    }
}

/// Enters the open session; `None` if it is closed.
pub(super) async fn enter(slot: &SessionSlot, arguments: &ApiArguments) -> Option<Entry> {
    let guard = slot.read().await;
    let session = guard.as_ref()?;
    let cut = session.requests.cut.subscribe();
    Some(Entry { router: session.requests.router(&session.runtime, arguments), cut })
}

impl Entry {
    /// Answers a request; returns what ends the response too.
    pub(super) async fn answer(self, request: Request) -> (Response, watch::Receiver<bool>) {
        let Self { router, mut cut } = self;
        let response = tokio::select! {
            biased;
            answered = router.oneshot(request) => answered.unwrap_or_else(|never| match never {}),
            _ = cut.wait_for(|is_cut| *is_cut) => closed(),
        };
        (response, cut)
    }
}

/// Answers a request of a server of this process.
pub(super) async fn serve(
    slot: SessionSlot,
    arguments: Arc<ApiArguments>,
    request: Request,
) -> Response {
    let Some(entry) = enter(&slot, &arguments).await else { return closed() };
    let (response, mut cut) = entry.answer(request).await;
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    response.map(|body| {
        let end = async move {
            // An error means that the session is closed.
            let _ = cut.wait_for(|is_cut| *is_cut).await;
        };
        Body::from_stream(body.into_data_stream().take_until(Box::pin(end)))
    })
}

/// The answer when the runtime is not open.
pub(super) fn closed() -> Response {
    let message = "the runtime that serves the API is not open";
    let mut response = refusal(StatusCode::SERVICE_UNAVAILABLE, "RUNTIME_CLOSED", message);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(1));
    response
}

/// An error in the shape of the API, before a router has seen the request.
pub(super) fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    let request_id = aios_core::event::EventId::generate().to_string();
    let timestamp = SystemClock.now();
    let body = json!({
        "error": { "code": code, "message": message, "details": {} },
        "meta": { "request_id": request_id, "timestamp": timestamp },
    });
    let mut response =
        (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response();
    if let Ok(id) = HeaderValue::try_from(request_id) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

/// The whole body, if its length is known; otherwise the response again.
pub(super) async fn whole(response: Response) -> Result<(Response<()>, Vec<u8>), Response> {
    if response.body().size_hint().exact().is_none() {
        return Err(response);
    }
    let (parts, body) = response.into_parts();
    match to_bytes(body, usize::MAX).await {
        Ok(body) => Ok((Response::from_parts(parts, ()), body.into())),
        Err(error) => {
            warn!(%error, "failed to read the body of an answer");
            let response = refusal(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", "no body");
            Err(response)
        }
    }
}
