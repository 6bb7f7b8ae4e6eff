//! The trace to which a request belongs (W3C Trace Context), and the metadata of what it starts.
//!
//! | header | of the request | in what it starts | in the response |
//! |---|---|---|---|
//! | `traceparent` | one, valid | unchanged: the client's span is the parent | `traceresponse` with a new span of the same trace |
//! | `traceparent` | none, several, or invalid | none | none |
//! | `tracestate` | up to 512 bytes, joined | unchanged, only with a valid `traceparent` | none |
//!
//! If the requests have [spans](super::spans), the layer of the spans replaces `traceparent` by one that names
//! the span of the request.

use std::sync::Arc;

use aios_agents::trace::{SpanId, TraceParent};
use aios_core::event::{EventId, Metadata};
use axum::http::{HeaderMap, HeaderValue};

use crate::auth::Identity;

/// Longest `tracestate` that is passed on. The standard asks for no more.
const MAX_STATE_BYTES: usize = 512;

/// A trace, from the headers `traceparent` and `tracestate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    /// The span of the client.
    parent: TraceParent,
    /// Opaque, and passed on unchanged.
    state: Option<Arc<str>>,
}

impl Trace {
    /// Reads the trace of a request. `None` if it has none, or one that is not valid, which the
    /// standard says to ignore.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        Some(Self { parent: parent_of(headers)?, state: state(headers) })
    }

    /// The id of the trace.
    pub(crate) fn id(&self) -> String {
        self.parent.trace_id.to_string()
    }

    /// The value of `traceresponse`, with a new id for the handling of the request.
    pub(crate) fn response(&self) -> Option<HeaderValue> {
        // The second half of a UUID is random, and never all zeros.
        let id = EventId::generate().key();
        let span = SpanId::from_bytes(id.as_bytes().get(8..)?.try_into().ok()?)?;
        HeaderValue::try_from(self.parent.with_span(span).to_string()).ok()
    }
}

/// The span in whose context a request is sent.
pub(super) fn parent_of(headers: &HeaderMap) -> Option<TraceParent> {
    let mut values = headers.get_all("traceparent").iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    value.to_str().ok()?.parse().ok()
}

/// The metadata of what a request starts or publishes: its user and its trace.
pub(crate) fn metadata(
    identity: &Identity,
    headers: &HeaderMap,
    correlation: Option<String>,
) -> Metadata {
    let (traceparent, tracestate) =
        Trace::of(headers).map(|trace| (trace.parent.to_string().into(), trace.state)).unzip();
    Metadata {
        correlation_id: correlation.map(Into::into),
        user_id: Some(identity.subject.clone()),
        traceparent,
        tracestate: tracestate.flatten(),
        ..Metadata::default()
    }
}

/// The joined `tracestate`; dropped as a whole if it is too long.
fn state(headers: &HeaderMap) -> Option<Arc<str>> {
    let values = headers.get_all("tracestate").iter().map(|value| value.to_str().ok());
    let state = values.collect::<Option<Vec<_>>>()?.join(",");
    (1..=MAX_STATE_BYTES).contains(&state.len()).then(|| state.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (axum::http::HeaderName::from_static(name), value.parse().unwrap())
        };
        let mut headers = HeaderMap::new();
        for (name, value) in pairs.iter().map(pair) {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn should_ignore_a_repeated_traceparent() {
        assert_eq!(parent_of(&headers(&[("traceparent", PARENT)])), PARENT.parse().ok());
        let twice = headers(&[("traceparent", PARENT), ("traceparent", PARENT)]);
        assert_eq!(Trace::of(&twice), None);
    }

    #[test]
    fn should_join_the_states_of_a_trace_and_ignore_long_ones() {
        let of = |pairs: &[(&'static str, &str)]| {
            let pairs = [&[("traceparent", PARENT)][..], pairs].concat();
            Trace::of(&headers(&pairs)).unwrap().state
        };
        let joined = of(&[("tracestate", "a=1"), ("tracestate", "b=2")]);
        assert_eq!(joined.as_deref(), Some("a=1,b=2"));
        let long = "x".repeat(MAX_STATE_BYTES + 1);
        assert_eq!((of(&[]), of(&[("tracestate", long.as_str())])), (None, None));
    }

    #[test]
    fn should_answer_with_the_trace_and_another_span() {
        let trace = Trace::of(&headers(&[("traceparent", PARENT)])).unwrap();
        assert_eq!(trace.id(), "0af7651916cd43dd8448eb211c80319c");
        let response = trace.response().unwrap();
        let response: TraceParent = response.to_str().unwrap().parse().unwrap();
        let parent: TraceParent = PARENT.parse().unwrap();
        assert_eq!((response.trace_id, response.flags), (parent.trace_id, parent.flags));
        assert_ne!(response.span_id, parent.span_id);
    }
}
