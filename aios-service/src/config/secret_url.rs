//! URLs with passwords that are not printed.
//!
//! The text is searched for passwords without being parsed. A URL that is wrong is the one that
//! ends in an error message, so the search has to find the password of a text that no parser
//! accepts.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer};

use super::{secret::MASK, secret_name::is_secret_parameter};

/// Schemes of stores and brokers without a server, which need no `//`: `sqlite:file.db`, `memory:`.
const LOCAL: [&str; 2] = ["memory:", "sqlite:"];

/// A URL whose password is never printed.
///
/// `Display`, `Debug` and `Serialize` write `***` instead of the password, including a password in the
/// parameters, such as `token` and `api-key`. The user of an HTTP URL without a password is a token, and
/// is masked too. A configuration file may contain the URL, but not the password.
///
/// # Examples
///
/// ```
/// use aios_service::config::SecretUrl;
///
/// # fn main() -> Result<(), aios_service::config::InvalidUrl> {
/// let url: SecretUrl = "postgres://shop:s3cr3t@db.example.org/shop".parse()?;
/// assert_eq!(url.to_string(), "postgres://shop:***@db.example.org/shop");
/// assert!(url.expose().contains("s3cr3t"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SecretUrl(String);

/// A text that is not a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a URL begins with a scheme, such as postgres://")]
pub struct InvalidUrl;

impl SecretUrl {
    /// The whole URL, with its password. Pass it to what connects, and to nothing that prints it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Whether a text that may be a URL contains a password.
pub(super) fn has_password(text: &str) -> bool {
    !secrets(text).is_empty()
}

/// The text without its passwords.
fn mask(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut end = 0;
    for secret in secrets(text) {
        let start = secret.as_ptr().addr() - text.as_ptr().addr();
        if start >= end {
            masked.push_str(text.get(end..start).unwrap_or_default());
            masked.push_str(MASK);
        }
        end = end.max(start + secret.len());
    }
    masked + text.get(end..).unwrap_or_default()
}

/// The passwords of a URL, in order: parts of the text.
///
/// The parts are slices of the text, so that `mask` finds their places by their addresses.
/// Parameters are searched for in the whole text after the scheme, because a password with a `?`
/// hides where the query begins.
pub(super) fn secrets(text: &str) -> Vec<&str> {
    let authority = text.split_once("://").map(|(_, rest)| rest);
    let after_scheme = authority.unwrap_or(text);
    // The path of a local store may begin right after the scheme, and has no user.
    let is_path = authority.is_none() && LOCAL.iter().any(|scheme| text.starts_with(scheme));
    // A password may contain `/`, `?` and `#` by mistake: the last `@` ends it.
    let user = after_scheme.rsplit_once('@').map(|(user, _)| user).filter(|_| !is_path);
    let password = user.and_then(|user| user.split_once(':')).map(|(_, password)| password);
    let query = after_scheme.split_once('?').map_or("", |(_, query)| query);
    let parameters = query.split(['&', '#']).filter_map(|pair| pair.split_once('='));
    let parameters = parameters.filter(|(name, _)| is_secret_parameter(name));
    let parameters = parameters.map(|(_, value)| value);
    let parts = token(text).into_iter().chain(password).chain(parameters);
    parts.filter(|secret| !secret.is_empty()).collect()
}

/// The user of an HTTP URL that has no password.
fn token(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_once("://")?;
    let is_http = ["http", "https"].iter().any(|it| scheme.eq_ignore_ascii_case(it));
    let authority = rest.split(['/', '?', '#']).next().filter(|_| is_http)?;
    authority.rsplit_once('@').map(|(user, _)| user).filter(|user| !user.contains(':'))
}

impl FromStr for SecretUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for SecretUrl {
    type Error = InvalidUrl;

    fn try_from(text: String) -> Result<Self, InvalidUrl> {
        if LOCAL.iter().any(|scheme| text.starts_with(scheme)) {
            return Ok(Self(text));
        }
        let (scheme, _) = text.split_once("://").ok_or(InvalidUrl)?;
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        if is_scheme { Ok(Self(text)) } else { Err(InvalidUrl) }
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&mask(&self.0))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SecretUrl({self})")
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for SecretUrl {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "SecretUrl".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^(memory:|sqlite:|[A-Za-z][A-Za-z0-9+.-]*://)",
            "x-aios-expected": "a URL such as postgres://user@host/database",
            "x-aios-secret": "password",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_print_no_password() {
        for (text, shown) in [
            ("postgres://app@db/aios", "postgres://app@db/aios"),
            ("postgres://app:hunter2@db:5432/aios", "postgres://app:***@db:5432/aios"),
            ("amqp://app:hun/ter?2@mq/%2f", "amqp://app:***@mq/%2f"),
            ("redis://:hunter2@cache", "redis://:***@cache"),
            ("postgres://db/a?password=hunter2&x=1", "postgres://db/a?password=***&x=1"),
            ("postgres://u:hunter2@d/a?Password=hunter3", "postgres://u:***@d/a?Password=***"),
            ("amqp://u://@mq", "amqp://u:***@mq"),
            ("postgres://u:p@db?password=a@b", "postgres://u:***"),
            (
                "https://llm.example/v1?api-key=hunter2&x=1",
                "https://llm.example/v1?api-key=***&x=1",
            ),
            ("https://llm.example/v1?apiKey=hunter2", "https://llm.example/v1?apiKey=***"),
            (
                "https://llm.example/v1?api_key=h&key=h&sig=h",
                "https://llm.example/v1?api_key=***&key=***&sig=***",
            ),
            (
                "https://s.example/a?X-Amz-Signature=h&keys=1",
                "https://s.example/a?X-Amz-Signature=***&keys=1",
            ),
            ("https://hunter2@git.example/a", "https://***@git.example/a"),
            ("HTTPS://hunter2@git.example/a", "HTTPS://***@git.example/a"),
            ("https://me:@git.example/a", "https://me:@git.example/a"),
            ("https://hunter2@git.example/a?token=h", "https://***@git.example/a?token=***"),
            ("https://me:hunter2@git.example/a", "https://me:***@git.example/a"),
            ("https://git.example/@me?mail=a@b", "https://git.example/@me?mail=a@b"),
            ("sqlite://aios.db", "sqlite://aios.db"),
            ("memory://", "memory://"),
            ("sqlite:aios.db", "sqlite:aios.db"),
            ("sqlite:data@home:2/aios.db", "sqlite:data@home:2/aios.db"),
            ("memory:", "memory:"),
        ] {
            let url: SecretUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("SecretUrl({shown})"));
            assert_eq!(url.expose(), text);
        }
    }

    #[test]
    fn should_refuse_what_is_not_a_url() {
        for text in ["", "postgres", "postgres:/db", "://db", "1a://db", "a b://c", "file:a.db"] {
            assert_eq!(text.parse::<SecretUrl>(), Err(InvalidUrl), "{text}");
        }
    }
}
