use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::{EventError, MAX_NAME_BYTES};

/// Namespace of the `UUIDv5` for a foreign id (RFC 9562, section 5.5).
const FOREIGN: Uuid = Uuid::from_u128(0x6b1f_3c52_9a0e_4d6f_8c57_1e2a_a105_0001);

/// Namespace of the `UUIDv5` that [`EventId::derive`] creates, separate from that of foreign ids: a
/// foreign string never has the key of a derived id, even if it is the text from which that was
/// derived.
const DERIVED: Uuid = Uuid::from_u128(0x3d4b_8d0e_51c2_4f4a_9a61_7c0b_44e6_0002);

/// Unique name of an event: an opaque string of 1 to 255 bytes.
///
/// Generated ids are `UUIDv7` and need no allocation; a foreign string is returned verbatim.
///
/// # Examples
///
/// ```
/// use aios_core::event::EventId;
///
/// # fn main() -> Result<(), aios_core::event::EventError> {
/// // The same request has the same event, so a store keeps it once, however often it is appended.
/// let paid = EventId::derive("payments/8131/paid");
/// assert_eq!(paid, EventId::derive("payments/8131/paid"));
///
/// // An id of another system stays as it is; the store keeps it under a UUID.
/// let foreign: EventId = "msg-123".parse()?;
/// assert_eq!(foreign.to_string(), "msg-123");
/// assert_eq!(foreign.foreign(), Some("msg-123"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(Name);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Name {
    Uuid(Uuid),
    Foreign(Arc<str>),
}

impl EventId {
    /// A fresh `UUIDv7`.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the id module")]
    pub fn generate() -> Self {
        #[cfg(feature = "simulation")]
        if let Some(simulation) = crate::simulation::current() {
            return Self(Name::Uuid(simulation.id()));
        }
        Self(Name::Uuid(Uuid::now_v7()))
    }

    /// A `UUIDv5` of `name`: the same name always gives the same id, and no other text has the same
    /// key.
    #[must_use]
    pub fn derive(name: &str) -> Self {
        Self(Name::Uuid(Uuid::new_v5(&DERIVED, name.as_bytes())))
    }

    /// The key under which a store keeps this event: the id itself if it is a UUID, otherwise the
    /// `UUIDv5` of the foreign string.
    #[must_use]
    pub fn key(&self) -> Uuid {
        match &self.0 {
            Name::Uuid(uuid) => *uuid,
            Name::Foreign(text) => Uuid::new_v5(&FOREIGN, text.as_bytes()),
        }
    }

    /// The text of an id that is not a UUID in its canonical form; a store keeps it in addition to
    /// the key.
    #[must_use]
    pub fn foreign(&self) -> Option<&str> {
        match &self.0 {
            Name::Uuid(_) => None,
            Name::Foreign(text) => Some(text),
        }
    }
}

impl From<Uuid> for EventId {
    fn from(uuid: Uuid) -> Self {
        Self(Name::Uuid(uuid))
    }
}

impl FromStr for EventId {
    type Err = EventError;

    fn from_str(text: &str) -> Result<Self, EventError> {
        if text.is_empty() || text.len() > MAX_NAME_BYTES {
            return Err(EventError::InvalidId { bytes: text.len() });
        }
        let mut buffer = Uuid::encode_buffer();
        match Uuid::try_parse(text) {
            Ok(uuid) if uuid.hyphenated().encode_lower(&mut buffer) == text => {
                Ok(Self(Name::Uuid(uuid)))
            }
            _ => Ok(Self(Name::Foreign(text.into()))),
        }
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Name::Uuid(uuid) => uuid.hyphenated().fmt(formatter),
            Name::Foreign(text) => formatter.write_str(text),
        }
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Name::Uuid(uuid) => uuid.serialize(serializer),
            Name::Foreign(text) => serializer.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_return_every_string_verbatim() {
        let canonical = "01890a5d-ac96-774b-bcce-b302099a8057";
        for text in [canonical, &canonical.to_uppercase(), "msg-123", "ünïcode ✓", &"x".repeat(255)]
        {
            let id: EventId = text.parse().unwrap();
            assert_eq!(id.to_string(), *text);
            assert_eq!(id.foreign().is_none(), text == canonical);
        }
    }

    #[test]
    fn should_key_foreign_ids_by_their_text() {
        let (one, two): (EventId, EventId) = ("a".parse().unwrap(), "b".parse().unwrap());
        assert_ne!(one.key(), two.key());
        assert_eq!(one.key(), "a".parse::<EventId>().unwrap().key());
    }

    /// An id that another system chooses can't be taken for one that an engine derives.
    #[test]
    fn should_keep_generated_derived_and_foreign_ids_apart() {
        for name in ["r1/1#1", "", "01890a5d-ac96-774b-bcce-b302099a8057"] {
            let derived = EventId::derive(name);
            assert_eq!(derived, EventId::derive(name));
            assert_eq!((derived.key().get_version_num(), derived.foreign()), (5, None));
            assert!(
                name.parse::<EventId>().is_ok_and(|id| id.key() != derived.key())
                    || name.is_empty()
            );
        }
        assert_eq!(EventId::generate().key().get_version_num(), 7);
        let derived = EventId::derive("r1/1#1").to_string();
        assert_eq!(derived, "c593ce2a-a123-5759-b3b9-25579f959218");
        let foreign: EventId = "r1/1#1".parse().unwrap();
        assert_eq!(foreign.key().to_string(), "c7d3dab2-9a4c-5629-bcbd-c25043c5234c");
    }

    #[test]
    fn should_refuse_empty_and_long_ids() {
        for text in ["", &"x".repeat(256)] {
            assert_eq!(text.parse::<EventId>().unwrap_err().code(), "INVALID_EVENT_ID");
        }
    }
}
