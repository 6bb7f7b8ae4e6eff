//! The trace to which a request belongs (W3C Trace Context), and the metadata of what it starts.

use std::sync::Arc;

use aios_core::event::{EventId, Metadata};
use axum::http::{HeaderMap, HeaderValue};

use crate::auth::Identity;

pub(crate) const TRACE_RESPONSE: &str = "traceresponse";
/// Longest `tracestate` that is passed on. The standard asks for no more.
const MAX_STATE_BYTES: usize = 512;

/// A trace, from the headers `traceparent` and `tracestate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    /// In the form of version 00.
    parent: Arc<str>,
    state: Option<Arc<str>>,
}

impl Trace {
    /// Reads the trace of a request. `None` if it has none, or one that is not valid, which the
    /// standard says to ignore.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all("traceparent").iter();
        let (value, None) = (values.next()?, values.next()) else { return None };
        let parent = parent(value.to_str().ok()?)?.into();
        Some(Self { parent, state: state(headers) })
    }

    /// The id of the trace.
    pub(crate) fn id(&self) -> &str {
        self.parent.get(3..35).unwrap_or_default()
    }

    /// The value of `traceresponse`, with a new id for the handling of the request.
    pub(crate) fn response(&self) -> Option<HeaderValue> {
        // The second half of a UUID is random, and never all zeros.
        let span = EventId::generate().to_string().replace('-', "");
        let (trace, span, flags) = (self.id(), span.get(16..)?, self.parent.get(53..)?);
        HeaderValue::try_from(format!("00-{trace}-{span}-{flags}")).ok()
    }
}

/// The metadata of what a request starts or publishes: its user and its trace.
pub(crate) fn metadata(
    identity: &Identity,
    headers: &HeaderMap,
    correlation: Option<String>,
) -> Metadata {
    let (traceparent, tracestate) =
        Trace::of(headers).map(|trace| (trace.parent, trace.state)).unzip();
    Metadata {
        correlation_id: correlation.map(Into::into),
        user_id: Some(identity.subject.clone()),
        traceparent,
        tracestate: tracestate.flatten(),
        ..Metadata::default()
    }
}

fn parent(text: &str) -> Option<String> {
    let mut fields = text.split('-');
    let (version, trace) = (fields.next()?, fields.next()?);
    let (span, flags) = (fields.next()?, fields.next()?);
    let is_valid = is_hex(version, 2)
        && version != "ff"
        && is_id(trace, 32)
        && is_id(span, 16)
        && is_hex(flags, 2)
        // Later versions may have more fields.
        && (version != "00" || fields.next().is_none());
    is_valid.then(|| format!("00-{trace}-{span}-{flags}"))
}

fn is_hex(field: &str, length: usize) -> bool {
    field.len() == length
        && field.bytes().all(|it| it.is_ascii_digit() || (b'a'..=b'f').contains(&it))
}

fn is_id(field: &str, length: usize) -> bool {
    is_hex(field, length) && field.bytes().any(|it| it != b'0')
}

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
    fn should_read_valid_traces_and_ignore_others() {
        let later =
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-brings";
        for text in [PARENT, later] {
            assert_eq!(parent(text).as_deref(), Some(PARENT), "{text}");
        }
        for text in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(parent(text), None, "{text:?}");
        }
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
        let response = trace.response().unwrap().to_str().unwrap().to_owned();
        let response = parent(&response).unwrap();
        assert_eq!((&response[..35], &response[53..]), (&PARENT[..35], "01"));
        assert_ne!(response[36..52], PARENT[36..52]);
    }
}
