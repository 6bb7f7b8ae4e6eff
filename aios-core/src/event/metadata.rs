use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, LazyLock},
};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess, Visitor},
};

use super::{EventError, Payload};

/// How an event relates to others. Unknown fields are preserved when reading and writing.
///
/// # Examples
///
/// ```
/// use aios_core::event::{Event, Metadata};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut metadata = Metadata::default();
/// metadata.correlation_id = Some("order-7".into());
/// metadata.extra.insert("region", "eu-north")?;
/// let placed = Event::new("shop.order.placed".parse()?, "shop", &7)?.with_metadata(metadata);
///
/// let paid = Event::new("shop.order.paid".parse()?, "till", &7)?.caused_by(&placed);
/// assert_eq!(paid.metadata.correlation_id.as_deref(), Some("order-7"));
/// assert_eq!(paid.metadata.causation_id.as_deref(), Some(placed.id.to_string().as_str()));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Metadata {
    /// Groups everything that one request caused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<Arc<str>>,
    /// Id of the event that caused this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<Arc<str>>,
    /// The user on whose behalf the event happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<Arc<str>>,
    /// W3C trace context: the parent span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<Arc<str>>,
    /// W3C trace context: vendor-specific additions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<Arc<str>>,
    /// Mailbox for the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<Arc<str>>,
    /// The run that the event belongs to, or on whose behalf it happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<Arc<str>>,
    /// Version of the schema that the data follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<u32>,
    /// Only for tasks that a run assigned or cancelled: the id of the event that started the run.
    /// It distinguishes runs that used the same id one after the other, or in different stores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Arc<str>>,
    /// Fields that aios does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Metadata fields that aios does not know, with their values as they were written.
///
/// # Examples
///
/// ```
/// use aios_core::event::Extra;
///
/// # fn main() -> Result<(), aios_core::event::EventError> {
/// let mut extra = Extra::default();
/// extra.insert("region", "eu-north")?;
/// assert_eq!(extra.value("region").map(|value| value.as_str()), Some(r#""eu-north""#));
/// // A field of `Metadata` has one place only.
/// assert_eq!(extra.insert("user_id", "ada").unwrap_err().code(), "INVALID_METADATA");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Extra(BTreeMap<String, Payload>);

/// Names of the fields of [`Metadata`], which no field of [`Extra`] has.
const KNOWN: [&str; 9] = [
    "correlation_id",
    "causation_id",
    "user_id",
    "traceparent",
    "tracestate",
    "reply_to",
    "run_id",
    "schema_version",
    "incarnation",
];

impl Extra {
    /// Sets a field to `value` as JSON, and replaces the value that it had.
    ///
    /// # Errors
    ///
    /// [`EventError::InvalidMetadata`] if [`Metadata`] has a field of this name;
    /// [`EventError::InvalidData`] if `value` cannot be serialised to JSON.
    pub fn insert<T: Serialize + ?Sized>(
        &mut self,
        name: impl Into<String>,
        value: &T,
    ) -> Result<(), EventError> {
        let name = name.into();
        if KNOWN.contains(&name.as_str()) {
            return Err(EventError::InvalidMetadata { name });
        }
        self.0.insert(name, Payload::encode(value)?);
        Ok(())
    }

    /// Removes a field and returns its value, if it was set.
    pub fn remove(&mut self, name: &str) -> Option<Payload> {
        self.0.remove(name)
    }

    /// The value of a field, if it is set.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&Payload> {
        self.0.get(name)
    }

    /// Whether a field is set.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Whether no field is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fields, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Payload)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

/// Shared by all events without metadata.
static EMPTY: LazyLock<Arc<Metadata>> = LazyLock::new(Arc::default);

impl Metadata {
    /// Metadata without any field, shared by all who ask for it.
    #[must_use]
    pub fn empty() -> Arc<Self> {
        Arc::clone(&EMPTY)
    }

