//! Functions whose bodies are in braces.

use super::{Function, header};
use crate::analysis::language::FunctionStyle;

/// The deepest nesting that is tracked. Deeper nesting is data or an attack, not code.
const MAX_DEPTH: usize = 1_000;

/// The state that an open brace interrupted.
struct Frame {
    function: Option<(usize, String)>,
    parentheses: usize,
}

/// The functions of a text, inner ones before outer ones.
pub(super) fn functions(code: &[u8], style: FunctionStyle) -> Vec<Function> {
    let mut found = Vec::new();
    let mut frames: Vec<Frame> = Vec::new();
    let mut statement = 0;
    let mut parentheses = 0_usize;
    for (at, byte) in code.iter().enumerate() {
        match byte {
            b'(' | b'[' => parentheses += 1,
            b')' | b']' => parentheses = parentheses.saturating_sub(1),
            b';' if parentheses == 0 => statement = at + 1,
            b'{' if frames.len() == MAX_DEPTH => return found,
            b'{' => {
                let function = name_of(code, statement, at, style);
                frames.push(Frame { function, parentheses });
                (statement, parentheses) = (at + 1, 0);
            }
            b'}' => {
                let frame = frames.pop();
                parentheses = frame.as_ref().map_or(0, |frame| frame.parentheses);
                let function = frame.and_then(|frame| frame.function);
                found.extend(function.map(|(start, name)| Function { name, start, end: at }));
                statement = at + 1;
            }
            _ => {}
        }
    }
    found
}

fn name_of(code: &[u8], start: usize, end: usize, style: FunctionStyle) -> Option<(usize, String)> {
    let head = std::str::from_utf8(code.get(start..end)?).ok()?;
    let name = header::function_name(head, style)?;
    let offset = name.as_ptr().addr() - head.as_ptr().addr();
    Some((start + offset, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(style: FunctionStyle, code: &str) -> Vec<(String, usize)> {
        let lines = |function: &Function| code[function.start..=function.end].lines().count();
        let found = functions(code.as_bytes(), style);
        found.iter().map(|function| (function.name.clone(), lines(function))).collect()
    }

    fn named(name: &str, lines: usize) -> (String, usize) {
        (name.to_owned(), lines)
    }

    #[test]
    fn should_find_nested_functions_and_skip_other_braces() {
        let code = "impl A {\n fn a(x: [u8; 2]) {\n if x {\n fn b() {}\n }\n }\n}\nfn c() {\n}";
        let expected = [named("b", 1), named("a", 5), named("c", 2)];
        assert_eq!(found(FunctionStyle::Keyword("fn"), code), expected);
    }

    #[test]
    fn should_follow_calls_with_closures() {
        let code = "function a() {\n b(() => {\n c; d;\n }, () => {\n e;\n });\n}";
        assert_eq!(found(FunctionStyle::Script, code), [named("a", 7)]);
    }

    #[test]
    fn should_survive_braces_that_do_not_balance() {
        assert_eq!(found(FunctionStyle::Keyword("fn"), "}}} fn a() { ) ]"), []);
        assert_eq!(found(FunctionStyle::Keyword("fn"), &"{".repeat(MAX_DEPTH * 2)), []);
    }
}
