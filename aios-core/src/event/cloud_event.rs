use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess, Visitor},
};

use super::{Event, EventError, EventId, EventType, Metadata, Payload, Timestamp};

/// Prefix of the CloudEvents extension attributes that carry our metadata; the specification
/// allows lower-case letters and digits only, so underscores are dropped.
const KNOWN: [(&str, &str); 8] = [
    ("correlationid", "correlation_id"),
    ("causationid", "causation_id"),
    ("userid", "user_id"),
    ("traceparent", "traceparent"),
    ("tracestate", "tracestate"),
    ("replyto", "reply_to"),
    ("runid", "run_id"),
    ("incarnation", "incarnation"),
];

/// The extension attribute that carries the other metadata: the text of a JSON object.
const REST: &str = "aiosmetadata";

/// The content type of the data.
const JSON: &str = "application/json";

/// A CloudEvents 1.0 event in structured JSON mode.
///
/// Converts from and into [`Event`]. Metadata becomes extension attributes; unknown metadata is
/// carried in `aiosmetadata`, so that a round trip loses nothing: data and metadata keep every
/// character.
///
/// # Examples
///
/// ```
/// use aios_core::event::{CloudEvent, Event};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let event = Event::new("shop.order.placed".parse()?, "shop", &7)?;
/// let cloud = CloudEvent::try_from(&event)?;
/// assert_eq!((cloud.specversion.as_str(), cloud.source.as_str()), ("1.0", "shop"));
/// assert_eq!(Event::try_from(cloud)?.id, event.id);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CloudEvent {
    /// Always `1.0`.
    pub specversion: String,
    /// See [`Event::id`].
    pub id: String,
    /// See [`Event::source`].
    pub source: String,
    /// See [`Event::event_type`].
    #[serde(rename = "type")]
    pub event_type: String,
    /// See [`Event::timestamp`]; required here, optional in the specification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// `application/json`, with any parameters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datacontenttype: Option<String>,
    /// See [`Event::payload`].
    pub data: Payload,
    /// Extension attributes.
    #[serde(flatten)]
    pub extensions: BTreeMap<String, Payload>,
}

impl TryFrom<&Event> for CloudEvent {
    type Error = EventError;

    fn try_from(event: &Event) -> Result<Self, EventError> {
        let metadata: BTreeMap<String, Payload> = Payload::encode(&event.metadata)?.decode()?;
        let mut extensions = BTreeMap::new();
        let mut rest = BTreeMap::new();
        for (name, value) in metadata {
            match KNOWN.iter().find(|(_, ours)| *ours == name) {
                Some((theirs, _)) => extensions.insert((*theirs).to_owned(), value),
                None => rest.insert(name, value),
            };
        }
        if !rest.is_empty() {
            let text = Payload::encode(Payload::encode(&rest)?.as_str())?;
            extensions.insert(REST.to_owned(), text);
        }
        Ok(Self {
            specversion: "1.0".to_owned(),
            id: event.id.to_string(),
            source: event.source.to_string(),
            event_type: event.event_type.to_string(),
            time: Some(event.timestamp),
            datacontenttype: Some(JSON.to_owned()),
            data: event.payload.clone(),
            extensions,
        })
    }
}

impl TryFrom<CloudEvent> for Event {
    type Error = EventError;

    fn try_from(cloud: CloudEvent) -> Result<Self, EventError> {
        if cloud.specversion != "1.0" {
            return Err(unfit("its specversion is not 1.0"));
        }
        if cloud.datacontenttype.as_deref().is_some_and(|kind| !is_json(kind)) {
            return Err(unfit("its datacontenttype is not application/json"));
        }
        if cloud.extensions.contains_key("data_base64") {
            return Err(unfit("its data is binary (data_base64)"));
        }
        Self::check_source(&cloud.source)?;
        Ok(Self {
            id: cloud.id.parse::<EventId>()?,
            event_type: cloud.event_type.parse::<EventType>()?,
            timestamp: cloud.time.ok_or_else(|| unfit("it has no time"))?,
            source: cloud.source.into(),
            payload: cloud.data,
            metadata: metadata(cloud.extensions)?.into(),
        })
    }
}

