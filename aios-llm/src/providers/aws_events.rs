//! Messages of AWS event streams (`application/vnd.amazon.eventstream`).
//!
//! A message is binary, with all numbers in big endian:
//!
//! ```text
//! total length (4) │ length of headers (4) │ checksum of both (4) │ headers │ payload │ checksum of all before (4)
//! ```
//!
//! ```text
//! header: length of name (1) │ name │ type (1) │ length of value (2) │ value
//! ```
//!
//! Both checksums are verified. The lengths come from the network, so they are checked before
//! anything is read or allocated.

use serde_json::{Map, Value};

use super::{
    body,
    connection::MAX_RESPONSE_BYTES,
    error::{exception, invalid_response},
    key::ApiKey,
};
use crate::{crc32::crc32, model::ModelError};

/// Length of the message, length of its headers, and the checksum of both.
const PRELUDE: usize = 12;
/// Length of a checksum.
const CHECKSUM: usize = 4;
/// Type of the value of a header that is a text.
const TEXT: u8 = 7;

/// Takes the next message from the start of the buffer, if it has arrived. Returns its event: an
/// object whose only field has the name of the event.
pub(super) fn take(
    name: &str,
    key: &ApiKey,
    buffer: &mut Vec<u8>,
) -> Result<Option<Value>, ModelError> {
    let Some(prelude) = buffer.get(..PRELUDE) else { return Ok(None) };
    let broken = || invalid_response(name, "has a broken message");
    let (Some(length), Some(headers)) = (number(prelude, 0), number(prelude, 4)) else {
        return Err(broken());
    };
    let is_possible = length <= MAX_RESPONSE_BYTES
        && headers.checked_add(PRELUDE + CHECKSUM).is_some_and(|least| least <= length);
    // The prelude has a checksum of its own, so a wrong length is noticed before the message has
    // arrived.
    if !is_possible || !is_intact(prelude) {
        return Err(broken());
    }
    if buffer.len() < length {
        return Ok(None);
    }
    let message: Vec<u8> = buffer.drain(..length).collect();
    if !is_intact(&message) {
        return Err(broken());
    }
    let head = PRELUDE + headers;
    let body = length - CHECKSUM;
    let (Some(headers), Some(payload)) = (message.get(PRELUDE..head), message.get(head..body))
    else {
        return Err(broken());
    };
    let headers = texts(headers).ok_or_else(broken)?;
    let header = |wanted: &str| {
        headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    };
    let payload: Value = body::read(payload)
        .map_err(|_| invalid_response(name, "has an event that is not valid JSON"))?;
    match (header(":message-type"), header(":event-type"), header(":exception-type")) {
        (Some("event"), Some(event), _) => {
            Ok(Some(Map::from_iter([(event.to_owned(), payload)]).into()))
        }
        (_, _, kind) => {
            let kind = kind.or_else(|| header(":error-code")).unwrap_or_default();
            Err(exception(name, kind, &key.hidden_in(payload)))
        }
    }
}

/// A length in the prelude.
fn number(bytes: &[u8], start: usize) -> Option<usize> {
    let bytes = bytes.get(start..)?.first_chunk()?;
    usize::try_from(u32::from_be_bytes(*bytes)).ok()
}

/// Whether the last four bytes are the checksum of those before them.
fn is_intact(bytes: &[u8]) -> bool {
    bytes
        .split_last_chunk::<CHECKSUM>()
        .is_some_and(|(checked, checksum)| crc32(checked) == u32::from_be_bytes(*checksum))
}

/// The headers whose values are texts. `None` if they are malformed, or of a type that these streams
/// do not have.
fn texts(mut bytes: &[u8]) -> Option<Vec<(String, String)>> {
    let mut headers = Vec::new();
    while let Some((length, rest)) = bytes.split_first() {
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        let (kind, rest) = rest.split_first()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        if *kind != TEXT {
            return None;
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        headers.push((text(name)?, text(value)?));
        bytes = rest;
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_refuse_malformed_messages() {
        let key = ApiKey::new(String::new());
        let take = |buffer: &mut Vec<u8>| take("m", &key, buffer);
        let mut short = vec![0, 0, 0, 16];
        assert!(take(&mut short).unwrap().is_none());
        let mut huge = [u32::MAX.to_be_bytes(), [0; 4], [0; 4]].concat();
        assert_eq!(take(&mut huge).err().map(|it| it.code()), Some("MODEL_INVALID_RESPONSE"));
        let mut wrong = [16_u32.to_be_bytes(), [0; 4], [1; 4], [0; 4]].concat();
        assert!(take(&mut wrong).is_err(), "the checksum is wrong");
        let mut prelude = [12_u32.to_be_bytes(), [0; 4]].concat();
        prelude.extend(crc32(&prelude).to_be_bytes());
        assert!(take(&mut prelude).is_err(), "the message is shorter than its frame");
    }
}
