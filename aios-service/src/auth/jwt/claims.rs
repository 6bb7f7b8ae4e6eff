//! The claims of a token: whose it is, for whom, and when it is valid.
//!
//! Issuers differ in how they write lists: one text, several, or one text separated by spaces. All
//! of these are read. Claims that are not known are ignored. A claim that grants may have any shape: what is
//! no text in it grants nothing.
//!
//! | claim | required | effect |
//! |---|---|---|
//! | `iss` | yes | selects the issuer |
//! | `sub` | yes, 1 to 200 bytes without control characters | the subject of the caller |
//! | `aud` | yes | one of its texts is the audience of the service |
//! | `exp`, `nbf` | `exp` | when the token is valid; both with the leeway |
//! | `scope`, `scp`, `permissions` | no | texts that are permissions are granted, others ignored |
//! | `roles` | no | the permissions of the roles that the issuer's options know |

use std::time::Duration;

use aios_core::event::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::invalid;
use crate::auth::AuthError;

/// Longest subject, in bytes: it becomes part of the source of events.
const MAX_SUBJECT: usize = 200;

/// The claims that matter here.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    /// The issuer.
    iss: Option<String>,
    /// The caller.
    sub: Option<String>,
    /// For whom the token is.
    #[serde(default)]
    aud: Texts,
    /// Seconds since the Unix epoch, possibly with a fraction.
    exp: Option<f64>,
    /// From when it is valid.
    nbf: Option<f64>,
    /// Permissions, by OAuth2.
    #[serde(default, deserialize_with = "granting")]
    scope: Texts,
    /// Permissions, as some issuers name them.
    #[serde(default, deserialize_with = "granting")]
    scp: Texts,
    /// Permissions, as other issuers name them.
    #[serde(default, deserialize_with = "granting")]
    permissions: Texts,
    /// Names of roles.
    #[serde(default, deserialize_with = "granting")]
    roles: Texts,
}

/// One text, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Several(Vec<String>),
}

impl Default for Texts {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl Texts {
    /// The texts.
    fn iter(&self) -> impl Iterator<Item = &str> {
        let (one, several) = match self {
            Self::One(text) => (Some(text), &[][..]),
            Self::Several(texts) => (None, texts.as_slice()),
        };
        one.into_iter().chain(several).map(String::as_str)
    }
}

impl Claims {
    /// Whether the token names this issuer.
    pub(super) fn is_from(&self, issuer: &str) -> bool {
        self.iss.as_deref() == Some(issuer)
    }

    /// Checks the audience and the times. A token without an end is refused.
    pub(super) fn check(
        &self,
        audience: &str,
        now: Timestamp,
        leeway: Duration,
    ) -> Result<(), AuthError> {
        if !self.aud.iter().any(|aud| aud == audience) {
            return Err(invalid("the token is for another audience"));
        }
        let end = self.expires_at().ok_or_else(|| invalid("the token has no end"))?;
        if end + leeway <= now {
            return Err(invalid("the token has expired"));
        }
        if self.nbf.map(timestamp).is_some_and(|begin| begin > now + leeway) {
            return Err(invalid("the token is not valid yet"));
        }
        Ok(())
    }

    /// When the token ends.
    pub(super) fn expires_at(&self) -> Option<Timestamp> {
        self.exp.map(timestamp)
    }

    /// The caller, if it is usable as the name of one.
    pub(super) fn subject(&self) -> Result<&str, AuthError> {
        let is_usable = |sub: &&str| {
            !sub.is_empty() && sub.len() <= MAX_SUBJECT && !sub.chars().any(char::is_control)
        };
        let subject = self.sub.as_deref().filter(is_usable);
        subject.ok_or_else(|| invalid("the token has no usable subject"))
    }

    /// All texts that may be permissions.
    pub(super) fn scopes(&self) -> impl Iterator<Item = &str> {
        let all = self.scope.iter().chain(self.scp.iter()).chain(self.permissions.iter());
        all.flat_map(str::split_ascii_whitespace)
    }

    /// The roles.
    pub(super) fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.iter()
    }
}

/// Reads the texts of a claim that grants, and leaves out everything else.
fn granting<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Texts, D::Error> {
    let text = |value| match value {
        Value::String(text) => Some(text),
        _ => None,
    };
    Ok(match Value::deserialize(deserializer)? {
        Value::Array(values) => Texts::Several(values.into_iter().filter_map(text).collect()),
        value => Texts::Several(text(value).into_iter().collect()),
    })
}

/// Seconds since the Unix epoch; negative ones count as the epoch.
///
/// A number beyond the range of timestamps counts as the last one: the token then does not expire.
fn timestamp(seconds: f64) -> Timestamp {
    let since = Duration::try_from_secs_f64(seconds.max(0.0));
    since.map_or(Timestamp::MAX, |since| Timestamp::UNIX_EPOCH + since)
}
