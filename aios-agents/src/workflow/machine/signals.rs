//! Signals that no operation has taken, and operations that wait for signals.
//!
//! Signals arrive at any time, even before the code waits for them. Two rules make the choice the same
//! in every replay: signals of a name are taken in the order of their places in the journal, and the
//! operation with the lowest number takes the next one. A signal whose call is dropped before the code
//! has seen it returns to its former place.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use aios_core::event::Payload;

/// Untaken signals, and the operations that wait for signals.
///
/// The operation that has waited longest for a name takes the next signal of that name, in journal
/// order.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// Untaken signals by name, each with its place in the journal.
    kept: BTreeMap<Box<str>, VecDeque<(u64, Payload)>>,
    /// Operations that wait, by the name of the signal. The lowest number has waited longest.
    waiting: BTreeMap<Box<str>, BTreeSet<u64>>,
    /// Names that may have both untaken signals and waiting operations. Saves looking at all names each
    /// time the code is idle; outdated names are removed by `first_match`.
    matching: BTreeSet<Box<str>>,
    /// Places of all signals, in the order of their arrival. Their indices are the numbers by which a
    /// successor names those that it inherits.
    places: Vec<u64>,
}

impl Signals {
    /// Adds an operation that waits for a signal. Returns whether an untaken signal is left for it, and
    /// the operation that it takes this signal from, which was called later but requested earlier.
    pub(super) fn add_waiter(&mut self, name: &str, operation: u64) -> (bool, Option<u64>) {
        let kept = self.kept.get(name).map_or(0, VecDeque::len);
        if kept > 0 {
            self.matching.insert(name.into());
        }
        let waiting = self.waiting.entry(name.into()).or_default();
        waiting.insert(operation);
        let is_served = waiting.iter().take(kept).any(|&served| served == operation);
        let displaced = waiting.iter().nth(kept).copied().filter(|_| is_served);
        (is_served, displaced)
    }

    /// Removes an operation that waits for a signal.
    pub(super) fn remove_waiter(&mut self, name: &str, operation: u64) {
        if let Some(waiting) = self.waiting.get_mut(name) {
            waiting.remove(&operation);
            if waiting.is_empty() {
                self.waiting.remove(name);
            }
        }
    }

    /// The operation that has waited longest for a signal with this name.
    pub(super) fn longest_wait(&self, name: &str) -> Option<u64> {
        self.waiting.get(name)?.first().copied()
    }

    /// Keeps a signal for the next wait. A returned signal gets its former place in the queue.
    pub(super) fn keep(&mut self, name: Box<str>, place: u64, payload: Payload) {
        if self.waiting.contains_key(&name) {
            self.matching.insert(name.clone());
        }
        let kept = self.kept.entry(name).or_default();
        let index = kept.partition_point(|(other, _)| *other < place);
        kept.insert(index, (place, payload));
    }

    /// The first untaken signal that an operation waits for: its place, and the operation.
    pub(super) fn first_match(&mut self) -> Option<(u64, u64)> {
        let Self { kept, waiting, matching, .. } = self;
        if matching.is_empty() {
            return None;
        }
        matching.retain(|name| kept.contains_key(name) && waiting.contains_key(name));
        let places = matching.iter().filter_map(|name| {
            let (place, _) = kept.get(name)?.front()?;
            Some((*place, *waiting.get(name)?.first()?))
        });
        places.min()
    }

    /// Notes the place of a signal that was applied.
    pub(super) fn record_place(&mut self, place: u64) {
        self.places.push(place);
    }

    /// The untaken signals, numbered from 1 in the order of arrival of all signals.
    pub(super) fn untaken(&self) -> Vec<u64> {
        let kept: BTreeSet<u64> = self.kept.values().flatten().map(|(place, _)| *place).collect();
        let numbered = (1..).zip(&self.places).filter(|(_, place)| kept.contains(place));
        numbered.map(|(number, _)| number).collect()
    }

    /// Takes the first untaken signal with this name.
    pub(super) fn take(&mut self, name: &str) -> Option<(u64, Payload)> {
        let kept = self.kept.get_mut(name)?;
        let taken = kept.pop_front();
        if kept.is_empty() {
            self.kept.remove(name);
        }
        taken
    }
}
