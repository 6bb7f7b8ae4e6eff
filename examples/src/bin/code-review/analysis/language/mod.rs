//! The language of a file, and the parts of its syntax that are needed to count lines.

mod table;

use std::{collections::HashMap, sync::LazyLock};

use self::table::LANGUAGES;

/// A language: how its files are recognised and read.
#[derive(Debug)]
pub(crate) struct Language {
    /// Its name in the report.
    pub(crate) name: &'static str,
    /// Endings of file names, in lower case and without the dot.
    pub(crate) extensions: &'static [&'static str],
    /// Whole file names, in lower case.
    pub(crate) file_names: &'static [&'static str],
    /// Programs named on a `#!` line.
    pub(crate) interpreters: &'static [&'static str],
    /// Its comments and strings.
    pub(crate) syntax: Syntax,
}

/// The syntax of comments, strings and functions of a language.
#[derive(Debug)]
pub(crate) struct Syntax {
    /// Starts of comments that end with the line.
    pub(crate) line_comments: &'static [&'static str],
    /// Whether a line comment starts only at the start of a line or after white space.
    pub(crate) spaced_comments: bool,
    /// Starts and ends of other comments.
    pub(crate) block_comments: &'static [(&'static str, &'static str)],
    /// Whether block comments contain block comments.
    pub(crate) nested_comments: bool,
    /// Strings, longer openers first.
    pub(crate) quotes: &'static [Quote],
    /// Whether a `'` may also start a lifetime.
    pub(crate) lifetimes: bool,
    /// Whether the whole text is prose, which counts as comment.
    pub(crate) prose: bool,
    /// The style of its functions.
    pub(crate) functions: FunctionStyle,
}

impl Syntax {
    /// Whether the language has anything other than code.
    pub(crate) fn has_comments(&self) -> bool {
        self.prose || !self.line_comments.is_empty() || !self.block_comments.is_empty()
    }
}

/// One way to write a string.
#[derive(Debug)]
pub(crate) struct Quote {
    /// The start.
    pub(crate) open: &'static str,
    /// The end.
    pub(crate) close: &'static str,
    /// Whether a backslash escapes the next character.
    pub(crate) escapes: bool,
    /// Whether it may span several lines.
    pub(crate) multi_line: bool,
}

/// The style of functions; see [`functions`](super::functions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FunctionStyle {
    /// Functions are not measured.
    Unmeasured,
    /// A keyword and a name before a body in braces.
    Keyword(&'static str),
    /// A name and parameters in parentheses before a body in braces.
    Parenthesised,
    /// As in JavaScript: keyword, method or named arrow function.
    Script,
    /// `def` and an indented body.
    Indented,
}

type Index = HashMap<&'static str, &'static Language>;

static BY_EXTENSION: LazyLock<Index> = LazyLock::new(|| index(|language| language.extensions));
static BY_FILE_NAME: LazyLock<Index> = LazyLock::new(|| index(|language| language.file_names));
static BY_INTERPRETER: LazyLock<Index> = LazyLock::new(|| index(|language| language.interpreters));

/// The language of a file, determined by its name, then by its `#!` line; `Other` if unknown.
pub(crate) fn detect(path: &str, source: &str) -> &'static Language {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let known = BY_FILE_NAME.get(name.as_str()).or_else(|| BY_EXTENSION.get(extension));
    known.or_else(|| BY_INTERPRETER.get(interpreter(source)?)).copied().unwrap_or(&table::OTHER)
}

fn index(keys: fn(&Language) -> &'static [&'static str]) -> Index {
    let pairs = |language| keys(language).iter().map(move |&key| (key, language));
    LANGUAGES.iter().flat_map(pairs).collect()
}

/// `python` of `#!/usr/bin/env -S python3.11 -u`.
fn interpreter(source: &str) -> Option<&str> {
    let mut words = source.lines().next()?.strip_prefix("#!")?.split_ascii_whitespace();
    let mut program = words.next()?.rsplit('/').next()?;
    if program == "env" {
        program = words.find(|word| !word.starts_with('-') && !word.contains('='))?;
    }
    Some(program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_recognise_names_endings_and_interpreters() {
        assert_eq!(detect("a/b/main.RS", "").name, "Rust");
        assert_eq!(detect("Makefile", "").name, "Makefile");
        assert_eq!(detect("run", "#!/usr/bin/env -S python3.11 -u\n").name, "Python");
        assert_eq!(detect("run", "#!/bin/bash").name, "Shell");
        assert_eq!(detect("LICENCE", "plain").name, "Other");
        assert_eq!(detect(".gitignore", "").name, "Ignore list");
    }

    #[test]
    fn should_have_no_key_twice_and_longer_quotes_first() {
        let keys = |language: &'static Language| {
            [language.extensions, language.file_names, language.interpreters].concat().len()
        };
        let indexed = BY_EXTENSION.len() + BY_FILE_NAME.len() + BY_INTERPRETER.len();
        assert_eq!(indexed, LANGUAGES.iter().map(keys).sum::<usize>());
        for language in LANGUAGES {
            let opens: Vec<_> = language.syntax.quotes.iter().map(|quote| quote.open).collect();
            for (place, open) in opens.iter().enumerate() {
                assert!(
                    !opens[..place].iter().any(|earlier| open.starts_with(earlier)),
                    "{opens:?}"
                );
            }
        }
    }
}
