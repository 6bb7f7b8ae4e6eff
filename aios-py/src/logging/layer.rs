//! Which events are forwarded, and which spans give them their fields.
//!
//! The fields of a span are recorded once, when it is created, and kept with it. Only spans of the level
//! `ERROR` are kept: those in which the code of runs, steps and tasks is polled, whatever the level of the
//! log is. Spans of other levels are for traces.

use std::sync::atomic::Ordering;

use tracing::{
    Event, Level, Metadata, Subscriber,
    metadata::LevelFilter,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};
use tracing_subscriber::{
    Layer,
    layer::Context,
    registry::{LookupSpan, SpanRef},
};

use super::{LEVEL, fields::Fields, send};

/// The span in which a run repeats what it has done; see `aios_agents`.
const REPLAY: (&str, &str) = ("replay", "aios_agents::workflow::span");

/// Sends events to the queue of the process. The only layer of the subscriber of the process.
pub(super) struct ForwardingLayer;

/// Whether the target is a crate of aios. The target of this crate begins with `_aios`.
fn is_own(target: &str) -> bool {
    target.trim_start_matches('_').starts_with("aios")
}

/// The number of a level in `logging`, which has none for traces: 5 is below its `DEBUG`.
fn number(level: Level) -> u8 {
    match level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        Level::DEBUG => 10,
        Level::TRACE => 5,
    }
}

/// Adds the fields of a span and of those around it. Returns false if one of them is a replay.
pub(super) fn add_spans<'a, S>(fields: &mut Fields, innermost: Option<&SpanRef<'a, S>>) -> bool
where
    S: Subscriber + LookupSpan<'a>,
{
    for span in innermost.into_iter().flat_map(SpanRef::scope) {
        if (span.name(), span.metadata().target()) == REPLAY {
            return false;
        }
        if let Some(outer) = span.extensions().get::<Fields>() {
            fields.add(outer);
        }
    }
    true
}

impl<S: Subscriber + for<'l> LookupSpan<'l>> Layer<S> for ForwardingLayer {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match (is_own(metadata.target()), metadata.is_event()) {
            // Decided for every event, because the level may change.
            (true, true) => Interest::sometimes(),
            (true, false) if *metadata.level() == Level::ERROR => Interest::always(),
            _ => Interest::never(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        is_own(metadata.target())
            && match metadata.is_event() {
                true => number(*metadata.level()) >= LEVEL.load(Ordering::Relaxed),
                false => *metadata.level() == Level::ERROR,
            }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        None
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
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
        let mut fields = Fields::default();
        event.record(&mut fields);
        if add_spans(&mut fields, context.event_span(event).as_ref()) {
            let metadata = event.metadata();
            send((number(*metadata.level()), metadata.target(), fields));
        }
    }
}