fn unfit(reason: impl Into<String>) -> EventError {
    EventError::InvalidCloudEvent { reason: reason.into() }
}

/// Whether a content type is JSON, with any parameters.
fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case(JSON)
}

fn metadata(extensions: BTreeMap<String, Payload>) -> Result<Metadata, EventError> {
    let invalid = |reason: &dyn fmt::Display| unfit(format!("its metadata is invalid: {reason}"));
    let mut fields = BTreeMap::new();
    let mut add = |name: String, value: Payload| match fields.insert(name.clone(), value) {
        None => Ok(()),
        Some(_) => Err(unfit(format!("it has the metadata {name} twice"))),
    };
    for (name, value) in extensions {
        match KNOWN.iter().find(|(theirs, _)| *theirs == name) {
            Some((_, ours)) => add((*ours).to_owned(), value)?,
            None => match value.decode::<String>() {
                Ok(text) if name == REST => {
                    let rest: BTreeMap<String, Payload> =
                        serde_json::from_str(&text).map_err(|error| invalid(&error))?;
                    rest.into_iter().try_for_each(|(name, value)| add(name, value))?;
                }
                _ => add(name, value)?,
            },
        }
    }
    let text = Payload::encode(&fields)?;
    serde_json::from_str(text.as_str()).map_err(|error| invalid(&error))
}

/// Implemented by hand, because `#[serde(flatten)]` would parse the values of the extensions, and so
/// round their numbers.
impl<'de> Deserialize<'de> for CloudEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(CloudEventVisitor)
    }
}

struct CloudEventVisitor;

impl<'de> Visitor<'de> for CloudEventVisitor {
    type Value = CloudEvent;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a CloudEvent")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<CloudEvent, A::Error> {
        let (mut specversion, mut id, mut source, mut event_type) = (None, None, None, None);
        let (mut time, mut datacontenttype, mut data) = (None, None, None);
        let mut extensions = BTreeMap::new();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "specversion" => set(&mut specversion, &mut map, "specversion")?,
                "id" => set(&mut id, &mut map, "id")?,
                "source" => set(&mut source, &mut map, "source")?,
                "type" => set(&mut event_type, &mut map, "type")?,
                "time" => set(&mut time, &mut map, "time")?,
                "datacontenttype" => set(&mut datacontenttype, &mut map, "datacontenttype")?,
                "data" => set(&mut data, &mut map, "data")?,
                _ => {
                    if extensions.insert(key.into_owned(), map.next_value()?).is_some() {
                        return Err(A::Error::custom("duplicate extension attribute"));
                    }
                }
            }
        }
        Ok(CloudEvent {
            specversion: specversion.ok_or_else(|| A::Error::missing_field("specversion"))?,
            id: id.ok_or_else(|| A::Error::missing_field("id"))?,
            source: source.ok_or_else(|| A::Error::missing_field("source"))?,
            event_type: event_type.ok_or_else(|| A::Error::missing_field("type"))?,
            time: time.flatten(),
            datacontenttype: datacontenttype.flatten(),
            data: data.unwrap_or_default(),
            extensions,
        })
    }
}

