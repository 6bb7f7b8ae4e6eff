//! Headers of messages, and values of AMQP.
//!
//! The adapter counts attempts in headers of its own, because the counters of the server mean other
//! things in other versions. They travel with the copy that replaces a failed event. The body is
//! never changed, so the event that a handler sees is byte for byte the one that was published.

use aios_core::event::Timestamp;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

/// How many attempts have failed.
const FAILURES: &str = "x-aios-failures";
/// When the first attempt failed, RFC 3339.
const FIRST_FAILURE: &str = "x-aios-first-failure";
/// Why the event is a dead letter.
const REASON: &str = "x-aios-reason";
/// When the next attempt is due, RFC 3339, if it is later than a delay queue holds the event.
const DUE: &str = "x-aios-due";
/// Whether the event was delivered before this copy of it was made.
const DELIVERED: &str = "x-aios-delivered";
/// Maximum length of a reason, in bytes. On a connection with small frames it is a quarter of one, because
/// the headers of an event must fit into one frame.
const MAX_REASON: usize = 8 << 10;
/// The queues that the server has moved a message out of, and why; the latest first.
const DEATHS: &str = "x-death";
/// Number of unsuccessful deliveries, counted by quorum queues.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// The delivery history of an event.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct DeliveryHistory {
    /// Attempts that failed.
    pub(super) failures: u32,
    /// When the first one failed.
    pub(super) first_failure: Option<Timestamp>,
    /// Why it is a dead letter; `None` before.
    pub(super) reason: Option<String>,
    /// When the next attempt is due, if a delay queue may return the event before.
    pub(super) due: Option<Timestamp>,
    /// Deliveries of this copy that were not settled.
    pub(super) returns: u32,
    /// Whether a handler may have received it before.
    pub(super) delivered: bool,
}

impl DeliveryHistory {
    /// Reads the headers. A missing or unreadable one counts as if nothing had happened yet.
    pub(super) fn read(properties: &BasicProperties) -> Self {
        let Some(headers) = properties.headers() else { return Self::default() };
        let value = |name: &str| headers.inner().get(name);
        Self {
            failures: value(FAILURES).and_then(number).unwrap_or_default(),
            first_failure: value(FIRST_FAILURE).and_then(text).and_then(|text| text.parse().ok()),
            reason: value(REASON).and_then(text),
            due: value(DUE).and_then(text).and_then(|text| text.parse().ok()),
            returns: value(DELIVERY_COUNT).and_then(number).unwrap_or_default(),
            delivered: value(DELIVERED).is_some(),
        }
    }

    /// Writes the headers of a copy. The count of returns is the server's and begins again with the
    /// copy.
    pub(super) fn write(&self, headers: &mut FieldTable) {
        if self.delivered {
            headers.insert(DELIVERED.into(), AMQPValue::Boolean(true));
        }
        if self.failures > 0 {
            headers.insert(FAILURES.into(), AMQPValue::LongLongInt(self.failures.into()));
        }
        if let Some(time) = self.first_failure {
            headers.insert(FIRST_FAILURE.into(), long(time.to_string()));
        }
        if let Some(due) = self.due {
            headers.insert(DUE.into(), long(due.to_string()));
        }
        if let Some(reason) = &self.reason {
            headers.insert(REASON.into(), long(truncate(reason, MAX_REASON)));
        }
    }
}

/// A text that needs no more than 255 bytes; a longer one is truncated.
pub(super) fn short(text: &str) -> ShortString {
    ShortString::try_new(truncate(text, 255)).unwrap_or_default()
}

/// Truncates a text to at most `bytes` bytes, at a character boundary.
pub(super) fn truncate(text: &str, bytes: usize) -> &str {
    let end = (0..=text.len().min(bytes)).rev().find(|&end| text.is_char_boundary(end));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}

/// Why the server last moved a message out of a queue, as it says. The first time may have been the end of
/// a pause in a delay queue.
pub(super) fn last_death(properties: &BasicProperties) -> Option<String> {
    let headers = properties.headers().as_ref()?;
    let AMQPValue::FieldArray(deaths) = headers.inner().get(DEATHS)? else { return None };
    let AMQPValue::FieldTable(last) = deaths.as_slice().first()? else { return None };
    last.inner().get("reason").and_then(text)
}

/// A text value.
pub(super) fn long(text: impl Into<String>) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text.into()))
}

/// The text of a value.
fn text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).ok(),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

/// The number of a value. Servers and clients choose different types of integers for the same
/// header.
fn number(value: &AMQPValue) -> Option<u32> {
    match value {
        AMQPValue::LongLongInt(number) => u32::try_from(*number).ok(),
        AMQPValue::LongInt(number) => u32::try_from(*number).ok(),
        AMQPValue::LongUInt(number) => Some(*number),
        AMQPValue::ShortInt(number) => u32::try_from(*number).ok(),
        AMQPValue::ShortUInt(number) => Some(u32::from(*number)),
        AMQPValue::ShortShortInt(number) => u32::try_from(*number).ok(),
        AMQPValue::ShortShortUInt(number) => Some(u32::from(*number)),
        _ => None,
    }
}

/// Builds the arguments of a declaration.
pub(super) fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(short(name), value);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_read_what_it_wrote() {
        let history = DeliveryHistory {
            failures: 3,
            first_failure: Some(Timestamp::UNIX_EPOCH),
            reason: Some("ünfit".to_owned()),
            due: Some(Timestamp::MAX),
            returns: 0,
            delivered: true,
        };
        let mut headers = FieldTable::default();
        history.write(&mut headers);
        assert_eq!(
            DeliveryHistory::read(&BasicProperties::default().with_headers(headers)),
            history
        );
    }

    #[test]
    fn should_keep_only_the_beginning_of_a_long_reason() {
        let history =
            DeliveryHistory { reason: Some("ä".repeat(MAX_REASON)), ..DeliveryHistory::default() };
        let mut headers = FieldTable::default();
        history.write(&mut headers);
        let read = DeliveryHistory::read(&BasicProperties::default().with_headers(headers));
        assert_eq!(read.reason.unwrap().len(), MAX_REASON);
    }

    #[test]
    fn should_find_the_latest_death() {
        let death = |reason: &str| AMQPValue::FieldTable(table([("reason", long(reason))]));
        let deaths = vec![death("delivery_limit"), death("expired")];
        let headers = table([(DEATHS, AMQPValue::FieldArray(deaths.into()))]);
        let properties = BasicProperties::default().with_headers(headers);
        assert_eq!(last_death(&properties).as_deref(), Some("delivery_limit"));
        assert_eq!(last_death(&BasicProperties::default()), None);
    }

    #[test]
    fn should_cut_between_characters() {
        let text = "ä".repeat(200);
        assert_eq!(short(&text).as_str(), "ä".repeat(127));
    }
}
