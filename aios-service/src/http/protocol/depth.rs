//! How deep a body is nested.

/// Deepest nesting of a body: as deep as `serde_json` reads.
pub(super) const MAX_DEPTH: usize = 127;

/// Whether brackets are nested too deep. Those in strings do not count.
///
/// Checked on the bytes, before anything is parsed.
pub(super) fn is_too_deep(body: &[u8]) -> bool {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_count_brackets_outside_strings_only() {
        assert!(is_too_deep("[".repeat(128).as_bytes()));
        assert!(!is_too_deep("[".repeat(127).as_bytes()));
        assert!(!is_too_deep(format!("\"{}\"", "[".repeat(500)).as_bytes()));
        assert!(!is_too_deep(format!(r#"{{"a\"":"\\{}"}}"#, "{".repeat(500)).as_bytes()));
        assert!(!is_too_deep("[],".repeat(500).as_bytes()));
    }
}
