//! The requests of a session, which end before its runtime does.
//!
//! A router has a reference to the runtime, and a runtime can be shut down only by its only owner.
//! So the session drops its routers first, and waits until the requests in progress have dropped
//! theirs. Requests in progress are counted by the receivers of a channel: the sender knows how
//! many there are, learns when the last one is dropped, and can tell all of them to end. There is
//! no count that could be wrong after a panic or a cancellation.
//!
//! The end has three stages: waiting requests and streams end at once, because the API shuts
//! down; the others have until the limit; what is left is cut off and has [`GRACE`] to be
//! dropped.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aios_agents::Runtime;
use aios_core::clock::{Clock, SystemClock};
use aios_service::{
    http::{ApiOptions, Shutdown, answer_unrouted, api, health},
    telemetry::{measure_requests, traces::RequestSpans},
};
use axum::Router;
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinHandle};
use tracing::warn;

use super::{metrics, options::ApiArguments};

/// How long requests may take to end once they were told to.
const GRACE: Duration = Duration::from_secs(1);

/// The routers of a session, and the requests in progress.
pub(crate) struct Requests {
    /// Tells waiting requests and streams to end.
    shutdown: Shutdown,
    /// Each request in progress has a receiver; `true` ends them.
    cut: watch::Sender<bool>,
    /// One for each API of the client, by the serial number of its options.
    routers: Mutex<HashMap<u64, Router>>,
    /// The servers with a socket.
    servers: Mutex<Vec<JoinHandle<()>>>,
    /// How long they accept connections after the end has begun: the longest time of all.
    accept_delay: Mutex<Duration>,
    /// Takes the spans of the requests, if traces are sent.
    spans: Option<RequestSpans>,
}

/// A request in progress.
pub(super) struct Entry {
    /// Answers the request.
    pub(super) router: Router,
    /// Counts the request as in progress, and ends it.
    pub(super) cut: watch::Receiver<bool>,
}

impl Requests {
    /// No requests.
    pub(crate) fn new(spans: Option<RequestSpans>) -> Self {
        let cut = watch::Sender::new(false);
        Self {
            shutdown: Shutdown::new(),
            cut,
            routers: Mutex::default(),
            servers: Mutex::default(),
            accept_delay: Mutex::default(),
            spans,
        }
    }

    /// The signal by which a server accepts no further connections, after a delay.
    pub(super) fn shutdown(&self, accept_delay: Duration) -> Shutdown {
        let mut longest = self.accept_delay.lock();
        *longest = accept_delay.max(*longest);
        self.shutdown.clone().with_accept_delay(accept_delay)
    }

    /// Begins the end: readiness fails, and streams and waiting requests end. Returns for how long
    /// requests are still served.
    pub(crate) fn begin_end(&self) -> Duration {
        self.shutdown.begin();
        *self.accept_delay.lock()
    }

    /// Waits for a server when the session is closed.
    pub(super) fn add_server(&self, server: JoinHandle<()>) {
        self.servers.lock().push(server);
    }

    /// Enters as a request in progress.
    pub(super) fn enter(&self, runtime: &Arc<Runtime>, arguments: &ApiArguments) -> Entry {
        let cut = self.cut.subscribe();
        Entry { router: self.router(runtime, arguments), cut }
    }

    /// How many requests are in progress.
    pub(super) fn in_progress(&self) -> usize {
        self.cut.receiver_count()
    }

    /// The router for these options, created by the first request.
    fn router(&self, runtime: &Arc<Runtime>, arguments: &ApiArguments) -> Router {
        let create = || {
            let api = |options: ApiOptions| {
                let options = options.with_shutdown(self.shutdown.clone());
                let options = match self.spans.clone() {
                    Some(spans) => options.with_request_spans(spans),
                    None => options,
                };
                let api = api(Arc::clone(runtime), options);
                match arguments.prefix.as_str() {
                    "" => api,
                    prefix => Router::new().nest(prefix, api),
                }
            };
            let router = arguments.options().map_or_else(Router::new, api);
            let router = match arguments.has_health {
                true => router.merge(health(Arc::clone(runtime), self.shutdown.clone())),
                false => router,
            };
            let api_path = arguments.has_api().then_some(arguments.prefix.as_str());
            match arguments.has_metrics {
                true => {
                    let routes = metrics::recorder().routes(Arc::clone(runtime));
                    measure_requests(answer_unrouted(router.merge(routes), api_path))
                }
                false => answer_unrouted(router, api_path),
            }
        };
        self.routers.lock().entry(arguments.serial).or_insert_with(create).clone()
    }

    /// Ends all requests: streams and waiting ones at once, others within `limit`. No router is left
    /// that refers to the runtime.
    pub(crate) async fn close(&self, limit: Duration) {
        self.shutdown.begin();
        self.routers.lock().clear();
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
        let servers = std::mem::take(&mut *self.servers.lock());
        for mut server in servers {
            tokio::select! {
                biased;
                _ = &mut server => {}
                () = clock.sleep(GRACE) => server.abort(),
            }
        }
    }
}
