//! CloudEvents: one that converts to an event converts back, and then to the same event again.
#![no_main]

use aios_core::event::{CloudEvent, Event};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(cloud) = serde_json::from_str::<CloudEvent>(text) else { return };
    let Ok(event) = Event::try_from(cloud) else { return };
    let cloud = CloudEvent::try_from(&event).expect("an event is a CloudEvent");
    let written = serde_json::to_string(&cloud).expect("a CloudEvent can be written");
    let read: CloudEvent = serde_json::from_str(&written).expect("a CloudEvent can be read");
    assert_eq!(Event::try_from(read).expect("it was an event"), event);
});
