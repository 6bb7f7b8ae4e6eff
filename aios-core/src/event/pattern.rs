use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize};

use super::{EventError, EventType, MAX_NAME_BYTES, error::excerpt, event_type::is_segment};

/// The event types that a subscription selects, with the semantics of an AMQP 0-9-1 topic exchange:
/// `*` matches one segment, `#` any number of them.
///
/// # Examples
///
/// ```
/// use aios_core::event::{EventType, Pattern};
///
/// # fn main() -> Result<(), aios_core::event::EventError> {
/// let completed: Pattern = "agents.*.task_completed".parse()?;
/// let all_of_the_shop: Pattern = "shop.#".parse()?;
/// let done: EventType = "agents.backend.task_completed".parse()?;
/// assert!(completed.matches(&done) && !all_of_the_shop.matches(&done));
/// # Ok(())
/// # }
/// ```
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

    /// Whether events of this type match.
    #[must_use]
    pub fn matches(&self, event_type: &EventType) -> bool {
        fits(Some(&self.0), Some(event_type.as_str()))
    }
}

/// Matches segment by segment; `None` is the end of a text.
///
/// Only the last `#` can take more segments after a mismatch: what an earlier one could take, the
/// last one can take as well. So the time is at most the product of the lengths.
fn fits(mut pattern: Option<&str>, mut text: Option<&str>) -> bool {
    // The segments after the last `#`, and the text that it has not taken yet.
    let mut last = None;
    loop {
        let wanted = pattern.map(split);
        let found = text.map(split);
        match (wanted, found) {
            (None, None) | (Some(("#", None)), _) => return true,
            (Some(("#", rest)), _) => {
                last = Some((rest, text));
                pattern = rest;
            }
            (Some((wanted, pattern_rest)), Some((segment, text_rest)))
                if wanted == "*" || wanted == segment =>
            {
                (pattern, text) = (pattern_rest, text_rest);
            }
            _ => {
                let Some((rest, Some(untaken))) = last else { return false };
                (pattern, text) = (rest, split(untaken).1);
                last = Some((rest, text));
            }
        }
    }
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

    /// The simplest implementation of the meaning of a pattern.
    fn means(pattern: &[&str], text: &[&str]) -> bool {
        match (pattern, text) {
            ([], text) => text.is_empty(),
            (["#", rest @ ..], text) => (0..=text.len()).any(|taken| means(rest, &text[taken..])),
            ([wanted, rest @ ..], [first, text @ ..]) => {
                (*wanted == "*" || wanted == first) && means(rest, text)
            }
            (_, []) => false,
        }
    }

    #[test]
    fn should_match_what_its_words_mean() {
        for number in 0..4_usize.pow(5) {
            let part = |place: u32| ["#", "*", "a", "b"][number / 4_usize.pow(place) % 4];
            for length in 1..=5 {
                let parts: Vec<_> = (0..length).map(part).collect();
                let pattern: Pattern = parts.join(".").parse().unwrap();
                for text in ["a.b.a", "a.a.b", "b.b.b"] {
                    let expected = means(&parts, &text.split('.').collect::<Vec<_>>());
                    assert_eq!(
                        pattern.matches(&text.parse().unwrap()),
                        expected,
                        "{pattern} {text}"
                    );
                }
            }
        }
    }

    #[test]
    fn should_match_many_wildcards_without_trying_all_ways() {
        let pattern: Pattern = format!("{}x", "#.".repeat(126)).parse().unwrap();
        for _ in 0..10_000 {
            assert!(!pattern.matches(&"a.b.c".parse().unwrap()));
        }
    }

    #[test]
    fn should_refuse_malformed_patterns() {
        for text in ["", "a..b", "a.**", "A.*", "a.b#"] {
            assert_eq!(text.parse::<Pattern>().unwrap_err().code(), "INVALID_PATTERN", "{text}");
        }
    }
}
