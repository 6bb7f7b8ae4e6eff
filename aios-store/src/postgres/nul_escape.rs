//! Escapes NUL in the columns of read models and in the names of readers and owners, because
//! PostgreSQL's text type cannot store that character.
//!
//! An event whose own texts have NUL is refused. A read model shows texts out of payloads, in which
//! NUL is written as `\u0000` and is allowed, so its columns are escaped instead of refusing the
//! event. Ordinary texts are returned without a copy.

/// Begins an escape: the control character SUBSTITUTE, which is rare in text.
const ESCAPE: char = '\u{1a}';

/// The second character of an escape: stands for NUL.
const NUL: char = '0';
/// The second character of an escape: stands for [`ESCAPE`] itself.
const ITSELF: char = '1';

/// Replaces NUL by an escape.
pub(super) fn escape(text: String) -> String {
    if !text.contains(['\0', ESCAPE]) {
        return text;
    }
    let mut escaped = String::with_capacity(text.len() + 1);
    for character in text.chars() {
        match character {
            '\0' => escaped.extend([ESCAPE, NUL]),
            ESCAPE => escaped.extend([ESCAPE, ITSELF]),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Reverses [`escape`].
pub(super) fn unescape(text: String) -> String {
    if !text.contains(ESCAPE) {
        return text;
    }
    let mut pieces = text.split(ESCAPE);
    let mut unescaped = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (character, rest) = parse_escape(piece);
        unescaped.push(character);
        unescaped.push_str(rest);
    }
    unescaped
}

/// Returns the character that an escape stands for, and the text after the escape.
fn parse_escape(piece: &str) -> (char, &str) {
    match (piece.strip_prefix(NUL), piece.strip_prefix(ITSELF)) {
        (Some(rest), _) => ('\0', rest),
        (_, Some(rest)) => (ESCAPE, rest),
        // Not an escape: another program wrote the text.
        (None, None) => (ESCAPE, piece),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_unescape_what_it_escaped() {
        for text in ["", "plain ✓", "\0", "a\0b\0", "\u{1a}", "\u{1a}0", "\0\u{1a}1\u{1a}\0"] {
            let escaped = escape(text.to_owned());
            assert!(!escaped.contains('\0'));
            assert_eq!(unescape(escaped), text);
        }
        assert_eq!(unescape("a\u{1a}b".to_owned()), "a\u{1a}b");
    }
}
