use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize};

use super::{EventError, EventType, MAX_NAME_BYTES, error::excerpt, event_type::is_segment};

/// Which event types a subscription wants, with the semantics of an AMQP 0-9-1 topic exchange:
/// `*` stands for one segment, `#` for any number of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// The pattern that matches every event.
    #[must_use]
    pub fn all() -> Self {
        Self("#".into())
    }

    /// The text, which is also an AMQP binding key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether events of this type are wanted.
    #[must_use]
    pub fn matches(&self, event_type: &EventType) -> bool {
        fits(Some(&self.0), Some(event_type.as_str()))
    }
}

/// Matches segment by segment; `None` is the end of a text.
fn fits(pattern: Option<&str>, text: Option<&str>) -> bool {
    let Some(pattern) = pattern else { return text.is_none() };
    let (wanted, pattern_rest) = split(pattern);
    if wanted == "#" {
        return fits(pattern_rest, text)
            || text.is_some_and(|text| fits(Some(pattern), split(text).1));
    }
    let Some(text) = text else { return false };
    let (segment, rest) = split(text);
    (wanted == "*" || wanted == segment) && fits(pattern_rest, rest)
}

fn split(text: &str) -> (&str, Option<&str>) {
    text.split_once('.').map_or((text, None), |(first, rest)| (first, Some(rest)))
}

impl From<&EventType> for Pattern {
    fn from(event_type: &EventType) -> Self {
        Self(event_type.as_str().into())
    }
}

impl FromStr for Pattern {
    type Err = EventError;

    fn from_str(text: &str) -> Result<Self, EventError> {
        let fits = text.len() <= MAX_NAME_BYTES
            && text.split('.').all(|part| part == "*" || part == "#" || is_segment(part));
        if !fits {
            return Err(EventError::InvalidPattern { text: excerpt(text) });
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_match_like_an_amqp_topic_exchange() {
        let event_type: EventType = "agents.backend.task_completed".parse().unwrap();
        for (pattern, expected) in [
            ("agents.backend.task_completed", true),
            ("agents.*.task_completed", true),
            ("*.*.*", true),
            ("#", true),
            ("agents.#", true),
            ("#.task_completed", true),
            ("agents.#.task_completed", true),
            ("#.backend.#", true),
            ("agents.backend.task_completed.#", true),
            ("*", false),
            ("*.*", false),
            ("*.*.*.*", false),
            ("agents.frontend.#", false),
            ("#.task_failed", false),
        ] {
            assert_eq!(
                pattern.parse::<Pattern>().unwrap().matches(&event_type),
                expected,
                "{pattern}"
            );
        }
    }

    #[test]
    fn should_refuse_malformed_patterns() {
        for text in ["", "a..b", "a.**", "A.*", "a.b#"] {
            assert_eq!(text.parse::<Pattern>().unwrap_err().code(), "INVALID_PATTERN", "{text}");
        }
    }
}
