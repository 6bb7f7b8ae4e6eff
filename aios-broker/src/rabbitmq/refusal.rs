use lapin::{
    ErrorKind,
    protocol::{AMQPErrorKind, AMQPSoftError},
};

/// The error with which a server closes the channel after an oversized event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Oversize {
    pub(super) limit: usize,
}

impl Oversize {
    /// The reply text of the server, if there is one.
    pub(super) fn of(error: &lapin::Error) -> Option<Self> {
        let ErrorKind::ProtocolError(error) = error.kind() else { return None };
        if *error.kind() != AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) {
            return None;
        }
        Self::parse(error.get_message().as_str())
    }

    /// `message size 20000000 is larger than configured max size 16777216`, in every version since
    /// 3.8; older texts lack `configured`.
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