    /// Whether no field is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Fills unset fields of correlation, cause, user and trace from `origin`, and sets the run to
    /// that of `origin`.
    pub fn fill_from(&mut self, origin: &Self) {
        let fill = |ours: &mut Option<Arc<str>>, theirs: &Option<Arc<str>>| {
            if ours.is_none() {
                ours.clone_from(theirs);
            }
        };
        fill(&mut self.correlation_id, &origin.correlation_id);
        fill(&mut self.causation_id, &origin.causation_id);
        fill(&mut self.user_id, &origin.user_id);
        if self.traceparent.is_none() {
            self.traceparent.clone_from(&origin.traceparent);
            self.tracestate.clone_from(&origin.tracestate);
        }
        self.run_id.clone_from(&origin.run_id);
    }
}

/// Reads the metadata of an event.
pub(super) fn shared<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Arc<Metadata>, D::Error> {
    let metadata = Metadata::deserialize(deserializer)?;
    Ok(if metadata.is_empty() { Metadata::empty() } else { Arc::new(metadata) })
}

/// Implemented by hand, because `#[serde(flatten)]` would buffer every field first.
impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MetadataVisitor)
    }
}

struct MetadataVisitor;

impl<'de> Visitor<'de> for MetadataVisitor {
    type Value = Metadata;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the metadata of an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
        let mut metadata = Metadata::default();
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match &*key {
                "correlation_id" => metadata.correlation_id = map.next_value()?,
                "causation_id" => metadata.causation_id = map.next_value()?,
                "user_id" => metadata.user_id = map.next_value()?,
                "traceparent" => metadata.traceparent = map.next_value()?,
                "tracestate" => metadata.tracestate = map.next_value()?,
                "reply_to" => metadata.reply_to = map.next_value()?,
                "run_id" => metadata.run_id = map.next_value()?,
                "schema_version" => metadata.schema_version = map.next_value()?,
                "incarnation" => metadata.incarnation = map.next_value()?,
                _ => {
                    if metadata.extra.0.insert(key.into_owned(), map.next_value()?).is_some() {
                        return Err(A::Error::custom("duplicate metadata field"));
                    }
                }
            }
        }
        Ok(metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_refuse_an_unknown_field_with_the_name_of_a_known_one() {
        let text = "text".into();
        let known = Metadata {
            correlation_id: Some(Arc::clone(&text)),
            causation_id: Some(Arc::clone(&text)),
            user_id: Some(Arc::clone(&text)),
            traceparent: Some(Arc::clone(&text)),
            tracestate: Some(Arc::clone(&text)),
            reply_to: Some(Arc::clone(&text)),
            run_id: Some(Arc::clone(&text)),
            schema_version: Some(1),
            incarnation: Some(text),
            extra: Extra::default(),
        };
        let fields: BTreeMap<String, Payload> = Payload::encode(&known).unwrap().decode().unwrap();
        assert_eq!(fields.len(), KNOWN.len());
        for name in fields.into_keys() {
            let error = Extra::default().insert(name.as_str(), "v2").unwrap_err();
            assert_eq!(error.code(), "INVALID_METADATA");
            assert!(error.to_string().contains(&name), "{error}");
        }
    }

    #[test]
    fn should_read_the_unknown_fields_that_were_set() {
        let mut metadata = Metadata { user_id: Some("ada".into()), ..Metadata::default() };
        let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
        metadata.extra.insert("deep", &Payload::from_text(deep).unwrap()).unwrap();
        metadata.extra.insert("größe", &7).unwrap();
        metadata.extra.insert("größe", &8).unwrap();
        let read: Metadata = Payload::encode(&metadata).unwrap().decode().unwrap();
        assert_eq!(read, metadata);
        assert_eq!(read.extra.value("größe").unwrap().decode::<u8>().unwrap(), 8);
    }

    #[test]
    fn should_keep_unknown_fields_character_by_character() {
        let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
        for value in ["1.00", "12345678901234567890123", "1e400", r#"{"b":1,"a":2,"a":3}"#, &deep] {
            let text = format!(r#"{{"user_id":"ada","account":{value}}}"#);
            let metadata: Metadata = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_string(&metadata).unwrap(), text);
        }
    }
}
