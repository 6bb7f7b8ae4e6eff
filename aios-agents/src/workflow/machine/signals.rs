use std::collections::{BTreeMap, BTreeSet, VecDeque};

use aios_core::event::Payload;

/// Signals that no operation has taken, and the operations that wait for signals.
///
/// Each signal is taken by the longest wait for its name, in the order of the journal.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// Untaken ones by name, each with its place in the journal.
    kept: BTreeMap<Box<str>, VecDeque<(u64, Payload)>>,
    waiting: BTreeMap<Box<str>, BTreeSet<u64>>,
    /// Names of which there may be both.
    matching: BTreeSet<Box<str>>,
    /// Places of all that came, in the order of their coming.
    places: Vec<u64>,
}

impl Signals {
    /// An operation waits for a signal from now on. Returns whether one is kept for it.
    pub(super) fn join(&mut self, name: &str, operation: u64) -> bool {
        let kept = self.has_for_another(name);
        if self.kept.contains_key(name) {
            self.matching.insert(name.into());
        }
        self.waiting.entry(name.into()).or_default().insert(operation);
        kept
    }

    /// Whether there are more signals kept than operations that wait for them.
    pub(super) fn has_for_another(&self, name: &str) -> bool {
        let kept = self.kept.get(name).map_or(0, VecDeque::len);
        kept > self.waiting.get(name).map_or(0, BTreeSet::len)
    }

    /// An operation waits no longer.
    pub(super) fn leave(&mut self, name: &str, operation: u64) {
        if let Some(waiting) = self.waiting.get_mut(name) {
            waiting.remove(&operation);
            if waiting.is_empty() {
                self.waiting.remove(name);
            }
        }
    }

    /// The operation that waits longest for a signal with this name.
    pub(super) fn longest_wait(&self, name: &str) -> Option<u64> {
        self.waiting.get(name)?.first().copied()
    }

    /// Keeps a signal for the next wait. One that was given back goes where it was.
    pub(super) fn keep(&mut self, name: Box<str>, place: u64, payload: Payload) {
        if self.waiting.contains_key(&name) {
            self.matching.insert(name.clone());
        }
        let kept = self.kept.entry(name).or_default();
        let index = kept.partition_point(|(other, _)| *other < place);
        kept.insert(index, (place, payload));
    }

    /// The first kept signal that an operation waits for: its place and that operation.
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

    /// A signal was applied that stands at this place.
    pub(super) fn came(&mut self, place: u64) {
        self.places.push(place);
    }

    /// The signals that are kept, by their number among all that came, from 1.
    pub(super) fn untaken(&self) -> Vec<u64> {
        let kept: BTreeSet<u64> = self.kept.values().flatten().map(|(place, _)| *place).collect();
        let numbered = (1..).zip(&self.places).filter(|(_, place)| kept.contains(place));
        numbered.map(|(number, _)| number).collect()
    }

    /// Takes the first signal kept with this name.
    pub(super) fn take(&mut self, name: &str) -> Option<(u64, Payload)> {
        let kept = self.kept.get_mut(name)?;
        let taken = kept.pop_front();
        if kept.is_empty() {
            self.kept.remove(name);
        }
        taken
    }
}
