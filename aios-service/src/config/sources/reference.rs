//! References in texts of files: `${NAME}` and `${NAME:-default}`.
//!
//! References are replaced once: a `${` in the value of a variable or in a default is a part of the
//! text. Whether a text is a secret in a file is decided by its [`literal`] part, so a default
//! counts as written into the file.

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
enum Part<'t> {
    /// A text as it is.
    Literal(&'t str),
    /// A reference, with what follows `:-`.
    Variable { name: &'t str, default: Option<&'t str> },
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
    for part in parse(text)? {
        match part {
            Part::Literal(literal) => whole.push_str(literal),
            Part::Variable { name, default } => match (variable(name), default) {
                (Some(""), Some(default)) | (None, Some(default)) => whole.push_str(default),
                (Some(value), _) => whole.push_str(value),
                (None, None) => return Err(ReferenceError::Undefined(name.to_owned())),
            },
        }
    }
    Ok(Some(whole))
}

/// The part that is in the file itself: the text without its references, but with their defaults.
pub(crate) fn literal(text: &str) -> String {
    let Ok(parts) = parse(text) else { return text.to_owned() };
    let literals = parts.into_iter().map(|part| match part {
        Part::Literal(literal) => literal,
        Part::Variable { default, .. } => default.unwrap_or_default(),
    });
    literals.collect()
}

/// Takes a text apart. References are not nested.
fn parse(text: &str) -> Result<Vec<Part<'_>>, ReferenceError> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            parts.extend([Part::Literal(before), Part::Literal("${")]);
            rest = after;
            continue;
        }
        parts.push(Part::Literal(before));
        let (inner, after) = after.split_once('}').ok_or(ReferenceError::Malformed)?;
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        if !is_name(name) {
            return Err(ReferenceError::Malformed);
        }
        parts.push(Part::Variable { name, default });
        rest = after;
    }
    parts.push(Part::Literal(rest));
    Ok(parts)
}

/// Whether a text can be the name of a variable.
fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
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
        ] {
            assert_eq!(substitute(text, variable), Ok(whole.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn should_refuse_what_is_not_a_reference() {
        for text in ["${", "${HOST", "${}", "${1}", "${A B}", "${HOST-x}", "${:-x}"] {
            assert_eq!(substitute(text, variable), Err(ReferenceError::Malformed), "{text}");
        }
        let undefined = Err(ReferenceError::Undefined("NONE".to_owned()));
        assert_eq!(substitute("${NONE}", variable), undefined);
    }

    #[test]
    fn should_tell_what_the_file_says_itself() {
        for (text, itself) in [
            ("${KEY}", ""),
            ("${KEY:-hunter2}", "hunter2"),
            ("hunter${KEY}2", "hunter2"),
            ("${", "${"),
        ] {
            assert_eq!(literal(text), itself, "{text}");
        }
    }
}
