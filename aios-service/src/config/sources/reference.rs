//! References in texts of files: `${NAME}` and `${NAME:-default}`.
//!
//! A default may contain references, which are replaced only if the default is taken. Values of variables
//! are not searched: a `${` in one is a part of the text. Whether a text is a secret in a file is decided by
//! its [`literal`] part, so a default counts as written into the file, except for its own references.
//!
//! The first `}` that closes no `{` of the default ends a reference, as in `${LABELS:-{"a": 1}}`.

/// How deep references may be nested.
const MAX_DEPTH: usize = 8;

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
enum Part<'t> {
    /// A text as it is.
    Literal(&'t str),
    /// A reference, with what follows `:-`.
    Variable { name: &'t str, default: Option<Vec<Self>> },
}

/// Why a text has no value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReferenceError {
    /// A `${` does not begin a reference.
    Malformed,
    /// The variable is not set, and there is no default.
    Undefined(String),
}

/// Replaces the references. Returns `None` if the text has none; `$${` stands for `${`. A default is
/// taken if the variable is not set or empty, as in a shell.
pub(crate) fn substitute<'e>(
    text: &str,
    variable: impl Fn(&str) -> Option<&'e str>,
) -> Result<Option<String>, ReferenceError> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut whole = String::with_capacity(text.len());
    replace(&parse(text)?, &variable, &mut whole)?;
    Ok(Some(whole))
}

/// Appends the parts with the values of their references.
fn replace<'e>(
    parts: &[Part<'_>],
    variable: &impl Fn(&str) -> Option<&'e str>,
    whole: &mut String,
) -> Result<(), ReferenceError> {
    for part in parts {
        match part {
            Part::Literal(literal) => whole.push_str(literal),
            Part::Variable { name, default } => match (variable(name), default) {
                (Some("") | None, Some(default)) => replace(default, variable, whole)?,
                (Some(value), _) => whole.push_str(value),
                (None, None) => return Err(ReferenceError::Undefined((*name).to_owned())),
            },
        }
    }
    Ok(())
}

/// The part that is in the file itself: the text without its references, but with their defaults.
pub(crate) fn literal(text: &str) -> String {
    parse(text).map_or_else(|_| text.to_owned(), |parts| written(&parts))
}

/// The literals of the parts and of their defaults.
fn written(parts: &[Part<'_>]) -> String {
    let literals = parts.iter().map(|part| match part {
        Part::Literal(literal) => (*literal).to_owned(),
        Part::Variable { default, .. } => default.as_deref().map(written).unwrap_or_default(),
    });
    literals.collect()
}

/// Takes a text apart.
fn parse(text: &str) -> Result<Vec<Part<'_>>, ReferenceError> {
    parts(text, 0).map(|(parts, _)| parts)
}

/// The parts of a text, or of a default up to the `}` after it, and what follows. `depth` counts the
/// references around the text.
fn parts(text: &str, depth: usize) -> Result<(Vec<Part<'_>>, &str), ReferenceError> {
    let mut parts = Vec::new();
    // The part before `rest` that is not in `parts` yet, and the open braces in it.
    let (mut begin, mut rest, mut open) = (text, text, 0_usize);
    loop {
        let Some(index) = rest.find(['$', '{', '}']) else {
            parts.push(Part::Literal(begin));
            return if depth == 0 { Ok((parts, "")) } else { Err(ReferenceError::Malformed) };
        };
        let (before, found) = (before(begin, rest, index), rest.get(index..).unwrap_or_default());
        if let Some(after) = found.strip_prefix("$${") {
            parts.extend([Part::Literal(before), Part::Literal("${")]);
            (begin, rest, open) = (after, after, open + 1);
        } else if let Some(inner) = found.strip_prefix("${") {
            let (reference, after) = reference(inner, depth + 1)?;
            parts.extend([Part::Literal(before), reference]);
            (begin, rest) = (after, after);
        } else if found.starts_with('}') && open == 0 && depth > 0 {
            parts.push(Part::Literal(before));
            return Ok((parts, found.get(1..).unwrap_or_default()));
        } else {
            match found.as_bytes() {
                [b'{', ..] => open += 1,
                [b'}', ..] => open = open.saturating_sub(1),
                _ => {}
            }
            rest = found.get(1..).unwrap_or_default();
        }
    }
}

