use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::EventError;

/// JSON text that was validated once and is shared, not copied, until it is decoded.
///
/// Stores and brokers limit the size of an event, including its payload: `max_event_bytes`, 16 MiB by default.
/// They reject a larger event with the code `EVENT_TOO_LARGE`.
///
/// # Examples
///
/// ```
/// use aios_core::event::Payload;
///
/// # fn main() -> Result<(), aios_core::event::EventError> {
/// let payload = Payload::encode(&("Ada", 36))?;
/// assert_eq!(payload.as_str(), r#"["Ada",36]"#);
/// assert_eq!(payload.decode::<(String, u32)>()?, ("Ada".to_owned(), 36));
/// assert!(payload.decode::<u32>().is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Payload(Arc<RawValue>);

impl Payload {
    /// The JSON `null`.
    #[must_use]
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned().into())
    }

    /// Serialises `value` to JSON.
    ///
    /// # Errors
    ///
    /// [`EventError::InvalidData`] if `value` cannot be serialised to JSON, for example a map whose
    /// keys are not strings.
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self, EventError> {
        let text = serde_json::value::to_raw_value(value).map_err(EventError::invalid_data)?;
        Ok(Self(text.into()))
    }

    /// Takes text that is already JSON; surrounding white space is removed.
    ///
    /// # Errors
    ///
    /// [`EventError::InvalidData`] if it is not JSON.
    pub fn from_text(text: String) -> Result<Self, EventError> {
        RawValue::from_string(text).map(|text| Self(text.into())).map_err(EventError::invalid_data)
    }

    /// Decodes the JSON as `T`.
    ///
    /// # Errors
    ///
    /// [`EventError::InvalidData`] if it has another shape.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, EventError> {
        serde_json::from_str(self.as_str()).map_err(EventError::invalid_data)
    }

    /// Decodes the JSON as a `T` that borrows from this payload.
    ///
    /// # Errors
    ///
    /// [`EventError::InvalidData`] if it has another shape.
    pub fn decode_borrowed<'a, T: Deserialize<'a>>(&'a self) -> Result<T, EventError> {
        serde_json::from_str(self.as_str()).map_err(EventError::invalid_data)
    }

    /// The JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The JSON text as serde_json knows it.
    pub(crate) fn as_raw(&self) -> &RawValue {
        &self.0
    }
}

impl Default for Payload {
    fn default() -> Self {
        Self::null()
    }
}

/// Equal text, which is stricter than equal values: `1.0` differs from `1.00`.
impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Payload {}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|text| Self(text.into()))
    }
}
