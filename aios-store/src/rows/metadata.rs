//! Metadata in the rows of events, with the usual metadata left out.
//!
//! The rule is part of the format of the log. `encode_metadata` and `decode_metadata` have to agree
//! for every stream: what is left out in writing is added in reading, and anything else is written
//! in full, even if only one field differs from the default.

use aios_core::{
    Cause,
    event::Metadata,
    store::{StoreError, StreamId},
};

/// Encodes the metadata of an event for its row: as JSON, or as `None` if it is the default metadata of
/// the stream.
///
/// Most events of a journal have only their run as run id and correlation id. Most events of other
/// streams have no metadata. Leaving these defaults out makes rows smaller.
///
/// # Errors
///
/// [`StoreError::Backend`] if the metadata cannot be serialised to JSON.
pub(crate) fn encode_metadata(
    stream: &StreamId,
    metadata: &Metadata,
) -> Result<Option<String>, StoreError> {
    if is_default(stream, metadata) {
        return Ok(None);
    }
    serde_json::to_string(metadata).map(Some).map_err(|source| StoreError::Backend {
        backend: "json",
        operation: "write metadata",
        retryable: false,
        source: Cause::new(source),
    })
}

/// Decodes the result of [`encode_metadata`].
///
/// # Errors
///
/// If the text is not metadata in JSON.
#[cfg(any(feature = "sqlite", feature = "postgres", test))]
pub(crate) fn decode_metadata(
    stream: &StreamId,
    text: Option<&str>,
) -> Result<Metadata, serde_json::Error> {
    match text {
        Some(text) => serde_json::from_str(text),
        None => Ok(default_metadata(stream)),
    }
}

/// The default metadata of the events of a stream, which may be a run's journal.
#[cfg(any(feature = "sqlite", feature = "postgres", test))]
fn default_metadata(stream: &StreamId) -> Metadata {
    let run_id = stream.run_id().map(Into::into);
    Metadata { correlation_id: run_id.clone(), run_id, ..Metadata::default() }
}

/// Whether the metadata equals [`default_metadata`] of the stream. The pattern names every field,
/// so that a new field does not compile until it is decided whether it can be left out. Comparing
/// the fields avoids building the default for each event.
fn is_default(stream: &StreamId, metadata: &Metadata) -> bool {
    let Metadata {
        run_id,
        correlation_id,
        causation_id: None,
        user_id: None,
        traceparent: None,
        tracestate: None,
        reply_to: None,
        schema_version: None,
        incarnation: None,
        extra,
    } = metadata
    else {
        return false;
    };
    let default = stream.run_id();
    extra.is_empty() && run_id.as_deref() == default && correlation_id.as_deref() == default
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(correlation_id: Option<&str>, run_id: Option<&str>) -> Metadata {
        Metadata {
            correlation_id: correlation_id.map(Into::into),
            run_id: run_id.map(Into::into),
            ..Metadata::default()
        }
    }

    #[test]
    fn should_read_back_what_was_written() {
        let journal = StreamId::of_run("r").unwrap();
        let other: StreamId = StreamId::new("orders/1").unwrap();
        let caused = Metadata { causation_id: Some("c".into()), ..named(Some("r"), Some("r")) };
        for stream in [&journal, &other] {
            for metadata in [
                Metadata::default(),
                named(Some("r"), Some("r")),
                named(Some("r"), None),
                named(None, Some("r")),
                named(Some("x"), Some("r")),
                named(Some("r"), Some("x")),
                caused.clone(),
            ] {
                let text = encode_metadata(stream, &metadata).unwrap();
                let read = decode_metadata(stream, text.as_deref()).unwrap();
                assert_eq!(read, metadata, "{stream} {text:?}");
            }
        }
    }

    #[test]
    fn should_leave_default_metadata_out() {
        let journal = StreamId::of_run("r").unwrap();
        let other = StreamId::new("orders/1").unwrap();
        assert_eq!(encode_metadata(&journal, &named(Some("r"), Some("r"))).unwrap(), None);
        assert_eq!(encode_metadata(&other, &Metadata::default()).unwrap(), None);
    }
}
