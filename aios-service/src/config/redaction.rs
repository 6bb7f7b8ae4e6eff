//! Which fields of log lines are not written.

use std::sync::Arc;

use super::secret_name::{is_secret, is_secret_number};

/// The fields of log lines whose values are not written.
///
/// # Examples
///
/// ```
/// use aios_service::config::Redaction;
///
/// let redaction = Redaction::new(&["card".to_owned()]);
/// assert!(redaction.covers("Card") && redaction.covers("reset_token"));
/// assert!(!redaction.covers("card_type"));
/// ```
#[derive(Clone, Debug)]
pub struct Redaction(Arc<[String]>);

impl Redaction {
    /// The names of `log.redact`, in addition to those that look like secrets.
    #[must_use]
    pub fn new(names: &[String]) -> Self {
        Self(names.iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    /// Whether the value of a field is masked.
    ///
    /// Built-in words such as `token` match anywhere in a name, ignoring `-`, `_` and case. Names from
    /// `log.redact` must match the whole name, ignoring case.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        is_secret(name) || self.lists(name)
    }

    /// Whether a number in a field is masked.
    ///
    /// Same as [`covers`](Self::covers), except that names ending in `tokens`, such as `input_tokens`, are
    /// counts and not masked, unless `log.redact` has them.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_service::config::Redaction;
    ///
    /// let redaction = Redaction::new(&[]);
    /// assert!(!redaction.covers_number("input_tokens"));
    /// assert!(redaction.covers_number("reset_token"));
    /// ```
    #[must_use]
    pub fn covers_number(&self, name: &str) -> bool {
        is_secret_number(name) || self.lists(name)
    }

    fn lists(&self, name: &str) -> bool {
        self.0.contains(&name.to_ascii_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_cover_names_however_they_are_written() {
        let redaction = Redaction::new(&["card".to_owned()]);
        for name in
            ["api_key", "api-key", "apikey", "X-Api-Key", "openaiApiKey", "passphrase", "Card"]
        {
            assert!(redaction.covers(name), "{name}");
        }
        for name in ["key", "card_type", "signal"] {
            assert!(!redaction.covers(name), "{name}");
        }
    }

    #[test]
    fn should_not_cover_counts_of_tokens() {
        let redaction = Redaction::new(&["Cached_Tokens".to_owned()]);
        for name in ["input_tokens", "max-tokens", "totalTokens", "tokens", "signal"] {
            assert!(!redaction.covers_number(name), "{name}");
        }
        for name in ["token", "reset_token", "token_count", "secret_tokens", "cached_tokens"] {
            assert!(redaction.covers_number(name), "{name}");
        }
        for name in ["input_tokens", "api_tokens"] {
            assert!(redaction.covers(name), "{name}");
        }
    }
}
