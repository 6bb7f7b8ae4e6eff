//! Functions whose bodies are indented.

use super::Function;

/// A `def` whose body may continue.
struct Open {
    function: Function,
    indent: usize,
}

/// The functions of a Python text, in the order in which they end.
pub(super) fn functions(code: &[u8]) -> Vec<Function> {
    let mut found = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    let mut offset = 0;
    let mut parentheses = 0_usize;
    for line in code.split_inclusive(|byte| *byte == b'\n') {
        let text = line.trim_ascii_end();
        let indent = text.len() - text.trim_ascii_start().len();
        if !text.is_empty() {
            if parentheses == 0 {
                let ended = open.iter().position(|outer| outer.indent >= indent);
                let ended = open.split_off(ended.unwrap_or(open.len()));
                found.extend(ended.into_iter().rev().map(|ended| ended.function));
                open.extend(definition(text, indent, offset));
            }
            let end = offset + text.len() - 1;
            open.iter_mut().for_each(|outer| outer.function.end = end);
            parentheses = depth_after(text, parentheses);
        }
        offset += line.len();
    }
    found.extend(open.into_iter().rev().map(|ended| ended.function));
    found
}

fn definition(line: &[u8], indent: usize, offset: usize) -> Option<Open> {
    let text = std::str::from_utf8(line).ok()?.trim_start();
    let rest = text.strip_prefix("async ").map_or(text, str::trim_start).strip_prefix("def ")?;
    let name = rest.trim_start().split(['(', '[', ' ', ':']).next()?.to_owned();
    let start = offset + indent;
    Some(Open { function: Function { name, start, end: start }, indent })
}

fn depth_after(line: &[u8], depth: usize) -> usize {
    line.iter().fold(depth, |depth, byte| match byte {
        b'(' | b'[' | b'{' => depth + 1,
        b')' | b']' | b'}' => depth.saturating_sub(1),
        _ => depth,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(code: &str) -> Vec<(String, usize)> {
        let lines = |function: &Function| code[function.start..=function.end].lines().count();
        let found = functions(code.as_bytes());
        found.iter().map(|function| (function.name.clone(), lines(function))).collect()
    }

    #[test]
    fn should_end_functions_where_the_indentation_ends() {
        let code =
            "class A:\n  def a(self):\n    x\n\n    async def b():\n      y\n\n  z\ndef c(): w\n";
        let expected = [("b", 2), ("a", 5), ("c", 1)].map(|(name, lines)| (name.to_owned(), lines));
        assert_eq!(found(code), expected);
    }

    #[test]
    fn should_follow_heads_and_values_over_many_lines() {
        let code = "def a(\n  x,\n) -> int:\n  y = [\n1,\n]\n  z\n";
        assert_eq!(found(code), [("a".to_owned(), 7)]);
    }
}
