//! From events to lines.
//!
//! Fields of a span are recorded once, when it is created, and kept with the span. An event
//! collects the fields of all spans around it, from the innermost outwards; a name that is already
//! set is not overwritten. Events inside the replay of a run are dropped: the run wrote them when
//! it did the work.

use aios_core::clock::{Clock, SystemClock};
use serde_json::Value;
use tracing::{
    Event, Subscriber,
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use super::{SPANS, fields::Fields, line::Line, sink::Sink};
use crate::config::Redaction;

/// The span in which a run repeats what it has done.
const REPLAY: (&str, &str) = ("replay", SPANS);
/// W3C Trace Context, written as `trace_id` and `span_id`.
const TRACE_PARENT: &str = "traceparent";

/// Parts of the answer that closes a channel because it asked for a queue that does not exist: the code,
/// and the class and the method of `queue.declare`.
const MISSING_QUEUE: [&str; 3] = ["reply_code: 404", "class_id: 50,", "method_id: 10 "];

/// Turns events into lines, with the fields of the spans around them.
pub(super) struct LogLayer {
    /// Whether lines are JSON.
    is_json: bool,
    /// Which values are masked.
    redaction: Redaction,
    /// Where lines go.
    sink: Sink,
}

impl LogLayer {
    /// A layer that writes to a sink.
    pub(super) fn new(is_json: bool, redaction: Redaction, sink: Sink) -> Self {
        Self { is_json, redaction, sink }
    }
}

impl<S: Subscriber + for<'l> LookupSpan<'l>> Layer<S> for LogLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::new(&self.redaction);
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::new(&self.redaction);
        event.record(&mut fields);
        let metadata = event.metadata();
        if is_expected(metadata.target(), &fields) {
            return;
        }
        let mut values = Vec::new();
        merge(&mut values, &fields.values);
        for span in context.event_scope(event).into_iter().flatten() {
            if (span.name(), span.metadata().target()) == REPLAY {
                return;
            }
            if let Some(fields) = span.extensions().get::<Fields>() {
                merge(&mut values, &fields.values);
            }
        }
        let line = Line {
            time: SystemClock.now(),
            level: *metadata.level(),
            message: &fields.message,
            target: metadata.target(),
            values: &values,
        };
        self.sink.write(line.format(self.is_json));
    }
}

/// Whether lapin calls an error what is the answer to a question of the RabbitMQ adapter: AMQP tells that
/// a queue does not exist only by closing the channel. The caller gets the answer.
fn is_expected(target: &str, fields: &Fields) -> bool {
    let is_answer = |name: &str, value: &Value| {
        let text = value.as_str().unwrap_or_default();
        name == "method" && MISSING_QUEUE.iter().all(|part| text.contains(part))
    };
    target == "lapin::channel" && fields.values.iter().any(|(name, it)| is_answer(name, it))
}

/// Adds the fields whose names are new.
fn merge(values: &mut Vec<(&'static str, Value)>, fields: &[(&'static str, Value)]) {
    for (name, value) in fields {
        match (*name, value) {
            (TRACE_PARENT, Value::String(parent)) => {
                // The format is checked where it is read: version, trace, span, flags.
                let mut parts = parent.split('-').skip(1);
                for name in ["trace_id", "span_id"] {
                    let part = parts.next().unwrap_or_default();
                    put(values, name, &Value::from(part));
                }
            }
            (name, value) => put(values, name, value),
        }
    }
}

/// Adds a field, unless its name is set.
fn put(values: &mut Vec<(&'static str, Value)>, name: &'static str, value: &Value) {
    if !values.iter().any(|(known, _)| *known == name) {
        values.push((name, value.clone()));
    }
}
