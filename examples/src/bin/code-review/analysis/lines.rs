//! Counts of code, comment and blank lines.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::lexer::{Kind, Span};

/// Lines of one file or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Lines {
    /// Lines with code, with or without a comment.
    pub(crate) code: u64,
    /// Lines with only a comment.
    pub(crate) comment: u64,
    /// Lines with only white space, including those inside comments.
    pub(crate) blank: u64,
}

impl std::ops::AddAssign for Lines {
    fn add_assign(&mut self, other: Self) {
        self.code += other.code;
        self.comment += other.comment;
        self.blank += other.blank;
    }
}

/// Counts the lines of a text that was split into spans.
pub(crate) fn count(source: &str, spans: &[Span]) -> Lines {
    let mut counter = Counter::default();
    for span in spans {
        let bytes = source.as_bytes().get(span.start..span.end).unwrap_or_default();
        counter.read(bytes, span.kind);
    }
    if !source.is_empty() && !source.ends_with('\n') {
        counter.end_line();
    }
    counter.lines
}

/// Where each line starts, in bytes.
#[derive(Debug)]
pub(crate) struct LineIndex {
    starts: Vec<usize>,
}

impl LineIndex {
    /// Reads a text.
    pub(crate) fn new(source: &str) -> Self {
        let ends = source.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self { starts: std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect() }
    }

    /// The line, from 1, of the byte at `offset`.
    pub(crate) fn line(&self, offset: usize) -> u64 {
        self.starts.partition_point(|start| *start <= offset).try_into().unwrap_or(u64::MAX)
    }
}

#[derive(Default)]
struct Counter {
    lines: Lines,
    has_code: bool,
    has_comment: bool,
}

impl Counter {
    fn read(&mut self, bytes: &[u8], kind: Kind) {
        for byte in bytes {
            if *byte == b'\n' {
                self.end_line();
            } else if !byte.is_ascii_whitespace() {
                self.has_code |= kind != Kind::Comment;
                self.has_comment |= kind == Kind::Comment;
            }
        }
    }

    fn end_line(&mut self) {
        if self.has_code {
            self.lines.code += 1;
        } else if self.has_comment {
            self.lines.comment += 1;
        } else {
            self.lines.blank += 1;
        }
        (self.has_code, self.has_comment) = (false, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{language, lexer};

    fn lines(path: &str, source: &str) -> (u64, u64, u64) {
        let spans = lexer::split(source, &language::detect(path, source).syntax);
        let lines = count(source, &spans);
        (lines.code, lines.comment, lines.blank)
    }

    #[test]
    fn should_count_code_comment_and_blank() {
        assert_eq!(lines("a.rs", "//! a\n\nfn f() {} // b\n/* c\n\nd */\n"), (1, 3, 2));
        assert_eq!(lines("a.py", "# a\r\n\r\nx = '''\n# text\n'''\n"), (3, 1, 1));
        assert_eq!(lines("a.md", "# Title\n\nText"), (0, 2, 1));
        assert_eq!(lines("a.unknown", "# a\n"), (1, 0, 0));
    }

    #[test]
    fn should_count_a_last_line_with_and_without_an_end() {
        assert_eq!(lines("a.rs", ""), (0, 0, 0));
        assert_eq!(lines("a.rs", "\n"), (0, 0, 1));
        assert_eq!(lines("a.rs", "a\nb"), (2, 0, 0));
        assert_eq!(lines("a.rs", "a\nb\n"), (2, 0, 0));
    }

    #[test]
    fn should_name_lines_from_one() {
        let index = LineIndex::new("a\nb\n");
        assert_eq!([0, 1, 2, 3, 4].map(|at| index.line(at)), [1, 1, 2, 2, 3]);
    }
}
