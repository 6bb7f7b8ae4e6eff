//! Signatures of reasoning, which only the provider that made them accepts.
//!
//! A conversation may change its provider, for example after a handover or with a fallback. Its
//! reasoning then has signatures of both. A prefix of the signature names its provider, and its host
//! if each host signs with a key of its own. Adapters leave out signatures of others.

/// Marks a signature of a provider. Those of Anthropic's readable reasoning are not marked.
pub(super) fn mark(provider: &str, signature: &str) -> String {
    format!("{provider}:{signature}")
}

/// The signature, if it is one of the provider.
pub(super) fn of<'s>(provider: &str, marked: &'s str) -> Option<&'s str> {
    marked.strip_prefix(provider)?.strip_prefix(':')
}

/// Whether the signature is marked. Signatures are base64, which has no colon.
pub(super) fn is_of_other(signature: &str) -> bool {
    signature.contains(':')
}
