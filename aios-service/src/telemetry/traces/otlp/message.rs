//! Spans as messages of OTLP.

use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{AnyValue, ArrayValue, any_value::Value},
    trace::v1::{
        ResourceSpans, ScopeSpans, Span as Message, Status,
        span::{Link, SpanKind as Kind},
        status::StatusCode,
    },
};

use crate::telemetry::{
    otlp::{Collector, CollectorError, Receipt, Signal, attribute, nanoseconds, resource, scope},
    traces::{AttributeValue, Span, SpanKind, SpanLink, SpanStatus},
};

impl Collector {
    /// Sends spans once.
    ///
    /// # Errors
    ///
    /// [`CollectorError::Unreachable`] if there is no answer within 10 s,
    /// [`CollectorError::Refused`] or [`CollectorError::GrpcStatus`] if the answer is not a success, and
    /// [`CollectorError::InvalidAnswer`] if the URL is not that of a collector.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have sent the spans. Spans that are sent again have the same ids.
    pub async fn send(&self, spans: &[Span]) -> Result<Receipt, CollectorError> {
        self.send_request(&self.request(spans.iter().cloned())).await
    }

    /// The request that sends spans.
    pub(super) fn request(
        &self,
        spans: impl IntoIterator<Item = Span>,
    ) -> ExportTraceServiceRequest {
        request(self.service(), spans)
    }

    /// Sends a request once, as [`send`](Self::send) does.
    pub(super) async fn send_request(
        &self,
        request: &ExportTraceServiceRequest,
    ) -> Result<Receipt, CollectorError> {
        let answer: ExportTraceServiceResponse = self.export(Signal::Traces, request).await?;
        let partial = answer.partial_success.unwrap_or_default();
        Ok(Receipt::new(partial.rejected_spans, &partial.error_message))
    }
}

/// A request that sends spans of a service to a collector.
fn request(service: &str, spans: impl IntoIterator<Item = Span>) -> ExportTraceServiceRequest {
    let service = attribute("service.name", Value::StringValue(service.to_owned()));
    let spans = spans.into_iter().map(message).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() }];
    let resource = Some(resource(vec![service]));
    let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }
}

/// A span of OTLP. The code of an error is also an attribute, by which backends group.
fn message(span: Span) -> Message {
    let kind = match span.kind {
        SpanKind::Internal => Kind::Internal,
        SpanKind::Server => Kind::Server,
        SpanKind::Client => Kind::Client,
        SpanKind::Producer => Kind::Producer,
        SpanKind::Consumer => Kind::Consumer,
    };
    let link = |link: &SpanLink| Link {
        trace_id: link.trace_id.to_bytes().to_vec(),
        span_id: link.span_id.to_bytes().to_vec(),
        ..Link::default()
    };
    let attributes = span.attributes.into_iter();
    let mut attributes: Vec<_> = attributes.map(|(name, it)| attribute(&name, value(it))).collect();
    if let SpanStatus::Error(code) = &span.status {
        attributes.push(attribute("error.type", Value::StringValue(code.to_string())));
    }
    Message {
        trace_id: span.trace_id.to_bytes().to_vec(),
        span_id: span.span_id.to_bytes().to_vec(),
        parent_span_id: span.parent.map(|id| id.to_bytes().to_vec()).unwrap_or_default(),
        name: span.name,
        kind: kind.into(),
        start_time_unix_nano: nanoseconds(span.start),
        end_time_unix_nano: nanoseconds(span.end.unwrap_or(span.start)),
        attributes,
        links: span.links.iter().map(link).collect(),
        status: Some(status(&span.status)),
        ..Message::default()
    }
}

/// The status of a span.
fn status(status: &SpanStatus) -> Status {
    let (code, message) = match status {
        SpanStatus::Unset => (StatusCode::Unset, ""),
        SpanStatus::Ok => (StatusCode::Ok, ""),
        SpanStatus::Error(code) => (StatusCode::Error, &**code),
    };
    Status { code: code.into(), message: message.to_owned() }
}

/// The value of an attribute.
fn value(value: AttributeValue) -> Value {
    match value {
        AttributeValue::Text(text) => Value::StringValue(text.into_string()),
        AttributeValue::Number(number) => Value::IntValue(number),
        AttributeValue::Fraction(number) => Value::DoubleValue(number),
        AttributeValue::Flag(flag) => Value::BoolValue(flag),
        AttributeValue::List(texts) => {
            let text = |text: Box<str>| AnyValue { value: Some(Value::StringValue(text.into())) };
            Value::ArrayValue(ArrayValue { values: texts.into_iter().map(text).collect() })
        }
    }
}
