//! The refusal of an event that is larger than the server accepts.
//!
//! The limit is an option of the server that a client can't ask for. The server closes the whole
//! channel when it is exceeded, so one large event would make the outcome of all events in flight
//! uncertain. The text of the error names the limit. The events that fit are sent again, and later
//! ones that do not fit are refused without the server.

use lapin::{
    ErrorKind,
    protocol::{AMQPErrorKind, AMQPSoftError},
};

/// The error with which a server closes the channel after an oversized event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Oversize {
    /// The limit in bytes.
    pub(crate) limit: usize,
}

impl Oversize {
    /// The reply text of the server, if there is one.
    pub(crate) fn of(error: &lapin::Error) -> Option<Self> {
        let ErrorKind::ProtocolError(error) = error.kind() else { return None };
        if *error.kind() != AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) {
            return None;
        }
        Self::parse(error.get_message().as_str())
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
