//! Operations and attempts that have begun and not ended.

use std::collections::BTreeMap;

use aios_agents::trace::SpanId;
use aios_core::{
    agent::SPAN_ATTRIBUTES,
    event::{Event, Payload, Timestamp},
};

use super::{AttributeValue, Span, SpanKind, SpanStatus, gen_ai};

/// How many changes of the highest operation are remembered.
const REQUESTS: usize = 10_000;

/// An operation.
#[derive(Debug)]
pub(super) struct Open {
    /// Of the whole operation.
    pub(super) span: Span,
    /// The attempt in progress; none for operations without attempts.
    pub(super) attempt: Option<Attempt>,
}

/// An attempt at an operation.
#[derive(Debug)]
pub(super) struct Attempt {
    /// From 1.
    pub(super) number: u32,
    /// Of the attempt; its parent is the operation.
    pub(super) span: Span,
    /// The id of the event that assigned it.
    pub(super) assignment: Option<Box<str>>,
}

impl Open {
    /// The spans that have not ended.
    pub(super) fn spans(&self) -> impl Iterator<Item = &Span> {
        std::iter::once(&self.span).chain(self.attempt.iter().map(|attempt| &attempt.span))
    }

    /// Begins an attempt, unless it has begun.
    pub(super) fn begin_attempt(
        &mut self,
        span_id: SpanId,
        number: u32,
        kind: SpanKind,
        start: Timestamp,
    ) -> &mut Attempt {
        let Self { span: operation, attempt } = self;
        if attempt.as_ref().is_some_and(|attempt| attempt.number != number) {
            *attempt = None;
        }
        attempt.get_or_insert_with(|| {
            let mut attributes = operation.attributes.clone();
            attributes.push(("aios.attempt".into(), number.into()));
            let span = Span {
                span_id,
                parent: Some(operation.span_id),
                name: format!("{} attempt", operation.name),
                kind,
                start: start.max(operation.start),
                attributes,
                ..operation.clone()
            };
            Attempt { number, span, assignment: None }
        })
    }

    /// Ends the operation and its attempt with the same status. The attempt comes first: spans are
    /// listed in the order in which they end.
    pub(super) fn end(self, at: Timestamp, status: &SpanStatus, spans: &mut Vec<Span>) {
        let Self { span, attempt } = self;
        spans.extend(attempt.map(|attempt| attempt.ended(at, status.clone())));
        spans.push(ended(span, at, status.clone()));
    }

    /// Ends it together with the run, which did not wait for it.
    pub(super) fn abandon(self, at: Timestamp, spans: &mut Vec<Span>) {
        let Self { span, attempt } = self;
        spans.extend(attempt.map(|attempt| attempt.abandoned(at)));
        spans.push(abandoned(span, at));
    }
}

impl Attempt {
    /// Adds the attributes that the agent has set, from its answer. Those of aios keep their values.
    /// Attributes of generative AI also name the attempt and its run.
    pub(super) fn describe(&mut self, answer: &Event, run: Option<&mut Span>) {
        let set = answer.metadata.extra.value(SPAN_ATTRIBUTES);
        let set = set.and_then(|it| it.decode::<BTreeMap<String, Payload>>().ok());
        for (name, value) in set.into_iter().flatten() {
            if let Ok(value) = value.decode::<AttributeValue>()
                && self.span.attribute(&name).is_none()
            {
                self.span.attributes.push((name.into(), value));
            }
        }
        gen_ai::name_attempt(&mut self.span);
        if let Some(run) = run {
            gen_ai::name_run(run, &self.span);
        }
    }

    /// Ends it with an outcome.
    pub(super) fn ended(self, at: Timestamp, status: SpanStatus) -> Span {
        ended(self.span, at, status)
    }

    /// Ends it without an outcome.
    pub(super) fn abandoned(self, at: Timestamp) -> Span {
        abandoned(self.span, at)
    }
}

/// Ends a span, not before it began: clocks of engines differ.
pub(super) fn ended(span: Span, at: Timestamp, status: SpanStatus) -> Span {
    Span { end: Some(at.max(span.start)), status, ..span }
}

/// Ends a span without an outcome.
fn abandoned(mut span: Span, at: Timestamp) -> Span {
    span.attributes.push(("aios.abandoned".into(), true.into()));
    ended(span, at, SpanStatus::Unset)
}

/// When operations were requested. A journal does not say that a step begins. Operations are numbered in
/// the order of their requests, and the code requests them after an event was applied: an operation was
/// requested after the last event that stands before all events of it and of later operations.
#[derive(Debug)]
pub(super) struct Requests {
    /// By the highest operation of an event: the time of the event before it.
    times: BTreeMap<u64, Timestamp>,
    /// Time of the last event.
    pub(super) last: Timestamp,
}

impl Default for Requests {
    fn default() -> Self {
        Self { times: BTreeMap::new(), last: Timestamp::UNIX_EPOCH }
    }
}

impl Requests {
    /// Notes that the next event is about this operation.
    pub(super) fn note(&mut self, operation: u64) {
        if self.times.last_key_value().is_none_or(|(highest, _)| *highest < operation) {
            self.times.insert(operation, self.last);
        }
        if self.times.len() > REQUESTS {
            self.times.pop_first();
        }
    }

    /// When an operation was requested.
    pub(super) fn time(&self, operation: u64) -> Timestamp {
        self.times.range(operation..).next().map_or(self.last, |(_, time)| *time)
    }

    /// How many changes are remembered.
    #[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "the exporter uses it"))]
    pub(super) fn len(&self) -> usize {
        self.times.len()
    }
}

/// Numbers of operations. Those that follow each other take no space of their own.
#[derive(Debug, Default)]
pub(super) struct Numbers(BTreeMap<u64, u64>);

impl Numbers {
    /// Whether a number was inserted.
    pub(super) fn contains(&self, number: u64) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    /// Inserts a number, and joins it with the sequences before and after it.
    pub(super) fn insert(&mut self, number: u64) {
        if self.contains(number) {
            return;
        }
        let after = number.checked_add(1).and_then(|next| self.0.remove(&next)).unwrap_or(number);
        match self.0.range_mut(..number).next_back() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = after,
            _ => drop(self.0.insert(number, after)),
        }
    }

    /// How many sequences of numbers there are.
    #[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "the exporter uses it"))]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn should_contain_what_was_inserted_and_join_sequences() {
        let mut numbers = Numbers::default();
        let mut set = BTreeSet::new();
        for number in [5, 3, 4, 9, u64::MAX, 4, 1, 2, u64::MAX - 1, 7, 8, 6] {
            numbers.insert(number);
            set.insert(number);
            let all = (0..12).chain([u64::MAX - 2, u64::MAX - 1, u64::MAX]);
            for candidate in all {
                assert_eq!(numbers.contains(candidate), set.contains(&candidate), "{candidate}");
            }
        }
        assert_eq!(numbers.len(), 2, "{numbers:?}");
    }

    #[test]
    fn should_know_after_which_event_an_operation_was_requested() {
        let mut requests = Requests::default();
        let at = Timestamp::from_micros;
        for (operation, time) in [(1, 10), (3, 20), (2, 30), (4, 40)] {
            requests.last = at(time);
            requests.note(operation);
        }
        // The second one was requested before the first event of the third one.
        let times = [1, 2, 3, 4].map(|operation| requests.time(operation));
        assert_eq!(times, [at(10), at(20), at(20), at(40)]);
    }
}
