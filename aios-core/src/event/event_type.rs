use std::{fmt, ops::Bound, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{EventError, MAX_NAME_BYTES, error::excerpt};

/// Domains of the events that only aios itself writes.
const RESERVED: [&str; 3] = ["workflows", "agents", "system"];

/// The type of an event: `domain.entity.action`.
///
/// Three segments of `[a-z][a-z0-9_]*`, at most 255 bytes. Cloning shares the text.
///
/// # Examples
///
/// ```
/// use aios_core::event::EventType;
///
/// # fn main() -> Result<(), aios_core::event::EventError> {
/// let event_type: EventType = "shop.order.placed".parse()?;
/// assert_eq!(event_type.segments(), ("shop", "order", "placed"));
/// assert_eq!(event_type, EventType::new("shop", "order", "placed")?);
/// assert!("shop.order".parse::<EventType>().is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType {
    text: Arc<str>,
    /// Where the dots are. Types are matched far more often than they are parsed.
    dots: [u8; 2],
}

impl EventType {
    /// Joins three segments.
    ///
    /// # Errors
    ///
    /// [`EventError::InvalidType`] if a segment is not `[a-z][a-z0-9_]*` or the whole is too long.
    pub fn new(domain: &str, entity: &str, action: &str) -> Result<Self, EventError> {
        format!("{domain}.{entity}.{action}").parse()
    }

    /// The whole text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first segment.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.segments().0
    }

    /// The second segment.
    #[must_use]
    pub fn entity(&self) -> &str {
        self.segments().1
    }

    /// The third segment.
    #[must_use]
    pub fn action(&self) -> &str {
        self.segments().2
    }

    /// All three segments.
    #[must_use]
    pub fn segments(&self) -> (&str, &str, &str) {
        let [first, second] = self.dots.map(usize::from);
        let segment =
            |range: (Bound<usize>, Bound<usize>)| self.text.get(range).unwrap_or_default();
        (
            segment((Bound::Unbounded, Bound::Excluded(first))),
            segment((Bound::Excluded(first), Bound::Excluded(second))),
            segment((Bound::Excluded(second), Bound::Unbounded)),
        )
    }

    /// Refuses a type of a reserved domain, `workflows`, `agents` or `system`: only aios itself
    /// writes such events, because they record what happens to runs, tasks and agents.
    ///
    /// # Errors
    ///
    /// [`EventError::ReservedType`].
    pub fn check_unreserved(&self) -> Result<(), EventError> {
        let (domain, ..) = self.segments();
        if !RESERVED.contains(&domain) {
            return Ok(());
        }
        let event_type = self.to_string();
        let domain = domain.to_owned();
        Err(EventError::ReservedType { event_type, domain })
    }
}

/// Whether `text` is one segment of a type: `[a-z][a-z0-9_]*`.
///
/// Names of agents and workflows become segments, so the same rule applies to them.
#[must_use]
pub(crate) fn is_segment(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

impl FromStr for EventType {
    type Err = EventError;

    fn from_str(text: &str) -> Result<Self, EventError> {
        let invalid = || EventError::InvalidType { text: excerpt(text) };
        if text.len() > MAX_NAME_BYTES || !text.split('.').all(is_segment) {
            return Err(invalid());
        }
        let mut dots = text.match_indices('.').map(|(index, _)| u8::try_from(index));
        match (dots.next(), dots.next(), dots.next()) {
            (Some(Ok(first)), Some(Ok(second)), None) => {
                Ok(Self { text: text.into(), dots: [first, second] })
            }
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl fmt::Debug for EventType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("EventType").field(&self.text).finish()
    }
}

impl Serialize for EventType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for EventType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_take_three_segments_only() {
        let parsed: EventType = "agents.code_review2.task_completed".parse().unwrap();
        assert_eq!(parsed.segments(), ("agents", "code_review2", "task_completed"));
        let long = format!("a.b.{}", "c".repeat(252));
        for text in
            ["", "a", "a.b", "a.b.c.d", "a..c", "A.b.c", "a.2b.c", "a.b.c-d", "ä.b.c", &long]
        {
            let error = text.parse::<EventType>().unwrap_err();
            assert_eq!(error.code(), "INVALID_EVENT_TYPE", "{text}");
        }
    }
}
