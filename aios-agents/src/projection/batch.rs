//! Batches of events, and the positions that they end at.
//!
//! A batch ends just before the next event that matches. So a projection that saves the position of
//! a batch also passes the events that its patterns do not match. All batches of a page share its
//! events.

use std::{ops::Range, sync::Arc};

use aios_core::{event::Pattern, store::RecordedEvent};

/// Events to apply together. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The matching events of a page of the log.
    page: Arc<[RecordedEvent]>,
    /// The ones of this batch.
    range: Range<usize>,
    /// Everything up to here is applied when the batch is.
    position: u64,
    attempt: u32,
    redriven: bool,
}

impl Batch {
    /// The events, in the order of the log. May be empty after many events that the patterns do not
    /// match; then only the position must be saved.
    #[must_use]
    pub fn events(&self) -> &[RecordedEvent] {
        self.page.get(self.range.clone()).unwrap_or_default()
    }

    /// The position of the projection after this batch. A projection that keeps its own position
    /// saves this value in the transaction that applies the events.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Number of this attempt, starting at 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether this is a redriven dead letter. Its event is older than those applied before.
    #[must_use]
    pub fn is_redriven(&self) -> bool {
        self.redriven
    }

    /// A batch without events that ends at a position.
    pub(super) fn empty(position: u64) -> Self {
        Self { page: Arc::default(), range: 0..0, position, attempt: 1, redriven: false }
    }

    /// A redriven dead letter, while the projection is at `position`.
    pub(super) fn redriven(recorded: RecordedEvent, position: u64) -> Self {
        Self { page: Arc::new([recorded]), range: 0..1, redriven: true, ..Self::empty(position) }
    }

    /// Divides the matching events of a page into batches of at most `size`. The last batch ends at
    /// the end of the page.
    pub(super) fn divide(page: Vec<RecordedEvent>, patterns: &[Pattern], size: usize) -> Vec<Self> {
        let Some(end) = page.last().map(|last| last.position) else { return Vec::new() };
        let wanted = |recorded: &RecordedEvent| {
            patterns.iter().any(|pattern| pattern.matches(&recorded.event.event_type))
        };
        let page: Arc<[_]> = page.into_iter().filter(wanted).collect();
        let mut batches: Vec<Self> = (0..page.len())
            .step_by(size)
            .map(|first| {
                let range = first..page.len().min(first + size);
                Self { page: Arc::clone(&page), range, ..Self::empty(end) }
            })
            .collect();
        // All batches end at the end of the page until here; only the last one really does.
        for index in 1..batches.len() {
            let next = batches.get(index).and_then(|it| it.events().first());
            let before = next.map_or(end, |next| next.position - 1);
            if let Some(batch) = batches.get_mut(index - 1) {
                batch.position = before;
            }
        }
        if batches.is_empty() {
            batches.push(Self::empty(end));
        }
        batches
    }

    /// The part that a projection at this position has not applied; `None` if it has applied all.
    pub(super) fn after(&self, position: u64) -> Option<Self> {
        if position >= self.position {
            return None;
        }
        // A redriven event is older than the position.
        let is_applied = |recorded: &RecordedEvent| !self.redriven && recorded.position <= position;
        let start = self.range.start + self.events().partition_point(is_applied);
        Some(Self { range: start..self.range.end, ..self.clone() })
    }

    /// The same events, in batches of one.
    pub(super) fn singles(&self) -> impl Iterator<Item = Self> + '_ {
        self.range.clone().map(|index| {
            let range = index..index + 1;
            let next = self.page.get(index + 1).filter(|_| index + 1 < self.range.end);
            let position = next.map_or(self.position, |next| next.position - 1);
            Self { range, position, ..self.clone() }
        })
    }

    /// Sets the number of the attempt.
    pub(super) fn with_attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }
}

#[cfg(test)]
mod tests {
    use aios_core::event::Event;

    use super::*;

    fn page(types: &[&str]) -> Vec<RecordedEvent> {
        let recorded = |(position, event_type): (u64, &&str)| RecordedEvent {
            position,
            stream: "orders/1".parse().unwrap(),
            version: position,
            event: Event::new(event_type.parse().unwrap(), "test", &position).unwrap(),
        };
        (11..).zip(types).map(recorded).collect()
    }

    fn shape(batches: impl IntoIterator<Item = Batch>) -> Vec<(Vec<u64>, u64)> {
        let positions = |it: &Batch| it.events().iter().map(|event| event.position).collect();
        batches.into_iter().map(|it| (positions(&it), it.position())).collect()
    }

    #[test]
    fn should_hand_over_what_matches_and_leave_no_gap() {
        let a = "orders.order.placed";
        let b = "users.user.seen";
        let patterns = ["orders.#".parse().unwrap()];
        let divide = |types: &[&str]| Batch::divide(page(types), &patterns, 2);
        assert_eq!(shape(divide(&[b, a, b, a, a, b])), [(vec![12, 14], 14), (vec![15], 16)],);
        assert_eq!(shape(divide(&[b, b])), [(vec![], 12)]);
        assert_eq!(shape(divide(&[])), []);
    }

    #[test]
    fn should_lead_event_by_event_to_where_the_batch_leads() {
        let a = "orders.order.placed";
        let batches =
            Batch::divide(page(&[a, a, "users.user.seen"]), &["orders.#".parse().unwrap()], 9);
        assert_eq!(shape(batches), [(vec![11, 12], 13)]);
        let batches =
            Batch::divide(page(&[a, a, "users.user.seen"]), &["orders.#".parse().unwrap()], 9);
        let singles: Vec<_> = batches.iter().flat_map(Batch::singles).collect();
        assert_eq!(shape(singles), [(vec![11], 11), (vec![12], 13)]);
    }
}
