//! Notes in comments: `TODO` and `FIXME`.

use std::sync::LazyLock;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    compile,
    lexer::{Kind, Span},
    lines::LineIndex,
};

/// The longest note that is kept, in characters.
const MAX_NOTE: usize = 120;

static MARKER: LazyLock<Regex> = LazyLock::new(|| compile(r"(?-u:\b)(?:TODO|FIXME)(?-u:\b)"));

/// A note in a comment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Marker {
    /// Its line, from 1.
    pub(crate) line: u64,
    /// `TODO` or `FIXME`.
    pub(crate) mark: String,
    /// The rest of the line, truncated after 120 characters; empty on a line with a likely secret.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) note: String,
}

/// The markers of a text, at most one per line. With `everywhere` they also count outside comments.
pub(crate) fn find(
    source: &str,
    spans: &[Span],
    index: &LineIndex,
    everywhere: bool,
) -> Vec<Marker> {
    let counts = |at| everywhere || kind_at(spans, at) == Some(Kind::Comment);
    let found = MARKER.find_iter(source).filter(|found| counts(found.start()));
    let mut markers: Vec<_> = found
        .map(|found| Marker {
            line: index.line(found.start()),
            mark: found.as_str().to_owned(),
            note: tidy(
                source.get(found.end()..).and_then(|rest| rest.lines().next()).unwrap_or(""),
            ),
        })
        .collect();
    markers.dedup_by_key(|marker| marker.line);
    markers
}

fn kind_at(spans: &[Span], offset: usize) -> Option<Kind> {
    let after = spans.partition_point(|span| span.start <= offset);
    spans.get(after.checked_sub(1)?).map(|span| span.kind)
}

/// The note without the colon before it, the end of the comment after it and control characters.
fn tidy(note: &str) -> String {
    let note = note.trim_start_matches([':', ' ', '\t']).trim_end();
    let note = note.strip_suffix("*/").or_else(|| note.strip_suffix("-->")).unwrap_or(note);
    let printable = note.trim_end().chars().filter(|character| !character.is_control());
    printable.take(MAX_NOTE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{language, lexer};

    fn markers(path: &str, source: &str) -> Vec<(u64, String, String)> {
        let syntax = &language::detect(path, source).syntax;
        let spans = lexer::split(source, syntax);
        let index = LineIndex::new(source);
        let found = find(source, &spans, &index, !syntax.has_comments());
        found.into_iter().map(|marker| (marker.line, marker.mark, marker.note)).collect()
    }

    fn marker(line: u64, mark: &str, note: &str) -> (u64, String, String) {
        (line, mark.to_owned(), note.to_owned())
    }

    #[test]
    fn should_find_markers_in_comments_only() {
        let source = "let a = \"TODO no\";\n/* TODO(me): yes */\nTODO; // FIXME";
        let found = markers("a.rs", source);
        assert_eq!(found, [marker(2, "TODO", "(me): yes"), marker(3, "FIXME", "")]);
    }

    #[test]
    fn should_want_whole_words() {
        assert_eq!(markers("a.rs", "// TODOS, todo, _TODO"), []);
    }

    #[test]
    fn should_report_a_line_once() {
        assert_eq!(markers("a.rs", "// TODO or FIXME"), [marker(1, "TODO", "or FIXME")]);
    }

    #[test]
    fn should_find_markers_everywhere_in_prose_and_unknown_languages() {
        assert_eq!(markers("a.md", "\nTODO: write"), [marker(2, "TODO", "write")]);
        assert_eq!(markers("a.unknown", "x TODO y"), [marker(1, "TODO", "y")]);
    }

    #[test]
    fn should_cut_long_notes_between_characters() {
        let found = markers("a.md", &format!("TODO {}", "é".repeat(500)));
        assert_eq!(found[0].2.chars().count(), MAX_NOTE);
    }
}
