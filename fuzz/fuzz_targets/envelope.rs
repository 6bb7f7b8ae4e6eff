//! The JSON envelope: an event that was decoded can be encoded, and decodes to the same event.
#![no_main]

use aios_core::event::Event;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(event) = Event::from_json(text) else { return };
    let written = event.to_json().expect("an event that was read can be written");
    let read = Event::from_json(&written).expect("an event that was written can be read");
    assert_eq!(read, event);
    // Encoding is stable, so that stores can compare texts.
    assert_eq!(read.to_json().expect("it was written before"), written);
});
