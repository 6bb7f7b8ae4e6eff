//! Where the spans of requests go.

use std::{fmt, sync::Arc};

use super::Span;

/// Takes the spans of the requests to an API; see
/// [`ApiOptions::with_request_spans`](crate::http::ApiOptions::with_request_spans).
///
/// # Examples
///
/// Slow requests in the log:
///
/// ```
/// use std::time::Duration;
///
/// use aios_service::telemetry::traces::RequestSpans;
///
/// let spans = RequestSpans::new(|span| {
///     let took = span.end.map(|end| end.duration_since(span.start));
///     if took > Some(Duration::from_secs(1)) {
///         tracing::warn!(name = span.name, ?took, "a request was slow");
///     }
/// });
/// # drop(spans);
/// ```
#[derive(Clone)]
pub struct RequestSpans(Arc<dyn Fn(Span) + Send + Sync>);

impl RequestSpans {
    /// Passes each span to a function when its request is answered. The function must not wait: the answer is sent
    /// after it.
    pub fn new(take: impl Fn(Span) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    /// Passes a span on.
    pub(crate) fn take(&self, span: Span) {
        (self.0)(span);
    }
}

impl fmt::Debug for RequestSpans {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RequestSpans").finish_non_exhaustive()
    }
}