/// The text from `begin` to this index of `rest`, which is a part of its end.
fn before<'t>(begin: &'t str, rest: &str, index: usize) -> &'t str {
    begin.get(..begin.len() - rest.len() + index).unwrap_or_default()
}

/// The reference whose name begins here, and what follows it.
fn reference(text: &str, depth: usize) -> Result<(Part<'_>, &str), ReferenceError> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let end = text.find(|letter| !is_part(letter)).ok_or(ReferenceError::Malformed)?;
    let (name, after) = text.split_at(end);
    if depth > MAX_DEPTH || name.is_empty() || name.starts_with(|it: char| it.is_ascii_digit()) {
        return Err(ReferenceError::Malformed);
    }
    if let Some(after) = after.strip_prefix('}') {
        return Ok((Part::Variable { name, default: None }, after));
    }
    let default = after.strip_prefix(":-").ok_or(ReferenceError::Malformed)?;
    let (default, after) = parts(default, depth)?;
    Ok((Part::Variable { name, default: Some(default) }, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str) -> Option<&'static str> {
        match name {
            "HOST" => Some("db"),
            "EMPTY" => Some(""),
            "TRICKY" => Some("${HOST}"),
            _ => None,
        }
    }

    #[test]
    fn should_replace_references() {
        for (text, whole) in [
            ("a", None),
            ("$HOST", None),
            ("5$", None),
            ("${HOST}", Some("db")),
            ("a ${HOST} b ${HOST}", Some("a db b db")),
            ("${NONE:-x}", Some("x")),
            ("${NONE:-}", Some("")),
            ("${EMPTY:-x}", Some("x")),
            ("${EMPTY}", Some("")),
            ("${HOST:-x}", Some("db")),
            ("$${HOST}", Some("${HOST}")),
            ("${TRICKY}", Some("${HOST}")),
            ("${NONE:-${HOST}}", Some("db")),
            ("${HOST:-${NONE}}", Some("db")),
            ("${NONE:-a://${HOST}/${EMPTY:-x}}/y", Some("a://db/x/y")),
            ("${HOST:-a://${HOST}/${EMPTY:-x}}/y", Some("db/y")),
            ("${NONE:-{\"a\": {}}}", Some("{\"a\": {}}")),
            ("${HOST:-{\"a\": {}}}", Some("db")),
            ("${NONE:-$${HOST}}", Some("${HOST}")),
            ("${HOST:-$${HOST}}", Some("db")),
            ("${NONE:-$}{", Some("${")),
            ("}{${HOST}}{", Some("}{db}{")),
            ("${NONE:-${TRICKY}}", Some("${HOST}")),
        ] {
            assert_eq!(substitute(text, variable), Ok(whole.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn should_refuse_what_is_not_a_reference() {
        for text in [
            "${",
            "${HOST",
            "${}",
            "${1}",
            "${A B}",
            "${HOST-x}",
            "${:-x}",
            "${HOST:-${NONE}",
            "${HOST:-${}}",
            "${HOST:-{}",
            "${HOST:-$${}",
        ] {
            assert_eq!(substitute(text, variable), Err(ReferenceError::Malformed), "{text}");
        }
        let undefined = Err(ReferenceError::Undefined("NONE".to_owned()));
        assert_eq!(substitute("${NONE}", variable), undefined);
        assert_eq!(substitute("${NONE:-a${NONE}}", variable), undefined);
    }

    #[test]
    fn should_bound_how_deep_references_are_nested() {
        let nested = |depth| "${NONE:-".repeat(depth) + "x" + &"}".repeat(depth);
        assert_eq!(substitute(&nested(MAX_DEPTH), variable), Ok(Some("x".to_owned())));
        for depth in [MAX_DEPTH + 1, 100_000] {
            assert_eq!(substitute(&nested(depth), variable), Err(ReferenceError::Malformed));
        }
    }

    #[test]
    fn should_tell_what_the_file_says_itself() {
        for (text, itself) in [
            ("${KEY}", ""),
            ("${KEY:-hunter2}", "hunter2"),
            ("hunter${KEY}2", "hunter2"),
            ("${KEY:-${OTHER}}", ""),
            ("${KEY:-${OTHER:-hunter2}}", "hunter2"),
            ("${URL:-a://u:${KEY}@db/x}", "a://u:@db/x"),
            ("${", "${"),
        ] {
            assert_eq!(literal(text), itself, "{text}");
        }
    }
}
