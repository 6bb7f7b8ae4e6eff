//! Splits source text into code, comments and strings, for any language that a [`Syntax`] describes.
//!
//! It is a heuristic: it does not recognise regular-expression literals, here-documents or string
//! interpolation. A string that may not span lines ends with its line, so that a mistake stays
//! local.

use super::language::{Quote, Syntax};

/// The kind of a span of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Neither comment nor string.
    Code,
    /// A comment with its delimiters, without the end of the line.
    Comment,
    /// A string with its quotes.
    Text,
}

/// A span of text, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Its kind.
    pub(crate) kind: Kind,
    /// Its first byte.
    pub(crate) start: usize,
    /// The byte after its last.
    pub(crate) end: usize,
}

/// The spans of a text, in order, without gaps; neighbours may be of the same kind.
pub(crate) fn split(source: &str, syntax: &Syntax) -> Vec<Span> {
    if syntax.prose {
        return vec![Span { kind: Kind::Comment, start: 0, end: source.len() }];
    }
    Lexer { bytes: source.as_bytes(), source, syntax }.split()
}

/// The text as bytes with everything except code and line ends replaced by spaces.
pub(crate) fn code_only(source: &str, spans: &[Span]) -> Vec<u8> {
    let mut code = source.as_bytes().to_vec();
    for span in spans.iter().filter(|span| span.kind != Kind::Code) {
        let hidden = code.get_mut(span.start..span.end).unwrap_or_default();
        hidden.iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
    }
    code
}

struct Lexer<'a> {
    source: &'a str,
    bytes: &'a [u8],
    syntax: &'a Syntax,
}

impl Lexer<'_> {
    fn split(&self) -> Vec<Span> {
        let openers = self.openers();
        let opens = |byte: u8| openers.get(usize::from(byte)).copied().unwrap_or(false);
        let mut spans = Vec::new();
        let mut start = 0;
        let mut at = 0;
        while let Some(&byte) = self.bytes.get(at) {
            let Some((kind, end)) = opens(byte).then(|| self.span_at(at)).flatten() else {
                at += 1;
                continue;
            };
            push(&mut spans, Kind::Code, start, at);
            push(&mut spans, kind, at, end);
            (start, at) = (end, end);
        }
        push(&mut spans, Kind::Code, start, at);
        spans
    }

    /// The bytes with which something other than code can start.
    fn openers(&self) -> [bool; 256] {
        let syntax = self.syntax;
        let quotes = syntax.quotes.iter().map(|quote| quote.open);
        let blocks = syntax.block_comments.iter().map(|(open, _)| *open);
        let mut openers = [false; 256];
        for open in syntax.line_comments.iter().copied().chain(blocks).chain(quotes) {
            let first = open.as_bytes().first().copied().unwrap_or_default();
            openers.iter_mut().skip(first.into()).take(1).for_each(|opens| *opens = true);
        }
        openers
    }

    /// The comment or string that starts here, and where it ends.
    fn span_at(&self, at: usize) -> Option<(Kind, usize)> {
        let rest = self.bytes.get(at..)?;
        let starts = |open: &str| rest.starts_with(open.as_bytes());
        if let Some((open, close)) = self.syntax.block_comments.iter().find(|pair| starts(pair.0)) {
            return Some((Kind::Comment, self.block_end(at + open.len(), open, close)));
        }
        let marks = self.syntax.line_comments;
        if marks.iter().any(|open| starts(open)) && self.may_start_comment(at) {
            return Some((Kind::Comment, self.find(at, "\n")));
        }
        let quote = self.syntax.quotes.iter().find(|quote| starts(quote.open))?;
        let is_text = quote.open != "'" || self.may_start_character(at);
        is_text.then(|| (Kind::Text, self.text_end(at + quote.open.len(), quote)))
    }

    fn may_start_comment(&self, at: usize) -> bool {
        !self.syntax.spaced_comments
            || self.before(at).is_none_or(|byte| byte.is_ascii_whitespace())
    }

    /// Whether a `'` starts a character: not `'static` in Rust, not the mark in `1'000` of C++.
    fn may_start_character(&self, at: usize) -> bool {
        if self.syntax.lifetimes {
            let mut next = self.source.get(at + 1..).unwrap_or_default().chars();
            return next.next() == Some('\\') || next.next() == Some('\'');
        }
        self.before(at).is_none_or(|byte| !byte.is_ascii_digit())
    }

    fn before(&self, at: usize) -> Option<u8> {
        self.bytes.get(at.checked_sub(1)?).copied()
    }

    fn block_end(&self, mut at: usize, open: &str, close: &str) -> usize {
        if !self.syntax.nested_comments {
            return (self.find(at, close) + close.len()).min(self.bytes.len());
        }
        let mut depth = 1_usize;
        while let Some(rest) = self.bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if rest.starts_with(close.as_bytes()) {
                (at, depth) = (at + close.len(), depth - 1);
            } else if rest.starts_with(open.as_bytes()) {
                (at, depth) = (at + open.len(), depth + 1);
            } else {
                at += 1;
            }
            if depth == 0 {
                break;
            }
        }
        at
    }

    fn text_end(&self, mut at: usize, quote: &Quote) -> usize {
        while let Some(&byte) = self.bytes.get(at) {
            if byte == b'\\' && quote.escapes {
                at += 2;
            } else if byte == b'\n' && !quote.multi_line {
                return at;
            } else if self.starts_with(at, quote.close) {
                return at + quote.close.len();
            } else {
                at += 1;
            }
        }
        self.bytes.len()
    }

    fn starts_with(&self, at: usize, text: &str) -> bool {
        self.bytes.get(at..).is_some_and(|rest| rest.starts_with(text.as_bytes()))
    }

    /// The position of the next `text`, or the end.
    fn find(&self, at: usize, text: &str) -> usize {
        let found = self.source.get(at..).and_then(|rest| rest.find(text));
        found.map_or(self.bytes.len(), |offset| at + offset)
    }
}

