//! Whether the text before a `{` is the head of a function, and the function's name.

use crate::analysis::language::FunctionStyle;

/// Words before parentheses and braces that are not functions.
const CONTROL: [&str; 17] = [
    "if",
    "for",
    "while",
    "switch",
    "catch",
    "return",
    "else",
    "do",
    "try",
    "synchronized",
    "using",
    "lock",
    "fixed",
    "foreach",
    "match",
    "with",
    "defined",
];

/// Words that start other constructs with parentheses and braces.
const NO_FUNCTION: [&str; 6] = ["class", "interface", "record", "new", "return", "else"];

/// Words before the name of a method in JavaScript and TypeScript.
const MODIFIERS: [&str; 9] =
    ["async", "static", "get", "set", "public", "private", "protected", "readonly", "override"];

/// The name of the function that this text is the head of.
pub(super) fn function_name(head: &str, style: FunctionStyle) -> Option<&str> {
    match style {
        FunctionStyle::Keyword(keyword) => after_keyword(head, keyword),
        FunctionStyle::Parenthesised => before_parentheses(head),
        FunctionStyle::Script => script(head),
        FunctionStyle::Indented | FunctionStyle::Unmeasured => None,
    }
}

/// `name` of `fn name(…)`, `func (receiver) name(…)` and `fun <T> name(…)`.
fn after_keyword<'a>(head: &'a str, keyword: &str) -> Option<&'a str> {
    head.match_indices(keyword).find_map(|(at, _)| {
        let before = head.get(..at)?.chars().next_back();
        let rest = head.get(at + keyword.len()..)?;
        let is_word =
            !before.is_some_and(is_identifier) && rest.starts_with([' ', '\t', '\n', '*']);
        is_word.then(|| leading_identifier(skip_group(rest.trim_start_matches('*')))).flatten()
    })
}

/// `name` of `type name(…)`, but not of a call, a condition or a macro's directive.
fn before_parentheses(head: &str) -> Option<&str> {
    let at = head_parenthesis(head)?;
    let before = head.get(..at)?.trim_end();
    let name = trailing_identifier(before)?;
    let ahead = before.get(..before.len() - name.len())?;
    let ahead = outside_groups(ahead);
    let starts_declaration = !ahead.contains(['=', '.', '?', '|', '+'])
        && !ahead.split_ascii_whitespace().any(|word| NO_FUNCTION.contains(&word));
    (starts_declaration && !CONTROL.contains(&name) && is_balanced(head.get(at..)?)).then_some(name)
}

/// The first parenthesis that is neither in brackets, nor on a preprocessor line, nor part of an
/// annotation.
fn head_parenthesis(head: &str) -> Option<usize> {
    let mut brackets = 0_usize;
    let mut directive = false;
    let mut fresh_line = true;
    let mut skip_until = 0;
    for (at, byte) in head.bytes().enumerate() {
        match byte {
            b'\n' => (directive, fresh_line) = (false, true),
            b'#' if fresh_line => directive = true,
            _ if byte.is_ascii_whitespace() || directive || at < skip_until => {}
            b'[' => brackets += 1,
            b']' => brackets = brackets.saturating_sub(1),
            b'(' if brackets == 0 && !is_annotation(head.get(..at)?) => return Some(at),
            b'(' if brackets == 0 => skip_until = at + group_length(head.get(at..)?),
            _ => {}
        }
        fresh_line &= byte.is_ascii_whitespace();
    }
    None
}

fn is_annotation(before: &str) -> bool {
    let name = trailing_identifier(before.trim_end()).unwrap_or_default();
    let ahead = before.trim_end().strip_suffix(name).unwrap_or_default();
    ahead.ends_with(['@', '.']) || ["__attribute__", "__declspec", "alignas"].contains(&name)
}

/// The name of a function, a method or a named arrow function.
fn script(head: &str) -> Option<&str> {
    if let Some(name) = after_keyword(head, "function") {
        return Some(name);
    }
    match head.trim_end().strip_suffix("=>") {
        Some(arrow) => arrow_name(arrow),
        None => method_name(head),
    }
}

/// `name` of `const name: Type = async (…) =>`.
fn arrow_name(head: &str) -> Option<&str> {
    let (target, value) = head.split_once('=')?;
    let is_function = !value.starts_with(['=', '>']) && is_balanced(value) && is_balanced(target);
    let target = target.split_once(':').map_or(target, |(name, _)| name).trim_end();
    is_function.then(|| trailing_identifier(target)).flatten()
}

/// `name` of `static async name(…): Type`.
fn method_name(head: &str) -> Option<&str> {
    let (before, parameters) = head.split_once('(')?;
    let name = trailing_identifier(before.trim_end())?;
    let ahead = before.trim_end().strip_suffix(name)?.trim_end_matches(['#', '*']);
    let is_method = ahead.split_ascii_whitespace().all(|word| MODIFIERS.contains(&word));
    let parameters = parameters.trim_end();
    let ends = parameters.ends_with(')') || parameters.contains("):");
    let name_is_free = !CONTROL.contains(&name) && name != "function";
    (is_method && ends && name_is_free && is_balanced(head.get(before.len()..)?)).then_some(name)
}

