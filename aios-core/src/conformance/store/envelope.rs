//! Events are read back unchanged.

use serde_json::{Value, json};

use super::{
    Capability,
    harness::{Harness, envelope, stream, typed},
};
use crate::{
    event::{Event, Metadata, Payload, Timestamp},
    store::{Append, StoreError},
};

const ENVELOPE: &str = r#"{"id":"msg-123","type":"agents.backend.task_completed","timestamp":"2024-01-01T00:00:00Z","source":"backend-agent-1","data":{"task_id":"task-456","result":"success","output":{}},"metadata":{"correlation_id":"corr-789","causation_id":"msg-122","user_id":"user-1"}}"#;

/// Appends one event and reads it back.
async fn stored(harness: &Harness<'_>, event: &Event) -> Event {
    let name = format!("stream of {}", event.id.key());
    harness.append(&name, vec![event.clone()]).await;
    harness.stream(&name).await.pop().expect("the event is there").event
}

/// The envelope of the specification is stored and read back as the same JSON.
pub async fn should_return_the_envelope_it_got(harness: Harness<'_>) {
    let event = Event::from_json(ENVELOPE).unwrap();
    let read = stored(&harness, &event).await;
    let written: Value = serde_json::from_str(ENVELOPE).unwrap();
    assert_eq!(envelope(&read), written);
    assert_eq!((read.id, read.metadata), (event.id, event.metadata));
}

/// Metadata fields that aios does not know are kept, character by character.
pub async fn should_keep_unknown_metadata(harness: Harness<'_>) {
    let text = ENVELOPE.replace(
        "\"user_id\":\"user-1\"",
        r#""traceparent":"00-1-2-01","reply_to":"m","schema_version":3,"tenant":{"b":[1.00,null,"é"],"a":12345678901234567890123,"a":1e400},"zone":"eu""#,
    );
    let event = Event::from_json(&text).unwrap();
    assert_eq!(stored(&harness, &event).await.to_json().unwrap(), text);
}

/// Metadata is read back unchanged in every stream, even if it is what a store may leave out: a run
/// that its stream names anyway.
pub async fn should_keep_metadata_in_journals(harness: Harness<'_>) {
    let named = |correlation_id: Option<&str>, run_id: Option<&str>| Metadata {
        correlation_id: correlation_id.map(Into::into),
        run_id: run_id.map(Into::into),
        ..Metadata::default()
    };
    let caused = Metadata { causation_id: Some("c".into()), ..named(Some("r"), Some("r")) };
    let each = [
        Metadata::default(),
        named(Some("r"), Some("r")),
        named(None, Some("r")),
        named(Some("r"), None),
        named(Some("x"), Some("r")),
        named(Some("r"), Some("x")),
        caused,
    ];
    for name in ["runs/r", "r"] {
        for metadata in &each {
            let mut event = typed("test.thing.happened", &json!(1));
            event.metadata = metadata.clone().into();
            harness.append(name, vec![event]).await;
        }
        let events = harness.stream(name).await;
        let kept: Vec<_> =
            events.into_iter().map(|recorded| (*recorded.event.metadata).clone()).collect();
        assert_eq!(kept, each, "{name}");
    }
}

/// An id that is not a UUID is read back unchanged, even if it looks like a UUID.
pub async fn should_keep_foreign_ids_verbatim(harness: Harness<'_>) {
    let long = "i".repeat(255);
    for id in ["msg-1", "MSG-1", " msg-1 ", "01890A5D-AC96-774B-BCCE-B302099A8057", "ü✓", &long]
    {
        let event = typed("test.thing.happened", &json!(1)).with_id(id.parse().unwrap());
        assert_eq!(stored(&harness, &event).await.id.to_string(), id);
        let repeat = Append::new(stream("elsewhere"), vec![event]);
        assert_eq!(harness.try_append(repeat).await.unwrap_err().code(), "DUPLICATE_EVENT");
    }
}

/// Every text field may have any text.
pub async fn should_keep_unicode_everywhere(harness: Harness<'_>) {
    let text = "Grüße, 世界 🌍 \u{202e}rtl ' \" \\ \n \u{7f} é e\u{301}";
    let mut event = typed("test.thing.happened", &json!({ text: [text] }));
    event.id = "ид-✓".parse().unwrap();
    event.source = text.into();
    event.metadata_mut().user_id = Some(text.into());
    event.metadata_mut().extra.insert(text, text).unwrap();
    harness.append(text, vec![event.clone()]).await;
    let read = harness.stream(text).await;
    assert_eq!(read[0].stream, stream(text));
    assert_eq!(envelope(&read[0].event), envelope(&event));
}

