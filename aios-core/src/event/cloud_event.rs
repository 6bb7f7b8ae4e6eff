use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Event, EventError, Metadata, Payload, Timestamp};

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

/// A CloudEvents 1.0 event in structured JSON mode.
///
/// Converts from and into [`Event`]. Metadata becomes extension attributes; unknown metadata is
/// carried in `aiosmetadata`, so that a round trip loses nothing.
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// Always `application/json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacontenttype: Option<String>,
    /// See [`Event::payload`].
    #[serde(default)]
    pub data: Value,
    /// Extension attributes.
    #[serde(flatten)]
    pub extensions: Map<String, Value>,
}

impl TryFrom<&Event> for CloudEvent {
    type Error = EventError;

    fn try_from(event: &Event) -> Result<Self, EventError> {
        let metadata: Map<String, Value> = Payload::encode(&event.metadata)?.decode()?;
        let mut extensions = Map::new();
        let mut rest = Map::new();
        for (name, value) in metadata {
            match KNOWN.iter().find(|(_, ours)| *ours == name) {
                Some((theirs, _)) => extensions.insert((*theirs).to_owned(), value),
                None => rest.insert(name, value),
            };
        }
        if !rest.is_empty() {
            let text = Payload::encode(&rest)?.as_str().to_owned();
            extensions.insert("aiosmetadata".to_owned(), Value::String(text));
        }
        Ok(Self {
            specversion: "1.0".to_owned(),
            id: event.id.to_string(),
            source: event.source.to_string(),
            event_type: event.event_type.to_string(),
            time: Some(event.timestamp),
            datacontenttype: Some("application/json".to_owned()),
            data: event.data()?,
            extensions,
        })
    }
}

impl TryFrom<CloudEvent> for Event {
    type Error = EventError;

    fn try_from(cloud: CloudEvent) -> Result<Self, EventError> {
        let unfit = |reason: &str| EventError::InvalidCloudEvent { reason: reason.to_owned() };
        if cloud.specversion != "1.0" {
            return Err(unfit("its specversion is not 1.0"));
        }
        if cloud.datacontenttype.as_deref().is_some_and(|kind| kind != "application/json") {
            return Err(unfit("its datacontenttype is not application/json"));
        }
        if cloud.extensions.contains_key("data_base64") {
            return Err(unfit("its data is binary (data_base64)"));
        }
        let timestamp = cloud.time.ok_or_else(|| unfit("it has no time"))?;
        Ok(Self::new(cloud.event_type.parse()?, cloud.source, &cloud.data)?
            .with_id(cloud.id.parse()?)
            .with_timestamp(timestamp)
            .with_metadata(metadata(cloud.extensions)?))
    }
}

fn metadata(extensions: Map<String, Value>) -> Result<Metadata, EventError> {
    let mut fields = Map::new();
    for (name, value) in extensions {
        match (KNOWN.iter().find(|(theirs, _)| *theirs == name), &value) {
            (Some((_, ours)), _) => drop(fields.insert((*ours).to_owned(), value)),
            (None, Value::String(text)) if name == "aiosmetadata" => {
                let rest: Map<String, Value> =
                    serde_json::from_str(text).map_err(EventError::malformed)?;
                fields.extend(rest);
            }
            (None, _) => drop(fields.insert(name, value)),
        }
    }
    Payload::encode(&fields)?.decode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_return_from_cloud_events_unchanged() {
        let mut event = Event::new("a.b.c".parse().unwrap(), "me", &[1, 2]).unwrap();
        event.metadata_mut().correlation_id = Some("corr".into());
        event.metadata_mut().schema_version = Some(3);
        event.metadata_mut().extra.insert("zone".to_owned(), "eu".into());
        let cloud = CloudEvent::try_from(&event).unwrap();
        let text = serde_json::to_string(&cloud).unwrap();
        assert!(text.contains(r#""correlationid":"corr""#), "{text}");
        let back: CloudEvent = serde_json::from_str(&text).unwrap();
        assert_eq!(Event::try_from(back).unwrap(), event);
    }

    #[test]
    fn should_refuse_other_versions_and_content() {
        let event = Event::new("a.b.c".parse().unwrap(), "me", &1).unwrap();
        let cloud = CloudEvent::try_from(&event).unwrap();
        let binary = Map::from_iter([("data_base64".to_owned(), "AA==".into())]);
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
