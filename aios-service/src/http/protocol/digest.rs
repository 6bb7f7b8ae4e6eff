//! Digests of lists of texts, for cursors and for idempotency keys.

use ring::digest::{Context, SHA256};

use crate::auth::hex;

/// SHA-256 of texts, each with its length, so that no two lists of texts have the same.
pub(crate) fn digest(parts: &[&[u8]]) -> String {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    hex::encode(context.finish().as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_keep_lists_of_texts_apart() {
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
        assert_ne!(digest(&[b"a", b""]), digest(&[b"a"]));
    }
}
