//! The transport of the envelope.

use super::Harness;
use crate::event::{Event, Payload};

/// The published text arrives unchanged, including fields that aios does not know.
pub async fn should_carry_the_envelope_unchanged(harness: Harness<'_>) {
    let event_type = harness.event("backend.task_completed", 1).event_type;
    let text = format!(
        r#"{{"id":"msg-123","type":"{event_type}","timestamp":"2024-01-01T00:00:00.123456Z","source":"backend-agent-1","data":{{"task_id":"task-456","result":"success","output":{{}},"number":1.00}},"metadata":{{"correlation_id":"corr-789","causation_id":"msg-122","user_id":"user-1","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","tracestate":"a=b","reply_to":"box","schema_version":3,"tenant":{{"b":[1.00,2],"a":12345678901234567890123}},"zone":"eu"}}}}"#
    );
    let mut reader = harness.subscribe(harness.all("g")).await;
    harness.publish_events(vec![Event::from_json(&text).unwrap()]).await;
    let delivery = reader.next().await;
    assert_eq!(delivery.event.to_json().unwrap(), text);
    harness.within("acknowledge", delivery.ack()).await.unwrap();
}

/// Names and data may hold any text.
pub async fn should_carry_unicode(harness: Harness<'_>) {
    let mut event = harness.event("thing.happened", 1).with_id("日本-🦀".parse().unwrap());
    event.source = "агент \"7\"\n".into();
    event.payload = Payload::encode(&["\u{0}\u{7f}", "e\u{301}", "🧑‍🚀", "\u{202e}rtl"]).unwrap();
    event.metadata_mut().extra.insert("ключ", "værdi").unwrap();
    let mut reader = harness.subscribe(harness.all("g")).await;
    harness.publish_events(vec![event.clone()]).await;
    assert_eq!(reader.next().await.event, event);
}

/// A large event is transported completely.
pub async fn should_carry_a_mebibyte(harness: Harness<'_>) {
    let mut event = harness.event("thing.happened", 1);
    event.payload = Payload::encode(&"0123456789abcdef".repeat(1 << 16)).unwrap();
    let mut reader = harness.subscribe(harness.all("g")).await;
    harness.publish_events(vec![event.clone()]).await;
    assert!(reader.next().await.event == event, "the event arrives as it was published");
}
