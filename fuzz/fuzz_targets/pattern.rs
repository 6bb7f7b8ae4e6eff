//! Patterns of event types: they match in the same way as a reference implementation.
#![no_main]

use aios_core::event::{EventType, Pattern};
use libfuzzer_sys::fuzz_target;

/// The semantics of AMQP topics: `*` matches one word, `#` any number.
fn matches(pattern: &[&str], words: &[&str]) -> bool {
    match (pattern, words) {
        ([], []) => true,
        (["#", rest @ ..], _) => (0..=words.len()).any(|skipped| matches(rest, &words[skipped..])),
        ([first, rest @ ..], [word, words @ ..]) => {
            (*first == "*" || first == word) && matches(rest, words)
        }
        _ => false,
    }
}

fuzz_target!(|input: (&str, &str)| {
    let (pattern_text, type_text) = input;
    let Ok(pattern) = pattern_text.parse::<Pattern>() else { return };
    assert_eq!(pattern.as_str(), pattern_text);
    let Ok(event_type) = type_text.parse::<EventType>() else { return };
    let parts: Vec<&str> = pattern_text.split('.').collect();
    // Each further `#` multiplies the work of the reference.
    if parts.iter().filter(|part| **part == "#").count() > 8 {
        pattern.matches(&event_type);
        return;
    }
    let words: Vec<&str> = type_text.split('.').collect();
    assert_eq!(pattern.matches(&event_type), matches(&parts, &words));
});