/// Reads the value of an attribute, which may appear once.
fn set<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
    attribute: &mut Option<T>,
    map: &mut A,
    name: &'static str,
) -> Result<(), A::Error> {
    if attribute.is_some() {
        return Err(A::Error::duplicate_field(name));
    }
    *attribute = Some(map.next_value()?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_return_from_cloud_events_unchanged() {
        let mut event = Event::new("a.b.c".parse().unwrap(), "me", &[1, 2]).unwrap();
        event.metadata_mut().correlation_id = Some("corr".into());
        event.metadata_mut().schema_version = Some(3);
        event.metadata_mut().extra.insert("zone", "eu").unwrap();
        let cloud = CloudEvent::try_from(&event).unwrap();
        let text = serde_json::to_string(&cloud).unwrap();
        assert!(text.contains(r#""correlationid":"corr""#), "{text}");
        let back: CloudEvent = serde_json::from_str(&text).unwrap();
        assert_eq!(Event::try_from(back).unwrap(), event);
    }

    #[test]
    fn should_keep_data_and_metadata_character_by_character() {
        let values = r#"{"b":1.00,"a":12345678901234567890123,"a":1e400}"#;
        let text = format!(
            r#"{{"id":"e","type":"a.b.c","timestamp":"2024-01-01T00:00:00Z","source":"s","data":{values},"metadata":{{"user_id":"u","schema_version":3,"account":{values},"aiosmetadata":"x"}}}}"#
        );
        let event = Event::from_json(&text).unwrap();
        let cloud = serde_json::to_string(&CloudEvent::try_from(&event).unwrap()).unwrap();
        let back: CloudEvent = serde_json::from_str(&cloud).unwrap();
        assert_eq!(Event::try_from(back).unwrap().to_json().unwrap(), event.to_json().unwrap());
    }

    #[test]
    fn should_keep_foreign_extensions_character_by_character() {
        let text = r#"{"specversion":"1.0","id":"e","source":"s","type":"a.b.c","time":"2024-01-01T00:00:00Z","datacontenttype":"application/json","data":{"b":1.00,"a":1e400},"account":12345678901234567890123}"#;
        let cloud: CloudEvent = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&cloud).unwrap(), text);
        let event = Event::try_from(cloud).unwrap();
        assert_eq!(event.payload.as_str(), r#"{"b":1.00,"a":1e400}"#);
        let account = event.metadata.extra.value("account").unwrap();
        assert_eq!(account.as_str(), "12345678901234567890123");
    }

    #[test]
    fn should_take_json_with_parameters() {
        let event = Event::new("a.b.c".parse().unwrap(), "me", &1).unwrap();
        let cloud = CloudEvent::try_from(&event).unwrap();
        for kind in ["application/json; charset=utf-8", "Application/JSON;charset=UTF-8"] {
            let cloud = CloudEvent { datacontenttype: Some(kind.to_owned()), ..cloud.clone() };
            assert_eq!(Event::try_from(cloud).unwrap(), event, "{kind}");
        }
    }

    #[test]
    fn should_refuse_metadata_that_is_given_twice_or_has_another_shape() {
        let event = Event::new("a.b.c".parse().unwrap(), "me", &1).unwrap();
        let cloud = CloudEvent::try_from(&event).unwrap();
        let given = |fields: &[(&str, &str)]| {
            let fields = fields.iter().map(|(name, value)| {
                ((*name).to_owned(), Payload::from_text((*value).to_owned()).unwrap())
            });
            CloudEvent { extensions: fields.collect(), ..cloud.clone() }
        };
        for unfit in [
            given(&[("userid", "\"a\""), ("user_id", "\"b\"")]),
            given(&[("zone", "1"), ("aiosmetadata", r#""{\"zone\":2}""#)]),
            given(&[("userid", "7")]),
            given(&[("aiosmetadata", "\"no object\"")]),
        ] {
            assert_eq!(Event::try_from(unfit).unwrap_err().code(), "INVALID_CLOUD_EVENT");
        }
    }

    #[test]
    fn should_refuse_other_versions_and_content() {
        let event = Event::new("a.b.c".parse().unwrap(), "me", &1).unwrap();
        let cloud = CloudEvent::try_from(&event).unwrap();
        let binary = Payload::encode("AA==").unwrap();
        let binary = BTreeMap::from([("data_base64".to_owned(), binary)]);
        for unfit in [
            CloudEvent { specversion: "0.3".to_owned(), ..cloud.clone() },
            CloudEvent { datacontenttype: Some("text/xml".to_owned()), ..cloud.clone() },
            CloudEvent { time: None, ..cloud.clone() },
            CloudEvent { extensions: binary, ..cloud.clone() },
        ] {
            assert_eq!(Event::try_from(unfit).unwrap_err().code(), "INVALID_CLOUD_EVENT");
        }
    }
}
