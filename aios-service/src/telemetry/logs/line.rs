//! The forms of a line: JSON for programs, text for people.
//!
//! Every event becomes exactly one line. Control characters are escaped in both forms, so that a
//! text from outside can neither forge a line nor move the cursor of a terminal.

use std::fmt::Write;

use aios_core::{
    clock::{Clock, SystemClock},
    event::Timestamp,
};
use serde_json::Value;
use tracing::Level;

/// The fields of every line. Others with these names get an underscore.
const RESERVED: [&str; 4] = ["time", "level", "message", "target"];
/// The fields that come first.
const FIRST: [&str; 10] = [
    "correlation_id",
    "trace_id",
    "span_id",
    "run_id",
    "workflow",
    "operation",
    "task_id",
    "agent_type",
    "agent_id",
    "code",
];

/// A line of the log.
pub(super) struct Line<'l> {
    /// When the event happened.
    pub(super) time: Timestamp,
    /// How important it is.
    pub(super) level: Level,
    /// The text of the event.
    pub(super) message: &'l str,
    /// The module, usually.
    pub(super) target: &'l str,
    /// The fields, masked already.
    pub(super) values: &'l [(&'static str, Value)],
}

impl Line<'_> {
    /// Writes the line with its line end.
    pub(super) fn format(&self, is_json: bool) -> String {
        if is_json { self.json() } else { self.text() }
    }

    /// A JSON object.
    fn json(&self) -> String {
        let mut line = String::with_capacity(256);
        let time = self.time.to_string();
        let level = self.level.as_str();
        for (name, value) in [
            ("time", time.as_str()),
            ("level", level),
            ("message", self.message),
            ("target", self.target),
        ] {
            line.push(if line.is_empty() { '{' } else { ',' });
            // Writing to a String never fails.
            let _ = write!(line, "\"{name}\":{}", Value::from(value));
        }
        for (name, value) in self.sorted() {
            let reserved = if RESERVED.contains(&name) { "_" } else { "" };
            let _ = write!(line, ",{}:{value}", Value::from(format!("{reserved}{name}")));
        }
        line + "}\n"
    }

    /// Text, with `name=value` for each field.
    fn text(&self) -> String {
        let mut line = String::with_capacity(256);
        let time = self.time;
        let level = self.level;
        let target = self.target;
        let _ = write!(line, "{time} {level:>5} {target}: {}", one_line(self.message));
        for (name, value) in self.sorted() {
            match value {
                Value::String(text) if is_word(text) => {
                    let _ = write!(line, " {name}={text}");
                }
                value => {
                    let _ = write!(line, " {name}={value}");
                }
            }
        }
        line + "\n"
    }

    /// The fields: first those that connect lines, then the rest.
    fn sorted(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        let first = FIRST.iter().filter_map(|name| self.values.iter().find(|it| it.0 == *name));
        let rest = self.values.iter().filter(|it| !FIRST.contains(&it.0));
        first.chain(rest).map(|(name, value)| (*name, value))
    }
}

/// Whether a text needs no quotes.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|it| it.is_ascii_graphic() && it != '"')
}

/// A text without control characters, so that no message begins a line or moves the cursor.
fn one_line(text: &str) -> String {
    let shown = |it: char| match it.is_control() {
        true => it.escape_default().collect(),
        false => String::from(it),
    };
    text.chars().map(shown).collect()
}

/// The time of a line that this crate writes itself.
pub(super) fn now() -> Timestamp {
    SystemClock.now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<'l>(message: &'l str, values: &'l [(&'static str, Value)]) -> Line<'l> {
        let time = Timestamp::UNIX_EPOCH;
        let level = Level::WARN;
        let target = "shop";
        Line { time, level, message, target, values }
    }

    #[test]
    fn should_write_one_object_with_known_fields_first() {
        let values = [("n", 7.into()), ("run_id", "r\"1\n".into()), ("level", "own".into())];
        let json = line("a\nb", &values).format(true);
        assert_eq!(
            json,
            "{\"time\":\"1970-01-01T00:00:00Z\",\"level\":\"WARN\",\"message\":\"a\\nb\",\
             \"target\":\"shop\",\"run_id\":\"r\\\"1\\n\",\"n\":7,\"_level\":\"own\"}\n"
        );
    }

    #[test]
    fn should_write_text_on_one_line() {
        let values = [("run_id", "r1".into()), ("text", "a b\u{1b}[31m\n".into())];
        let text = line("a\n\u{1b}b", &values).format(false);
        assert_eq!(
            text,
            "1970-01-01T00:00:00Z  WARN shop: a\\n\\u{1b}b run_id=r1 text=\"a b\\u001b[31m\\n\"\n"
        );
    }
}
