//! Which fields of log lines are not written.

use std::sync::Arc;

use super::secret_name::is_secret;

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
    /// A word for secrets masks every name that contains it, such as `reset_token`, also as
    /// `Reset-Token`. A name of the settings masks only the field of this name. Case does not matter for
    /// either.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        is_secret(name) || self.0.contains(&name.to_ascii_lowercase())
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
}
