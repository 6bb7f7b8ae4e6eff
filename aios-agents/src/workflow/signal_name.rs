//! Names of signals. They are free text, unlike names of agents and workflows, because people choose
//! them and no topic or stream is named after them.

use aios_core::catalog::codes;

/// Maximum length of a name in bytes.
const MAX_BYTES: usize = 200;

/// The reason why the name of a signal is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSignalName {
    /// The name is empty or too long.
    #[error("the name of a signal must have 1 to {MAX_BYTES} bytes, this one has {bytes}")]
    Length {
        /// Length of the name in bytes.
        bytes: usize,
    },
    /// The name contains a control character.
    #[error(
        "the name of a signal must not contain control characters, this one contains {character:?}"
    )]
    Character {
        /// The first one.
        character: char,
    },
}

impl InvalidSignalName {
    /// Failure code of an invalid name.
    pub(crate) const CODE: &'static str = codes::INVALID_SIGNAL_NAME;

    /// Checks a name.
    pub(crate) fn check(name: &str) -> Result<(), Self> {
        if name.is_empty() || name.len() > MAX_BYTES {
            return Err(Self::Length { bytes: name.len() });
        }
        match name.chars().find(|character| character.is_control()) {
            Some(character) => Err(Self::Character { character }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_take_text_of_limited_length_without_control_characters() {
        for good in ["a", "Freigabe erteilt", "approval-3/1", "é", "~", &"l".repeat(200)] {
            assert_eq!(InvalidSignalName::check(good), Ok(()), "{good:?}");
        }
        for (bad, character) in [("a\0b", '\0'), ("\n", '\n'), ("a\u{85}", '\u{85}')] {
            let refused = Err(InvalidSignalName::Character { character });
            assert_eq!(InvalidSignalName::check(bad), refused, "{bad:?}");
        }
        for bytes in [0, 201, 10_000_000] {
            let refused = Err(InvalidSignalName::Length { bytes });
            assert_eq!(InvalidSignalName::check(&"l".repeat(bytes)), refused);
        }
    }
}
