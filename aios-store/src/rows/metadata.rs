use std::sync::Arc;

use aios_core::{
    event::Metadata,
    store::{StoreError, StreamId},
};

/// The metadata of an event in a stream as its row holds it: JSON, or nothing if it is what most
/// events of the stream have.
///
/// Most events of a journal name their run as run and as correlation, and nothing else; in any other
/// stream most events have no metadata.
///
/// # Errors
///
/// [`StoreError::Backend`] if the metadata cannot be written as JSON.
pub(crate) fn encode_metadata(
    stream: &StreamId,
    metadata: &Metadata,
) -> Result<Option<String>, StoreError> {
    if is_usual(stream, metadata) {
        return Ok(None);
    }
    serde_json::to_string(metadata).map(Some).map_err(|source| StoreError::Backend {
        backend: "json",
        operation: "write metadata",
        retryable: false,
        source: Arc::new(source),
    })
}

/// Reads what [`encode_metadata`] wrote.
///
/// # Errors
///
/// If the text is not the JSON of metadata.
#[cfg(any(feature = "sqlite", feature = "postgres", test))]
pub(crate) fn decode_metadata(
    stream: &StreamId,
    text: Option<&str>,
) -> Result<Metadata, serde_json::Error> {
    match text {
        Some(text) => serde_json::from_str(text),
        None => Ok(usual(stream.run_id().map(Arc::from))),
    }
}

/// What most events have of a run's journal, or of another stream.
fn usual(run_id: Option<Arc<str>>) -> Metadata {
    Metadata { correlation_id: run_id.clone(), run_id, ..Metadata::default() }
}

fn is_usual(stream: &StreamId, metadata: &Metadata) -> bool {
    let run_id = stream.run_id();
    if metadata.run_id.as_deref() != run_id || metadata.correlation_id.as_deref() != run_id {
        return false;
    }
    *metadata == usual(metadata.run_id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(correlation_id: Option<&str>, run_id: Option<&str>) -> Metadata {
        let shared = |text: &str| Arc::from(text);
        Metadata {
            correlation_id: correlation_id.map(shared),
            run_id: run_id.map(shared),
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
    fn should_write_nothing_of_what_most_events_have() {
        let journal = StreamId::of_run("r").unwrap();
        let other = StreamId::new("orders/1").unwrap();
        assert_eq!(encode_metadata(&journal, &named(Some("r"), Some("r"))).unwrap(), None);
        assert_eq!(encode_metadata(&other, &Metadata::default()).unwrap(), None);
    }
}
