use aios_agents::trace::TraceParent;
use aios_core::clock::{Clock, SystemClock};
use axum::{
    extract::{MatchedPath, Request},
    http::Method,
    middleware::Next,
    response::Response,
};

use crate::http::TRACE_RESPONSE;

/// Measures a request by method, template of its route and status. A request that no route matches
/// has the route `unmatched`.
pub(crate) async fn measure(request: Request, next: Next) -> Response {
    let clock = SystemClock;
    let begun = clock.elapsed();
    let route = match request.extensions().get::<MatchedPath>() {
        Some(path) => path.as_str().to_owned(),
        None => "unmatched".to_owned(),
    };
    let method = known(request.method());
    let running = Running::begin();
    let response = next.run(request).await;
    drop(running);
    let status = response.status().as_u16().to_string();
    let seconds = clock.elapsed().saturating_sub(begun).as_secs_f64();
    let histogram = metrics::histogram!("aios_http_request_seconds", "method" => method, "route" => route, "status" => status);
    match trace(&response) {
        Some(trace) => trace.in_scope(|| histogram.record(seconds)),
        None => histogram.record(seconds),
    }
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
        _ => "other",
    }
}

/// Counts a request as running until dropped, also if the client goes away.
struct Running;

impl Running {
    fn begin() -> Self {
        metrics::gauge!("aios_http_requests_running").increment(1.0);
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        metrics::gauge!("aios_http_requests_running").decrement(1.0);
    }
}
