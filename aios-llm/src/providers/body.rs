//! JSON of providers.
//!
//! The arguments of tool calls are JSON within it, with some providers. They become a text, as other
//! providers send them: a [`Value`] has numbers of 64 bits, and would round larger ones. In the other
//! direction, such a text is marked, and written as the JSON that it is.

use std::fmt;

use aios_core::event::Payload;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::{Map, Value, value::RawValue};

/// The fields that have the arguments of a call.
const ARGUMENTS: [&str; 3] = ["args", "arguments", "input"];

/// Reads JSON. An object in a field for arguments becomes its text.
pub(super) fn read(json: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(json).map(|Body(value)| value)
}

/// Marks a text that is JSON. It counts only in a field for arguments, where no text of a person, a
/// model or a tool stands.
const MARK: &str = "\0json:";

/// JSON in a field for arguments.
pub(super) fn marked(json: &str) -> Value {
    format!("{MARK}{json}").into()
}

/// Writes JSON. A marked text in a field for arguments becomes the JSON that it is.
pub(super) fn write(body: &Value) -> String {
    serde_json::to_string(&Written(body)).unwrap_or_else(|_| body.to_string())
}

/// A value that may have marked texts.
struct Written<'v>(&'v Value);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(values) => serializer.collect_seq(values.iter().map(Self)),
            Value::Object(fields) => {
                let mut written = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    match json_in(name, value) {
                        Some(json) => written.serialize_entry(name, json)?,
                        None => written.serialize_entry(name, &Written(value))?,
                    }
                }
                written.end()
            }
            other => other.serialize(serializer),
        }
    }
}

/// The JSON of a marked text.
fn json_in<'v>(field: &str, value: &'v Value) -> Option<&'v RawValue> {
    let is_field = ARGUMENTS.contains(&field);
    serde_json::from_str(value.as_str().filter(|_| is_field)?.strip_prefix(MARK)?).ok()
}

/// A value of which the arguments are texts.
struct Body(Value);

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BodyVisitor).map(Self)
    }
}

/// Builds the value.
struct BodyVisitor;

impl<'de> Visitor<'de> for BodyVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Body(value)) = items.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let value = match ARGUMENTS.contains(&name.as_str()) {
                true => arguments(&entries.next_value::<Payload>()?).map_err(A::Error::custom)?,
                false => entries.next_value::<Body>()?.0,
            };
            fields.insert(name, value);
        }
        Ok(fields.into())
    }
}

/// The value of a field for arguments.
fn arguments(json: &Payload) -> Result<Value, serde_json::Error> {
    match json.as_str().starts_with('{') {
        true => Ok(json.as_str().into()),
        false => serde_json::from_str(json.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn should_read_everything_but_arguments_as_values() {
        let text = r#"{"a":[1,-2,0.5,"b\n",null,true,{"c":{}}],"input":"d","args":[{}],"e":[{"input":{"n":1.50}}]}"#;
        let value = json!({
            "a": [1, -2, 0.5, "b\n", null, true, {"c": {}}],
            "input": "d",
            "args": [{}],
            "e": [{"input": r#"{"n":1.50}"#}],
        });
        assert_eq!(read(text.as_bytes()).unwrap(), value);
        assert!(read(b"{\"a\":1} b").is_err() && read(b"{\"input\":{}").is_err());
    }

    #[test]
    fn should_write_marked_arguments_as_they_are() {
        let json = r#"{"n":12345678901234567890123, "p":1.50}"#;
        let value = json!({"a": [{"input": marked(json)}, 1, null], "input": "b"});
        assert_eq!(write(&value), format!(r#"{{"a":[{{"input":{json}}},1,null],"input":"b"}}"#));
        // Elsewhere, it is a text like any other.
        let text = json!({ "text": marked("{}"), "args": [marked("{}")] });
        assert_eq!(write(&text), text.to_string());
    }
}
