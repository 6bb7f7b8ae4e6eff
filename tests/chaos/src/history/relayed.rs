//! Whether every lifecycle event of the log arrives at a subscriber, in the order of its stream.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use super::Counts;

/// How long before RabbitMQ is replaced an event may be logged that is lost with its data.
const BEFORE: Duration = Duration::from_secs(10);
/// How long after RabbitMQ was replaced the subscriber may need to be connected.
const AFTER: Duration = Duration::from_secs(30);

/// The lifecycle events in the log and at the subscriber.
#[derive(Debug, Default)]
pub(super) struct Relayed {
    /// Those in the log, in its order.
    logged: Vec<Logged>,
    /// The order in which they arrived first.
    arrived: HashMap<String, usize>,
    again: u64,
}

/// A lifecycle event in the log.
#[derive(Debug)]
struct Logged {
    stream: String,
    event: String,
    at: Duration,
}

impl Relayed {
    pub(super) fn logged(&mut self, stream: &str, event: &str, at: Duration) {
        let (stream, event) = (stream.to_owned(), event.to_owned());
        self.logged.push(Logged { stream, event, at });
    }

    pub(super) fn arrived(&mut self, event: &str) {
        let number = self.arrived.len();
        match self.arrived.contains_key(event) {
            true => self.again += 1,
            false => drop(self.arrived.insert(event.to_owned(), number)),
        }
    }

    pub(super) fn count(&self, counts: &mut Counts) {
        counts.relayed = u64::try_from(self.logged.len()).unwrap_or(u64::MAX);
        counts.relayed_again = self.again;
    }

    /// The events that are missing or out of order, and the number of those that are missing because
    /// RabbitMQ was replaced in one of these periods.
    pub(super) fn faults(&self, replaced: &[(Duration, Duration)]) -> (Vec<String>, u64) {
        let is_excused = |at: Duration| {
            let hits = |(from, until): &(Duration, Duration)| {
                at + BEFORE >= *from && at <= until.saturating_add(AFTER)
            };
            replaced.iter().any(hits)
        };
        let (mut faults, mut lost) = (Vec::new(), 0);
        let mut latest: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
        for Logged { stream, event, at } in &self.logged {
            let Some(number) = self.arrived.get(event).copied() else {
                match is_excused(*at) {
                    true => lost += 1,
                    false => faults.push(format!("event {event} of {stream} was not relayed")),
                }
                continue;
            };
            // In the order of the log: none of the later events of the stream may come earlier.
            let last = latest.entry(stream).or_insert((number, event));
            match number < last.0 && !is_excused(*at) {
                true => faults.push(format!("event {event} of {stream} came before {}", last.1)),
                false => *last = (number.max(last.0), event),
            }
        }
        (faults, lost)
    }
}
