//! Over-long functions, found by a heuristic on the text without comments and strings.
//!
//! - Languages with braces: text before a `{` that looks like the head of a function (see
//!
//! A function's length goes from the line with its name to the line on which its body ends, both
//! included.

mod braces;
mod header;
mod indentation;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{language::FunctionStyle, lines::LineIndex};

/// The most lines of a function that is not over-long.
pub(crate) const MAX_LINES: u64 = 60;

/// A function that is too long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct LongFunction {
    /// The line with its name, from 1.
    pub(crate) line: u64,
    /// Its name.
    pub(crate) name: String,
    /// How many lines it has.
    pub(crate) lines: u64,
}

/// A function, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Function {
    name: String,
    /// Where its name is.
    start: usize,
    /// Where its last byte is.
    end: usize,
}

/// The over-long functions of a text in which comments and strings are spaces, by line.
pub(crate) fn find_long(code: &[u8], style: FunctionStyle, index: &LineIndex) -> Vec<LongFunction> {
    let functions = match style {
        FunctionStyle::Unmeasured => Vec::new(),
        FunctionStyle::Indented => indentation::functions(code),
        _ => braces::functions(code, style),
    };
    let measured = functions.into_iter().map(|function| {
        let line = index.line(function.start);
        let lines = index.line(function.end) - line + 1;
        LongFunction { line, name: function.name, lines }
    });
    let mut long: Vec<_> = measured.filter(|function| function.lines > MAX_LINES).collect();
    long.sort_by_key(|function| function.line);
    long
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(style: FunctionStyle, code: &str) -> Vec<(u64, String, u64)> {
        let found = find_long(code.as_bytes(), style, &LineIndex::new(code));
        found.into_iter().map(|found| (found.line, found.name, found.lines)).collect()
    }

    #[test]
    fn should_report_only_functions_over_the_limit() {
        let rust = |lines: usize| format!("\nfn f() {{\n{}}}\n", "x();\n".repeat(lines - 2));
        assert_eq!(long(FunctionStyle::Keyword("fn"), &rust(60)), []);
        assert_eq!(long(FunctionStyle::Keyword("fn"), &rust(61)), [(2, "f".to_owned(), 61)]);
        assert_eq!(long(FunctionStyle::Unmeasured, &rust(61)), []);
    }

    #[test]
    fn should_measure_python_by_indentation() {
        let python = |lines: usize| format!("def f():\n{}\n\ng()\n", "    x()\n".repeat(lines - 1));
        assert_eq!(long(FunctionStyle::Indented, &python(60)), []);
        assert_eq!(long(FunctionStyle::Indented, &python(61)), [(1, "f".to_owned(), 61)]);
    }
}