/// The text after a group in parentheses or angle brackets, if the text starts with one.
fn skip_group(text: &str) -> &str {
    let text = text.trim_start();
    text.get(group_length(text)..).unwrap_or_default().trim_start()
}

/// Bytes of the group in parentheses or angle brackets at the start of the text, or 0.
fn group_length(text: &str) -> usize {
    if !text.starts_with(['(', '<']) {
        return 0;
    }
    let mut depth = 0_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' | b'<' => depth += 1,
            b')' | b'>' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    text.len()
}

/// The text without the contents of parentheses and brackets.
fn outside_groups(text: &str) -> String {
    let mut depth = 0_usize;
    let is_outside = |character: &char| {
        match character {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            _ => return depth == 0,
        }
        false
    };
    text.chars().filter(is_outside).collect()
}

fn is_balanced(text: &str) -> bool {
    let count = |wanted: u8| text.bytes().filter(|byte| *byte == wanted).count();
    count(b'(') == count(b')') && count(b'[') == count(b']')
}

fn is_identifier(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '$')
}

fn leading_identifier(text: &str) -> Option<&str> {
    let end = text.find(|c| !is_identifier(c) && c != ':' && c != '-').unwrap_or(text.len());
    let name = text.get(..end)?.trim_end_matches([':', '-']);
    name.starts_with(|c: char| !c.is_ascii_digit() && is_identifier(c)).then_some(name)
}

/// The identifier at the end, with `Type::` and `~` of C++.
fn trailing_identifier(text: &str) -> Option<&str> {
    let outside = text.rfind(|c| !is_identifier(c) && !matches!(c, ':' | '~'));
    let start = outside.map_or(0, |at| at + text.get(at..).map_or(1, first_length));
    let name = text.get(start..)?.trim_start_matches(':');
    name.starts_with(|c: char| !c.is_ascii_digit()).then_some(name)
}

fn first_length(text: &str) -> usize {
    text.chars().next().map_or(1, char::len_utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(style: FunctionStyle, cases: &[(&str, Option<&str>)]) {
        for (head, name) in cases {
            assert_eq!(function_name(head, style), *name, "{head}");
        }
    }

    #[test]
    fn should_read_heads_with_a_keyword() {
        let cases = [
            ("pub const unsafe extern fn read<T>(x: T) -> u8 where T: Copy ", Some("read")),
            ("impl Fn for fn(u8) -> u8 ", None),
            ("let a_fn = S ", None),
            ("match fnord ", None),
        ];
        check(FunctionStyle::Keyword("fn"), &cases);
        check(FunctionStyle::Keyword("func"), &[("func (s *S[T]) Go(x int) ", Some("Go"))]);
        check(FunctionStyle::Keyword("func"), &[("go func() ", None)]);
        check(FunctionStyle::Keyword("fun"), &[("fun <T> name(x: T) ", Some("name"))]);
    }

    #[test]
    fn should_read_heads_in_the_family_of_c() {
        let cases = [
            (
                "\n#include <a>\n#if defined(X)\nstatic int *main(int argc, char **argv)\n",
                Some("main"),
            ),
            ("A::~A() noexcept ", Some("A::~A")),
            ("A::A(int x) : x_(x), y_(1) ", Some("A::A")),
            ("@Test(timeout = 1) public void run() throws Bad ", Some("run")),
            ("[Fact(Skip = 1)] public void Run() ", Some("Run")),
            ("if (a) ", None),
            ("} else if (a) ", None),
            ("for (int i = 0; i < 2; i++) ", None),
            ("int x[] = ", None),
            ("Runnable r = new Runnable() ", None),
            ("std::sort(a, b, [](int x) ", None),
            ("class A : public B ", None),
            ("record Point(int x) ", None),
            ("", None),
        ];
        check(FunctionStyle::Parenthesised, &cases);
    }

    #[test]
    fn should_read_heads_of_scripts() {
        let cases = [
            ("export default async function load(x) ", Some("load")),
            ("function* walk() ", Some("walk")),
            ("const f: F = async (a) => ", Some("f")),
            ("static async go(a: number): Promise<void> ", Some("go")),
            ("constructor() ", Some("constructor")),
            ("it(, () => ", None),
            ("foo.then((x) => ", None),
            ("if (a) ", None),
            ("(function() ", None),
            ("while (a === b) ", None),
        ];
        check(FunctionStyle::Script, &cases);
    }

    #[test]
    fn should_survive_letters_of_many_bytes() {
        check(FunctionStyle::Keyword("fn"), &[("é fn größe() ", Some("größe"))]);
        check(FunctionStyle::Parenthesised, &[("→é größe(", None), ("é größe() ", Some("größe"))]);
        check(FunctionStyle::Script, &[("“größe() ", None)]);
    }
}
