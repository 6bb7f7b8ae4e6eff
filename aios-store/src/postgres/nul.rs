//! PostgreSQL's text can't hold the character NUL, which the texts of other stores can: in the columns
//! of read models it is written with an escape.

/// Begins an escape: SUBSTITUTE, which hardly any text has.
const ESCAPE: char = '\u{1a}';

/// What stands behind it: for NUL, and for the character itself.
const NUL: char = '0';
const ITSELF: char = '1';

/// Writes a text without NUL.
pub(super) fn escaped(text: String) -> String {
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

/// Reads back what [`escaped`] wrote.
pub(super) fn unescaped(text: String) -> String {
    if !text.contains(ESCAPE) {
        return text;
    }
    let mut pieces = text.split(ESCAPE);
    let mut unescaped = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (character, rest) = escape_of(piece);
        unescaped.push(character);
        unescaped.push_str(rest);
    }
    unescaped
}

/// The character that a piece behind an escape stands for, and the rest of the piece.
fn escape_of(piece: &str) -> (char, &str) {
    match (piece.strip_prefix(NUL), piece.strip_prefix(ITSELF)) {
        (Some(rest), _) => ('\0', rest),
        (_, Some(rest)) => (ESCAPE, rest),
        // Somebody else wrote it.
        (None, None) => (ESCAPE, piece),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_read_back_what_it_wrote() {
        for text in ["", "plain ✓", "\0", "a\0b\0", "\u{1a}", "\u{1a}0", "\0\u{1a}1\u{1a}\0"] {
            let written = escaped(text.to_owned());
            assert!(!written.contains('\0'));
            assert_eq!(unescaped(written), text);
        }
        assert_eq!(unescaped("a\u{1a}b".to_owned()), "a\u{1a}b");
    }
}
