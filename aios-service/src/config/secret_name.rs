//! Names that say that their values are secret.

/// Parts of such names, as [`plain`] writes them.
const WORDS: [&str; 8] =
    ["password", "passwd", "passphrase", "secret", "token", "apikey", "authorization", "cookie"];

/// Names that say so only in the query of a URL, such as `sig` of a signed one.
const PARAMETERS: [&str; 2] = ["key", "sig"];

/// Whether the value of a field with this name is secret.
pub(super) fn is_secret(name: &str) -> bool {
    let name = plain(name);
    WORDS.iter().any(|word| name.contains(word))
}

/// Whether a number in a field with this name is secret. Names that end in `tokens`, such as
/// `input_tokens`, are counts.
pub(super) fn is_secret_number(name: &str) -> bool {
    let name = plain(name);
    is_secret(name.strip_suffix("tokens").unwrap_or(&name))
}

/// Whether the value of a parameter of a URL is secret.
pub(super) fn is_secret_parameter(name: &str) -> bool {
    let plain = plain(name);
    is_secret(name) || plain.contains("signature") || PARAMETERS.contains(&plain.as_str())
}

/// `api_key`, `api-key` and `apiKey` are the same name.
fn plain(name: &str) -> String {
    let letters = name.chars().filter(|letter| !matches!(letter, '-' | '_'));
    letters.map(|letter| letter.to_ascii_lowercase()).collect()
}
