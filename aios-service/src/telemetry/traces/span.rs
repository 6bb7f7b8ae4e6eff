//! Spans, in the terms of OpenTelemetry.

use std::borrow::Cow;

use aios_agents::trace::{SpanId, TraceId};
use aios_core::event::Timestamp;
use serde::{Deserialize, Serialize, Serializer};

/// A span of a run: something that took time.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Span {
    /// The trace.
    pub trace_id: TraceId,
    /// The id, derived from the run's incarnation, the operation and the attempt.
    pub span_id: SpanId,
    /// The span to which this one belongs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<SpanId>,
    /// A name such as `task summarizer`.
    pub name: String,
    /// The role in the exchange of events.
    pub kind: SpanKind,
    /// When it began.
    pub start: Timestamp,
    /// When it ended; `None` if it is in progress.
    pub end: Option<Timestamp>,
    /// Whether it failed.
    pub status: SpanStatus,
    /// Names and values, such as `aios.run_id`. Those of an attempt include what the agent has set, see
    /// [`TaskContext::set_attribute`](aios_core::agent::TaskContext::set_attribute).
    #[serde(serialize_with = "as_map")]
    pub attributes: Vec<(Cow<'static, str>, AttributeValue)>,
    /// Spans of other traces that led to this one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<SpanLink>,
}

impl Span {
    /// The value of an attribute.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&AttributeValue> {
        self.attributes.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

/// Attributes as an object.
fn as_map<S: Serializer>(
    attributes: &[(Cow<'static, str>, AttributeValue)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(attributes.iter().map(|(name, value)| (name, value)))
}

/// The role of a span in the exchange of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SpanKind {
    /// Work within the engine: a run, a step, a timer, a wait.
    Internal,
    /// A request that a service answers.
    Server,
    /// A request to another service: a call of a language model.
    Client,
    /// Work that is given to others: a task, a child.
    Producer,
    /// Work that was taken from others: an attempt of a task.
    Consumer,
}

/// How a span ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "code", content = "error")]
#[non_exhaustive]
pub enum SpanStatus {
    /// It is in progress, was cancelled, or was no longer needed.
    Unset,
    /// It succeeded.
    Ok,
    /// It failed with this code.
    Error(Box<str>),
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum AttributeValue {
    /// A text.
    Text(Box<str>),
    /// A whole number.
    Number(i64),
    /// A number with a fraction.
    Fraction(f64),
    /// True or false.
    Flag(bool),
    /// A list of texts.
    List(Vec<Box<str>>),
}

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<u64> for AttributeValue {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for AttributeValue {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<bool> for AttributeValue {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// A span of another trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SpanLink {
    /// The other trace.
    pub trace_id: TraceId,
    /// The span.
    pub span_id: SpanId,
}
