//! The refusals of events for which the server closes the whole channel.
//!
//! **An exchange that the user may not publish to.** The text of the error names it, so the events for
//! it get the error, which would come again, and only the outcome of the others is uncertain.
//!
//! **An event that is larger than the server accepts.** The limit is an option of the server that a
//! client can't ask for, and one large event would make the outcome of all events in flight uncertain.
//! The text of the error names the limit. The events that fit are sent again, and later ones that do
//! not fit are refused without the server.

use lapin::{
    ErrorKind,
    protocol::{AMQPErrorKind, AMQPSoftError},
};

use super::outgoing::Outgoing;

/// The text with which a server has closed a channel for this reason.
fn text(error: &lapin::Error, code: AMQPSoftError) -> Option<&str> {
    let ErrorKind::ProtocolError(error) = error.kind() else { return None };
    (*error.kind() == AMQPErrorKind::Soft(code)).then(|| error.get_message().as_str())
}

/// The error with which a server closes the channel after an event for an exchange that its user may
/// not publish to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Denied {
    /// The exchange.
    exchange: String,
    /// The routing key, if others are permitted.
    topic: Option<String>,
}

impl Denied {
    /// The reply text of the server, if there is one.
    pub(crate) fn of(error: &lapin::Error) -> Option<Self> {
        Self::parse(text(error, AMQPSoftError::ACCESSREFUSED)?)
    }

    /// Whether the event is one of those that are refused.
    pub(crate) fn concerns(&self, outgoing: &Outgoing) -> bool {
        outgoing.exchange == self.exchange
            && self.topic.as_ref().is_none_or(|topic| *topic == outgoing.routing_key)
    }

    /// Reads the names from the text.
    ///
    /// The text is `write access to exchange 'aios.events' in vhost '/' refused for user 'shop'`, where
    /// the default exchange is `amq.default`; older texts lack `write`. If the user may publish some
    /// topics, it is `access to topic 'shop.order.placed' in exchange …`.
    fn parse(text: &str) -> Option<Self> {
        let (_, object) = text.split_once("access to ")?;
        let (topic, object) = match object.strip_prefix("topic '") {
            Some(topic) => topic.split_once("' in ").map(|(topic, rest)| (Some(topic), rest))?,
            None => (None, object),
        };
        let (exchange, _) = object.strip_prefix("exchange '")?.split_once("' in vhost ")?;
        let exchange = if exchange == "amq.default" { "" } else { exchange };
        Some(Self { exchange: exchange.to_owned(), topic: topic.map(str::to_owned) })
    }
}

/// The error with which a server closes the channel after an oversized event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Oversize {
    /// The limit in bytes.
    pub(crate) limit: usize,
}

impl Oversize {
    /// The reply text of the server, if there is one.
    pub(crate) fn of(error: &lapin::Error) -> Option<Self> {
        Self::parse(text(error, AMQPSoftError::PRECONDITIONFAILED)?)
    }

    /// Reads the limit from the text, its last number.
    ///
    /// The text is `message size 20000000 is larger than configured max size 16777216` in every
    /// version since 3.8; older texts lack `configured`.
    fn parse(text: &str) -> Option<Self> {
        let (_, sizes) = text.split_once("message size ")?;
        let (_, limit) = sizes.split_once(" is larger than ")?;
        let mut digits = limit.split(|character: char| !character.is_ascii_digit());
        let limit = digits.rfind(|digits| !digits.is_empty())?;
        Some(Self { limit: limit.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_read_what_is_denied() {
        let denied = |exchange: &str, topic: Option<&str>| {
            Some(Denied { exchange: exchange.to_owned(), topic: topic.map(str::to_owned) })
        };
        for (text, expected) in [
            (
                "access to exchange 'aios.events' in vhost '/' refused for user 'it's'",
                denied("aios.events", None),
            ),
            (
                "write access to exchange 'amq.default' in vhost 'a' refused for user 'b'",
                denied("", None),
            ),
            (
                "access to topic 'a.b.c' in exchange 'aios.events' in vhost '/' refused for user 'b'",
                denied("aios.events", Some("a.b.c")),
            ),
            ("access to queue 'q' in vhost '/' refused for user 'b'", None),
        ] {
            assert_eq!(Denied::parse(&format!("ACCESS_REFUSED - {text}")), expected, "{text}");
        }
    }

    #[test]
    fn should_read_the_limit() {
        for text in [
            "PRECONDITION_FAILED - message size 20000000 is larger than configured max size 16777216",
            "PRECONDITION_FAILED - message size 20000000 is larger than max size 16777216",
        ] {
            assert_eq!(Oversize::parse(text), Some(Oversize { limit: 16_777_216 }));
        }
        assert_eq!(Oversize::parse("PRECONDITION_FAILED - unknown delivery tag 7"), None);
    }
}
