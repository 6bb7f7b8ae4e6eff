//! Spans of requests.
//!
//! A request gets a span of its own between the caller's span and what the request starts: the
//! header `traceparent` of the caller is replaced by one that names the new span, so that handlers
//! pass that on. The answer names it too, so that the caller can find the trace.
//!
//! A caller whose trace is not recorded decides for the whole trace: the context is passed on, and
//! no span is made. A request without a valid context begins a trace, which is recorded.

use aios_agents::trace::{SpanId, TraceId, TraceParent};
use aios_core::clock::{Clock, SystemClock};
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, StatusCode},
    middleware::Next,
    response::Response,
};
use ring::rand::{SecureRandom, SystemRandom};

use super::trace::parent_of;
use crate::telemetry::traces::{RequestSpans, Span, SpanKind, SpanStatus, TRACE_RESPONSE};

/// The flag of a trace context that says that the trace is recorded.
const SAMPLED: u8 = 1;

/// Makes the span of a request. It is the parent of what the request starts, and of nothing else if the
/// caller's trace is not recorded.
pub(crate) async fn trace(
    State(spans): State<RequestSpans>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = parent_of(request.headers());
    let Some(context) = begin(caller) else { return next.run(request).await };
    if let Ok(parent) = HeaderValue::try_from(context.to_string()) {
        request.headers_mut().insert("traceparent", parent);
    }
    if caller.is_none() {
        // It belongs to a trace that is not valid.
        request.headers_mut().remove("tracestate");
    }
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let method = request.method().clone();
    let start = SystemClock.now();
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::try_from(context.to_string()) {
        response.headers_mut().insert(TRACE_RESPONSE, value);
    }
    if context.is_sampled() {
        let parent = caller.map(|caller| caller.span_id);
        let mut span = span(context, parent, &method, route.as_deref(), response.status());
        (span.start, span.end) = (start, Some(SystemClock.now()));
        spans.take(span);
    }
    response
}

/// A new span of the caller's trace, or of a new one.
fn begin(caller: Option<TraceParent>) -> Option<TraceParent> {
    let span_id = SpanId::from_bytes(random()?)?;
    Some(match caller {
        Some(caller) => caller.with_span(span_id),
        None => TraceParent { trace_id: TraceId::from_bytes(random()?)?, span_id, flags: SAMPLED },
    })
}

/// Random bytes; `None` if the system has none, in which case the request has no span.
fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes)
}

/// The span of an answered request. Its name has the route and not the path, so that requests for
/// many resources have one name. Only errors of the server are failures.
fn span(
    context: TraceParent,
    parent: Option<SpanId>,
    method: &Method,
    route: Option<&str>,
    status: StatusCode,
) -> Span {
    let name = match route {
        Some(route) => format!("{method} {route}"),
        None => method.to_string(),
    };
    let mut attributes = vec![
        ("http.request.method".into(), method.as_str().into()),
        ("http.response.status_code".into(), u32::from(status.as_u16()).into()),
    ];
    attributes.extend(route.map(|route| ("http.route".into(), route.into())));
    let now = SystemClock.now();
    Span {
        trace_id: context.trace_id,
        span_id: context.span_id,
        parent,
        name,
        kind: SpanKind::Server,
        start: now,
        end: Some(now),
        status: match status.is_server_error() {
            true => SpanStatus::Error(status.as_str().into()),
            false => SpanStatus::Unset,
        },
        attributes,
        links: Vec::new(),
    }
}