/// Numbers, the order of keys and white space within data are kept as written.
pub async fn should_keep_data_character_by_character(harness: Harness<'_>) {
    if harness.lacks(Capability::VerbatimData) {
        return;
    }
    let text = r#"{"b": 1.00, "a": 12345678901234567890123, "a": 1e400}"#;
    let mut event = typed("test.thing.happened", &json!(1));
    event.payload = Payload::from_text(text.to_owned()).unwrap();
    assert_eq!(stored(&harness, &event).await.payload.as_str(), text);
}

/// JSON may contain the character U+0000.
pub async fn should_keep_nul_characters(harness: Harness<'_>) {
    if harness.lacks(Capability::NulCharacters) {
        return;
    }
    let event = typed("test.thing.happened", &json!({"a\0b": "\0"}));
    assert_eq!(envelope(&stored(&harness, &event).await), envelope(&event));
}

/// Timestamps keep their microseconds, up to both ends of the valid range.
pub async fn should_keep_the_first_and_the_last_timestamp(harness: Harness<'_>) {
    for moment in
        [Timestamp::MIN, Timestamp::from_micros(-1), Timestamp::from_micros(1), Timestamp::MAX]
    {
        let event = typed("test.thing.happened", &json!(1)).with_timestamp(moment);
        assert_eq!(stored(&harness, &event).await.timestamp, moment);
    }
}

/// Four mebibytes of data are stored like any other.
pub async fn should_keep_large_data(harness: Harness<'_>) {
    let event = typed("test.thing.happened", &json!("large ".repeat(700_000)));
    assert_eq!(stored(&harness, &event).await.payload, event.payload);
}

/// An event beyond the limit is refused with a named error, and only that event.
pub async fn should_refuse_an_event_that_is_too_large(harness: Harness<'_>) {
    let large = typed("test.thing.happened", &json!("x".repeat(harness.too_many_bytes())));
    let small = typed("test.thing.happened", &json!(1));
    let batch = vec![
        Append::new(stream("a"), vec![small.clone(), large.clone()]),
        Append::new(stream("b"), vec![typed("test.thing.happened", &json!(2))]),
    ];
    let answers = harness.store.append(batch).await;
    match answers[0].as_ref().unwrap_err() {
        StoreError::TooLarge { id, bytes, limit } => {
            assert_eq!(*id, large.id);
            assert!(bytes > limit && *bytes >= harness.too_many_bytes());
        }
        other => panic!("{other:?}"),
    }
    assert!(answers[1].is_ok());
    assert_eq!(harness.log().await.len(), 1);
}

/// Names may have 255 bytes, of any characters.
pub async fn should_keep_names_of_every_length(harness: Harness<'_>) {
    for name in ["x".repeat(255), "ä".repeat(127), "✓".repeat(85), "x".to_owned()] {
        let mut event = typed("test.thing.happened", &json!(1)).with_id(name.parse().unwrap());
        event.source = name.as_str().into();
        let a = "a".repeat(80);
        let c = "c".repeat(255 - 82 - 80);
        event.event_type = format!("{a}.{}.{c}", "b".repeat(80)).parse().unwrap();
        harness.append(&name, vec![event.clone()]).await;
        let read = harness.stream(&name).await.remove(0);
        assert_eq!((read.stream.as_str(), &read.event), (&*name, &event));
        let repeat = harness.append(&name, vec![event]).await;
        assert!(repeat.repeated);
    }
}

/// A batch may be larger than the amount that a store writes at once.
pub async fn should_take_a_batch_of_many_large_events(harness: Harness<'_>) {
    let text = "x".repeat(1024 * 1024);
    let batch = (0..40).map(|number| {
        let event = typed("test.thing.happened", &json!({ "number": number, "text": text }));
        Append::new(stream(&format!("s/{}", number % 3)), vec![event])
    });
    let answers = harness.store.append(batch.collect()).await;
    let positions: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().position).collect();
    assert_eq!(positions, (1..=40).collect::<Vec<_>>());
    assert_eq!(harness.stream("s/0").await.len(), 14);
}
