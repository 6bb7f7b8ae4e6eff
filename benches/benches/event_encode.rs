//! Encoding an envelope, compared with `serde_json` on a plain struct of the same shape.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first error, prints, and measures real time"
)]

use std::{hint::black_box, time::Instant};

use aios_benches::{median, ratio};
use aios_core::event::Event;
use serde::Serialize;
use serde_json::value::RawValue;

const EVENTS: u32 = 200_000;
const ROUNDS: usize = 7;
const TEXT: &str = r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057","type":"agents.backend.task_completed","timestamp":"2024-01-01T00:00:00.123456Z","source":"backend-agent-1","data":{"task_id":"task-456","result":"success","output":{"files":[1,2,3]}},"metadata":{"correlation_id":"corr-789","causation_id":"msg-122","user_id":"user-1"}}"#;

#[derive(Serialize)]
struct Plain {
    id: String,
    r#type: String,
    timestamp: String,
    source: String,
    data: Box<RawValue>,
    metadata: PlainMetadata,
}

#[derive(Serialize)]
struct PlainMetadata {
    correlation_id: String,
    causation_id: String,
    user_id: String,
}

fn main() {
    let event = Event::from_json(TEXT).unwrap();
    let plain = Plain {
        id: event.id.to_string(),
        r#type: event.event_type.to_string(),
        timestamp: event.timestamp.to_string(),
        source: event.source.to_string(),
        data: RawValue::from_string(event.payload.as_str().to_owned()).unwrap(),
        metadata: PlainMetadata {
            correlation_id: "corr-789".to_owned(),
            causation_id: "msg-122".to_owned(),
            user_id: "user-1".to_owned(),
        },
    };
    assert_eq!(event.to_json().unwrap(), serde_json::to_string(&plain).unwrap());
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(rate(|| black_box(&event).to_json().unwrap()));
        ceiling.push(rate(|| serde_json::to_string(black_box(&plain)).unwrap()));
    }
    ratio("event_encode", median(&mut ours), median(&mut ceiling), "events/s");
}

fn rate(encode: impl Fn() -> String) -> f64 {
    let begin = Instant::now();
    for _ in 0..EVENTS {
        black_box(encode());
    }
    f64::from(EVENTS) / begin.elapsed().as_secs_f64()
}
