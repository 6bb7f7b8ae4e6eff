//! Spans as messages of OTLP.

use aios_core::event::Timestamp;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span as Message, Status,
        span::{Link, SpanKind as Kind},
        status::StatusCode,
    },
};
use prost::Message as _;

use crate::telemetry::traces::{AttributeValue, Span, SpanKind, SpanStatus};

/// A request that sends spans of a service to a collector.
pub(super) fn request(service: &str, spans: &[Span]) -> Vec<u8> {
    let resource = Resource {
        attributes: vec![attribute("service.name", &AttributeValue::from(service))],
        ..Resource::default()
    };
    let scope = InstrumentationScope {
        name: "aios".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let spans = spans.iter().map(message).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
    let resource_spans =
        vec![ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

fn message(span: &Span) -> Message {
    let kind = match span.kind {
        SpanKind::Internal => Kind::Internal,
        SpanKind::Server => Kind::Server,
        SpanKind::Producer => Kind::Producer,
        SpanKind::Consumer => Kind::Consumer,
    };
    let link = |link: &super::super::SpanLink| Link {
        trace_id: link.trace_id.to_bytes().to_vec(),
        span_id: link.span_id.to_bytes().to_vec(),
        ..Link::default()
    };
    let mut attributes: Vec<_> =
        span.attributes.iter().map(|(name, value)| attribute(name, value)).collect();
    if let SpanStatus::Error(code) = &span.status {
        attributes.push(attribute("error.type", &AttributeValue::Text(code.clone())));
    }
    Message {
        trace_id: span.trace_id.to_bytes().to_vec(),
        span_id: span.span_id.to_bytes().to_vec(),
        parent_span_id: span.parent.map(|id| id.to_bytes().to_vec()).unwrap_or_default(),
        name: span.name.clone(),
        kind: kind.into(),
        start_time_unix_nano: nanoseconds(span.start),
        end_time_unix_nano: nanoseconds(span.end.unwrap_or(span.start)),
        attributes,
        links: span.links.iter().map(link).collect(),
        status: Some(status(&span.status)),
        ..Message::default()
    }
}

fn status(status: &SpanStatus) -> Status {
    let (code, message) = match status {
        SpanStatus::Unset => (StatusCode::Unset, ""),
        SpanStatus::Ok => (StatusCode::Ok, ""),
        SpanStatus::Error(code) => (StatusCode::Error, &**code),
    };
    Status { code: code.into(), message: message.to_owned() }
}

fn attribute(name: &str, value: &AttributeValue) -> KeyValue {
    let value = match value {
        AttributeValue::Text(text) => Value::StringValue(text.to_string()),
        AttributeValue::Number(number) => Value::IntValue(*number),
        AttributeValue::Flag(flag) => Value::BoolValue(*flag),
    };
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: name.to_owned(), value, ..KeyValue::default() }
}

/// Nanoseconds since 1970. Earlier times are written as 1970.
fn nanoseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or_default().saturating_mul(1000)
}
