use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::{Value, value::RawValue};

use super::Failure;
use crate::event::{EventError, Payload};

/// The field to which details that are not an object move when a field is added to them.
const CAUSE: &str = "cause";

/// The details of a failure: JSON text, or nothing.
///
/// The text is kept as it was written, so a number of any size and precision comes back unchanged. It is
/// decoded on demand.
///
/// # Examples
///
/// ```
/// use aios_core::{event::Payload, failure::Details};
/// use serde_json::json;
///
/// # fn main() -> Result<(), aios_core::event::EventError> {
/// let details = Details::from(json!({ "left": 0 }));
/// assert_eq!(details.get::<u32>("left"), Some(0));
/// assert_eq!(details.get::<u32>("sold"), None);
///
/// // More digits than any Rust number has.
/// let text = r#"{"order":12345678901234567890123}"#;
/// assert_eq!(Details::from(Payload::from_text(text.to_owned())?).as_str(), text);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Details(Option<Payload>);

impl Details {
    /// Serialises `value` to JSON.
    ///
    /// # Errors
    ///
    /// [`EventError::InvalidData`] if `value` cannot be serialised to JSON.
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self, EventError> {
        Payload::encode(value).map(Self::from)
    }

    /// Whether there are no details.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.0.is_none()
    }

    /// The JSON text; `null` if there are no details.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_ref().map_or("null", Payload::as_str)
    }

    /// Decodes the details as `T`.
    ///
    /// # Errors
    ///
    /// [`EventError::InvalidData`] if they have another shape.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, EventError> {
        serde_json::from_str(self.as_str()).map_err(EventError::invalid_data)
    }

    /// A field of the details as `T`; `None` if the details are not an object, there is no such field, or it
    /// has another shape. The last one counts if there are several of that name.
    #[must_use]
    pub fn get<T: DeserializeOwned>(&self, field: &str) -> Option<T> {
        let Fields(fields) = self.fields()?;
        let (_, value) = fields.into_iter().rfind(|(name, _)| name == field)?;
        serde_json::from_str(value.get()).ok()
    }

    /// Sets a field, as the last one. Former values of the field are removed; the values of all other fields
    /// keep their text.
    ///
    /// Details that are not an object move to the field `cause`.
    #[must_use]
    pub fn with_field(self, field: &str, value: impl Into<Self>) -> Self {
        let value = value.into();
        let mut fields = match self.fields() {
            Some(fields) => fields,
            None if self.is_null() => Fields(Vec::new()),
            None => Fields(self.raw().map(|cause| (CAUSE.into(), cause)).into_iter().collect()),
        };
        fields.0.retain(|(name, _)| name != field);
        fields.0.push((field.into(), value.raw().unwrap_or(RawValue::NULL)));
        Self(Some(encoded(&fields)))
    }

    /// The details as a [`Value`], to read nested fields or to compare them.
    ///
    /// A number is rounded to what a `Value` represents. Details that a `Value` cannot represent, for example
    /// a number outside the range of a double, are a string with their text.
    #[must_use]
    pub fn to_value(&self) -> Value {
        self.decode().unwrap_or_else(|_| Value::from(self.as_str()))
    }

    fn raw(&self) -> Option<&RawValue> {
        self.0.as_ref().map(Payload::as_raw)
    }

    /// The fields, if the details are an object.
    fn fields(&self) -> Option<Fields<'_>> {
        self.0.as_ref()?.decode_borrowed().ok()
    }
}

/// JSON for values whose serialisation cannot fail.
fn encoded(value: &impl Serialize) -> Payload {
    // Strings, numbers and JSON text are always JSON.
    Payload::encode(value).unwrap_or_default()
}

impl fmt::Debug for Details {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Display for Details {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The text `null` means that there are no details.
impl From<Payload> for Details {
    fn from(payload: Payload) -> Self {
        Self((payload.as_str() != "null").then_some(payload))
    }
}

impl From<Value> for Details {
    fn from(value: Value) -> Self {
        encoded(&value).into()
    }
}

/// A list.
impl FromIterator<Self> for Details {
    fn from_iter<I: IntoIterator<Item = Self>>(items: I) -> Self {
        encoded(&items.into_iter().collect::<Vec<_>>()).into()
    }
}

/// A failure in the details of another one.
impl From<&Failure> for Details {
    fn from(failure: &Failure) -> Self {
        encoded(failure).into()
    }
}

impl From<Details> for Payload {
    fn from(details: Details) -> Self {
        details.0.unwrap_or_default()
    }
}

impl Serialize for Details {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Details {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Payload::deserialize(deserializer).map(Self::from)
    }
}

/// The fields of an object in their order, with the text of their values.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn details(text: &str) -> Details {
        Payload::from_text(text.to_owned()).unwrap().into()
    }

    #[test]
    fn should_keep_all_other_text_when_a_field_is_set() {
        let number = "[1e999,12345678901234567890123,0.1000000000000000055]";
        for (before, after) in [
            ("null".to_owned(), r#"{"n":7}"#.to_owned()),
            (r#"{"n":1}"#.to_owned(), r#"{"n":7}"#.to_owned()),
            (number.to_owned(), format!(r#"{{"cause":{number},"n":7}}"#)),
            (
                format!(r#"{{"z":{number},"n":0,"a":1}}"#),
                format!(r#"{{"z":{number},"a":1,"n":7}}"#),
            ),
        ] {
            assert_eq!(details(&before).with_field("n", json!(7)).as_str(), after, "{before}");
        }
    }

    #[test]
    fn should_read_a_field_beside_numbers_that_no_type_has() {
        let read = details(r#"{"big":1e999,"\u006eame":"tea","name":"coffee"}"#);
        assert_eq!(read.get::<String>("name").as_deref(), Some("coffee"));
        assert_eq!(read.get::<f64>("big"), None);
        assert_eq!(details("[1]").get::<u8>("name"), None);
        assert_eq!(Details::default().get::<u8>("name"), None);
    }

    #[test]
    fn should_be_nothing_for_null() {
        assert_eq!(Details::from(json!(null)), Details::default());
        assert_eq!(details("null"), Details::default());
        assert_eq!(details("[null]").to_value(), json!([null]));
    }
}