fn push(spans: &mut Vec<Span>, kind: Kind, start: usize, end: usize) {
    if start < end {
        spans.push(Span { kind, start, end });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::language;

    fn parts<'a>(path: &str, source: &'a str, kind: Kind) -> Vec<&'a str> {
        let spans = split(source, &language::detect(path, source).syntax);
        assert_eq!(spans.iter().map(|span| span.end - span.start).sum::<usize>(), source.len());
        let of_kind = spans.into_iter().filter(|span| span.kind == kind);
        of_kind.map(|span| &source[span.start..span.end]).collect()
    }

    #[test]
    fn should_find_comments_but_not_in_strings() {
        let source = "let a = \"// no\"; // yes\n/* one /* two */ three */ b";
        assert_eq!(parts("a.rs", source, Kind::Comment), ["// yes", "/* one /* two */ three */"]);
        assert_eq!(parts("a.c", source, Kind::Comment), ["// yes", "/* one /* two */"]);
    }

    #[test]
    fn should_tell_characters_from_lifetimes_and_raw_strings_from_plain() {
        let source = "fn f<'a>(x: &'a str) { g('\"', '\\'', r#\"a\"b\"#, 'é') }";
        assert_eq!(parts("a.rs", source, Kind::Text), ["'\"'", "'\\''", "r#\"a\"b\"#", "'é'"]);
    }

    #[test]
    fn should_end_a_broken_string_with_its_line() {
        assert_eq!(parts("a.c", "a = \"x\nb // c", Kind::Comment), ["// c"]);
        assert_eq!(parts("a.py", "'''x\n# no'''\n# yes", Kind::Comment), ["# yes"]);
    }

    #[test]
    fn should_want_a_space_before_a_comment_where_the_language_does() {
        assert_eq!(parts("a.sh", "echo $# ${a#b} # yes", Kind::Comment), ["# yes"]);
    }

    #[test]
    fn should_survive_open_ends_everywhere() {
        for source in ["\"", "\"\\", "/*", "/* /*", "'", "'\\", "r#\"", "é'", "//", "\"é\\"] {
            for path in ["a.rs", "a.c", "a.py", "a.lua", "a.md", "a.js", "a.hs"] {
                parts(path, source, Kind::Code);
            }
        }
    }

    #[test]
    fn should_hide_all_but_code_and_keep_lines() {
        let source = "a(\"é\n\"); // b\nc";
        let spans = split(source, &language::detect("a.rs", source).syntax);
        assert_eq!(code_only(source, &spans), b"a(   \n );     \nc");
    }
}
