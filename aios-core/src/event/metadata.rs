use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, LazyLock},
};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess, Visitor},
};
use serde_json::Value;

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
/// metadata.extra.insert("region".to_owned(), "eu-north".into());
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
    pub extra: BTreeMap<String, Value>,
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
                    if metadata.extra.insert(key.into_owned(), map.next_value()?).is_some() {
                        return Err(A::Error::custom("duplicate metadata field"));
                    }
                }
            }
        }
        Ok(metadata)
    }
}
