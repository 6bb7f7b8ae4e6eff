//! Metrics of requests, as the outermost layer of a service.
//!
//! A request is measured in every case: when it is answered, when its client has left, and when its
//! handler has panicked. The labels have a bounded number of values: unknown methods and paths
//! without a route are counted together, and so are methods that a route does not have. Anyone may send
//! these, with every method to every route.

use std::{thread, time::Duration};

use aios_agents::trace::TraceParent;
use aios_core::clock::{Clock, SystemClock};
use axum::{
    extract::{MatchedPath, Request},
    http::{Method, StatusCode},
    middleware::Next,
    response::Response,
};

use crate::telemetry::traces::TRACE_RESPONSE;

/// The status of a request whose client left before the answer, as nginx has it.
const CLIENT_LEFT: u16 = 499;
/// The status of a request whose handler panicked, so that the connection was closed without an answer.
const PANICKED: u16 = 500;

/// The method of requests that are counted together.
const OTHER: &str = "other";
/// The route of requests that no route accepts.
const UNMATCHED: &str = "unmatched";

/// Measures a request by method, template of its route and status. A request that no route matches has the
/// route `unmatched`, and so does a request whose method its route does not have (405); the method of the
/// latter is reported as `other`.
pub(super) async fn measure(request: Request, next: Next) -> Response {
    let running = Running::begin(&request);
    let response = next.run(request).await;
    running.end(&response);
    response
}

/// The trace to which the request belonged, if it has one.
fn trace(response: &Response) -> Option<TraceParent> {
    response.headers().get(TRACE_RESPONSE)?.to_str().ok()?.parse().ok()
}

/// A method of HTTP; a client may send any other text.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => OTHER,
    }
}

/// Counts a request as running until dropped. One that is dropped before its answer is measured as well.
struct Running {
    /// The label `method`.
    method: &'static str,
    /// The label `route`.
    route: String,
    /// On the monotonic clock.
    begun: Duration,
    /// Whether it was measured with its answer.
    is_answered: bool,
}

impl Running {
    /// Counts a request.
    fn begin(request: &Request) -> Self {
        metrics::gauge!("aios_http_requests_running").increment(1.0);
        let path = request.extensions().get::<MatchedPath>();
        Self {
            method: known(request.method()),
            route: path.map_or(UNMATCHED, MatchedPath::as_str).to_owned(),
            begun: SystemClock.elapsed(),
            is_answered: false,
        }
    }

    /// Measures a request with its answer, in its trace, so that it may become an exemplar.
    fn end(mut self, response: &Response) {
        self.is_answered = true;
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            (self.method, self.route) = (OTHER, UNMATCHED.to_owned());
        }
        let record = || self.record(response.status().as_u16());
        match trace(response) {
            Some(trace) => trace.in_scope(record),
            None => record(),
        }
    }

    /// Records how long the request took.
    fn record(&self, status: u16) {
        let seconds = SystemClock.elapsed().saturating_sub(self.begun).as_secs_f64();
        let (route, status) = (self.route.clone(), status.to_string());
        metrics::histogram!("aios_http_request_seconds", "method" => self.method, "route" => route, "status" => status)
            .record(seconds);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        metrics::gauge!("aios_http_requests_running").decrement(1.0);
        if !self.is_answered {
            self.record(if thread::panicking() { PANICKED } else { CLIENT_LEFT });
        }
    }
}
