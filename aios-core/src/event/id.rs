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

    /// A `UUIDv8` (RFC 9562, section 5.8) of `base` and `name`: the same two always give the same id.
    ///
    /// It begins with the first 48 bits of the base's key, which are the time at which a generated id was
    /// made. The other 74 bits are those of the `UUIDv5` of `name` in the namespace of the base. So the ids
    /// of one base are neighbours in the index of a store, and so are those of bases of about the same
    /// time. An id of [`derive`](Self::derive) may be anywhere in the index, and each one that a store
    /// inserts changes another page.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_core::event::EventId;
    ///
    /// let order = EventId::generate();
    /// let paid = EventId::derive_from(&order, "paid");
    /// assert_eq!(paid, EventId::derive_from(&order, "paid"));
    /// assert_ne!(paid, EventId::derive_from(&order, "shipped"));
    /// assert_eq!(paid.to_string()[..13], order.to_string()[..13]);
    /// ```
    #[must_use]
    pub fn derive_from(base: &Self, name: &str) -> Self {
        /// The bits that are taken from the id, the highest of 128.
        const TIME: u128 = !0 << 80;
        let key = base.key();
        let hash = Uuid::new_v5(&key, name.as_bytes()).as_u128();
        let bytes = ((key.as_u128() & TIME) | (hash & !TIME)).to_be_bytes();
        Self(Name::Uuid(uuid::Builder::from_custom_bytes(bytes).into_uuid()))
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

    /// A golden value, because an engine finds what it has appended by these ids.
    #[test]
    fn should_derive_ids_beside_that_of_their_base() {
        let base: EventId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let derived = EventId::derive_from(&base, "1#1");
        assert_eq!(derived.to_string(), "01890a5d-ac96-89aa-9ec4-44cf71febb67");
        let key = derived.key();
        assert_eq!((key.get_version_num(), key.get_variant()), (8, uuid::Variant::RFC4122));
        let next: EventId = "01890a5d-ac96-774b-bcce-b302099a8058".parse().unwrap();
        let foreign: EventId = "msg-123".parse().unwrap();
        let others = [(&base, "1#2"), (&base, ""), (&next, "1#1"), (&foreign, "1#1")];
        let ids = others.map(|(base, name)| EventId::derive_from(base, name).key());
        let distinct: std::collections::BTreeSet<_> = ids.iter().chain([&key]).collect();
        assert_eq!(distinct.len(), 5);
    }

    #[test]
    fn should_refuse_empty_and_long_ids() {
        for text in ["", &"x".repeat(256)] {
            assert_eq!(text.parse::<EventId>().unwrap_err().code(), "INVALID_EVENT_ID");
        }
    }
}
