//! Comparison of JSON texts by value.
//!
//! A client that repeats a start with the same run id gets the existing run, if the input is the same.
//! The texts differ if another client, or another language, wrote the same value, so texts are not
//! compared. The values are not parsed as a whole either: an input may be large, and numbers must not
//! be rounded. Each level is split into its members, and those are compared as texts first.

use std::collections::BTreeMap;

use aios_core::event::Payload;
use serde_json::value::RawValue;

/// Values nested more deeply than this are compared as texts.
///
/// The recursion has a limit, because the input comes from outside and the stack is finite.
const DEPTH: usize = 64;

/// Whether two payloads are the same JSON value. The order of object members and white space are
/// ignored. Numbers are compared as texts, to avoid rounding: `1` differs from `1.0` and `1e0`.
pub(crate) fn is_same(one: &Payload, two: &Payload) -> bool {
    one == two || texts_are_same(one.as_str(), two.as_str(), DEPTH)
}

/// Whether two JSON texts are the same value, down to `depth` further levels.
fn texts_are_same(one: &str, two: &str, depth: usize) -> bool {
    if one == two {
        return true;
    }
    // The first character of a JSON text tells its kind: payloads have no white space around them.
    let (Some(kind), true) = (one.chars().next(), depth > 0) else { return false };
    if !two.starts_with(kind) {
        return false;
    }
    match kind {
        '{' => match (object(one), object(two)) {
            (Some(one), Some(two)) => one.len() == two.len() && members_are_same(&one, &two, depth),
            _ => false,
        },
        '[' => match (array(one), array(two)) {
            (Some(one), Some(two)) => {
                let pairs = || one.iter().zip(&two);
                one.len() == two.len()
                    && pairs().all(|(one, two)| texts_are_same(one.get(), two.get(), depth - 1))
            }
            _ => false,
        },
        '"' => match (string(one), string(two)) {
            (Some(one), Some(two)) => one == two,
            _ => false,
        },
        _ => false,
    }
}

/// The members of an object, ordered by name. The values are not parsed.
type Object<'a> = BTreeMap<String, &'a RawValue>;

/// Compares two objects with the same number of members.
fn members_are_same(one: &Object<'_>, two: &Object<'_>, depth: usize) -> bool {
    one.iter().zip(two).all(|((name, one), (other, two))| {
        name == other && texts_are_same(one.get(), two.get(), depth - 1)
    })
}

/// The members of an object. If a name is repeated, the last one counts.
fn object(text: &str) -> Option<Object<'_>> {
    serde_json::from_str(text).ok()
}

/// The items of an array.
fn array(text: &str) -> Option<Vec<&RawValue>> {
    serde_json::from_str(text).ok()
}

/// A string without its escapes.
fn string(text: &str) -> Option<String> {
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(one: &str, two: &str) -> bool {
        let payload = |text: &str| serde_json::from_str::<Payload>(text).unwrap();
        is_same(&payload(one), &payload(two))
    }

    #[test]
    fn should_compare_values_and_not_texts() {
        for (one, two) in [
            (r#"{"a":1,"b":[{"c":2,"d":null}]}"#, r#"{ "b": [{"d":null, "c":2}], "a": 1 }"#),
            (r#""A\n""#, r#""A\u000a""#),
            ("[]", "[ ]"),
            ("123456789012345678901234567890.5", "123456789012345678901234567890.5"),
        ] {
            assert!(same(one, two), "{one} and {two}");
        }
    }

    #[test]
    fn should_distinguish_different_values() {
        for (one, two) in [
            (r#"{"a":1}"#, r#"{"a":2}"#),
            (r#"{"a":1}"#, r#"{"a":1,"b":1}"#),
            ("[1,2]", "[2,1]"),
            ("[1]", "[1,1]"),
            ("1", "1.0"),
            ("1", r#""1""#),
            ("null", "false"),
            ("9007199254740993", "9007199254740992"),
        ] {
            assert!(!same(one, two), "{one} and {two}");
        }
    }

    #[test]
    fn should_not_overflow_the_stack_on_deeply_nested_values() {
        let deep = |inner: &str| format!("{}{inner}{}", "[".repeat(100), "]".repeat(100));
        assert!(same(&deep("1"), &deep("1")));
        assert!(!same(&deep("1"), &deep("2")));
    }
}
