//! URLs of PostgreSQL, with nothing taken from the environment.
//!
//! The driver fills in whatever a URL leaves out: from `PGHOST` and its relatives, from a password
//! file, and from the name of the operating system's user. A library that behaves differently in
//! another shell is hard to reason about, and may connect to the wrong server. So this module adds
//! an explicit default for each part that a URL can leave out, and then lets the driver parse the
//! result.
//!
//! Unknown parameters are refused, because a misspelt `sslmode` would otherwise be ignored. The
//! messages never repeat a value, and repeat a name only if it can't be a piece of a password.

use aios_core::store::StoreError;
use sqlx::postgres::PgConnectOptions;

/// Default application name of a connection, as shown in `pg_stat_activity`.
const APPLICATION: &str = "aios";

/// Parameters that the driver supports.
const SUPPORTED: [&str; 17] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];

/// Parameters of libpq that URLs often have but that the driver does not support. Without them the
/// connection either works in the same way or fails. They are removed, because the driver would log their
/// values.
const IGNORED: [&str; 12] = [
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "sslcompression",
    "sslsni",
    "tcp_user_timeout",
];

/// How to write a password, for the errors that one may cause which is not encoded.
const ENCODE: &str =
    "in a user or password, write # as %23, / as %2F, ? as %3F, @ as %40 and % as %25";

/// Parses a URL. The driver takes missing settings from the environment and from a password file, so this
/// sets everything that the driver allows to set.
///
/// # Errors
///
/// [`StoreError::InvalidConfiguration`] if the URL is invalid or does not name a user.
pub(crate) fn parse(url: &str) -> Result<PgConnectOptions, StoreError> {
    let url = url.split('#').next().unwrap_or_default();
    let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
    let rest = rest.ok_or_else(|| invalid("a URL begins with postgres:// or postgresql://"))?;
    let parts = UrlParts::of(rest);
    if !parts.has_user() {
        return Err(invalid(&format!("the PostgreSQL URL does not name a user; {ENCODE}")));
    }
    if let Some(name) = parts.unknown_parameter() {
        return Err(invalid(&format!("unknown parameter in the PostgreSQL URL: {name}")));
    }
    let complete = parts.with_defaults(&parts.without_ignored(url));
    // The driver's error may contain the password.
    let mut options: PgConnectOptions = complete
        .parse()
        .map_err(|_| invalid(&format!("the PostgreSQL URL is malformed; {ENCODE}")))?;
    if !parts.has_database() {
        let user = options.get_username().to_owned();
        options = options.database(&user);
    }
    Ok(if parts.has_parameter(&["sslrootcert", "ssl-root-cert", "ssl-ca"]) {
        options
    } else {
        options.ssl_root_cert_from_pem(Vec::new())
    })
}

/// The error for a URL that can't be used. The reason has no part of the URL but a name.
fn invalid(reason: &str) -> StoreError {
    StoreError::InvalidConfiguration { reason: reason.to_owned() }
}

/// The parts of a URL. A missing part is empty.
struct UrlParts<'a> {
    credentials: &'a str,
    host: &'a str,
    path: &'a str,
    parameters: &'a str,
}

impl<'a> UrlParts<'a> {
    /// Splits what follows the scheme. The last `@` ends the credentials, because a password may
    /// have one.
    fn of(rest: &'a str) -> Self {
        let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        Self { credentials, host, path, parameters }
    }

    /// Returns the first unknown parameter. Does not show it if it may be the end of a password: an
    /// unescaped `?` in a password makes the rest of the URL look like parameters.
    fn unknown_parameter(&self) -> Option<&'a str> {
        let name = self.parameters.split('&').map(name_of).find(|name| !is_known(name))?;
        let is_safe = !self.parameters.contains('@')
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte == b'-');
        Some(if is_safe { name } else { "a name with characters other than a to z, _ and -" })
    }

    /// Returns the URL without the parameters in [`IGNORED`].
    fn without_ignored(&self, url: &str) -> String {
        let pairs: Vec<&str> =
            self.parameters.split('&').filter(|pair| !IGNORED.contains(&name_of(pair))).collect();
        let base = url.split('?').next().unwrap_or_default();
        if self.parameters.is_empty() {
            base.to_owned()
        } else {
            format!("{base}?{}", pairs.join("&"))
        }
    }

    /// Whether one of these parameters is set.
    fn has_parameter(&self, names: &[&str]) -> bool {
        self.parameters.split('&').any(|pair| names.contains(&name_of(pair)))
    }

    /// Whether the URL names a user, before the host or as a parameter.
    fn has_user(&self) -> bool {
        let user = self.credentials.split(':').next();
        user.is_some_and(|user| !user.is_empty()) || self.has_parameter(&["user"])
    }

    /// Whether the URL has a password, even an empty one.
    fn has_password(&self) -> bool {
        self.credentials.contains(':') || self.has_parameter(&["password"])
    }

    /// Whether the URL names a host.
    fn has_host(&self) -> bool {
        self.host.starts_with(|first| first != ':') || self.has_parameter(&["host", "hostaddr"])
    }

    /// Ignores the colons of an IPv6 address, which is in brackets.
    fn has_port(&self) -> bool {
        let end = self.host.rsplit(']').next();
        end.is_some_and(|end| end.contains(':')) || self.has_parameter(&["port"])
    }

    /// Whether the URL names a database.
    fn has_database(&self) -> bool {
        !self.path.is_empty() || self.has_parameter(&["dbname"])
    }

    /// Returns the URL with a default for each missing setting that a parameter can set.
    fn with_defaults(&self, url: &str) -> String {
        let mut complete = url.to_owned();
        let mut separator = if url.contains('?') { '&' } else { '?' };
        for (is_set, name, value) in [
            (self.has_host(), "host", "localhost"),
            (self.has_port(), "port", "5432"),
            (self.has_password(), "password", ""),
            (self.has_parameter(&["sslmode", "ssl-mode"]), "sslmode", "prefer"),
            (self.has_parameter(&["application_name"]), "application_name", APPLICATION),
        ] {
            if !is_set {
                complete.extend([&*separator.to_string(), name, "=", value]);
                separator = '&';
            }
        }
        complete
    }
}

/// Returns the name in a `name=value` pair.
fn name_of(pair: &str) -> &str {
    pair.split('=').next().unwrap_or_default()
}

/// Whether a parameter is supported or ignored.
fn is_known(name: &str) -> bool {
    name.is_empty()
        || name.starts_with("options[")
        || name == "statement-cache-capacity"
        || SUPPORTED.contains(&name)
        || IGNORED.contains(&name)
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgSslMode;

    use super::*;

    #[test]
    fn should_set_defaults_for_missing_parts() {
        let options = parse("postgres:///?user=me").unwrap();
        assert_eq!((options.get_host(), options.get_port()), ("localhost", 5432));
        assert_eq!((options.get_username(), options.get_database()), ("me", Some("me")));
        assert_eq!(options.get_application_name(), Some("aios"));
        assert!(matches!(options.get_ssl_mode(), PgSslMode::Prefer));
    }

    #[test]
    fn should_keep_the_parts_of_the_url() {
        let url = "postgresql://me:p@[::1]:7/db?sslmode=disable&application_name=shop";
        let options = parse(url).unwrap();
        assert_eq!((options.get_host(), options.get_port()), ("[::1]", 7));
        assert_eq!((options.get_username(), options.get_database()), ("me", Some("db")));
        assert_eq!(options.get_application_name(), Some("shop"));
        assert!(matches!(options.get_ssl_mode(), PgSslMode::Disable));
        let options = parse("postgres://db.example?user=me&dbname=shop&port=8").unwrap();
        assert_eq!((options.get_host(), options.get_port()), ("db.example", 8));
        assert_eq!((options.get_username(), options.get_database()), ("me", Some("shop")));
    }

    #[test]
    fn should_name_an_unknown_parameter_without_its_value() {
        let options = parse("postgres://me@h/d?connect_timeout=10&sslmode=require").unwrap();
        assert!(matches!(options.get_ssl_mode(), PgSslMode::Require));
        for (parameters, names) in [
            ("sslmod=require", "sslmod"),
            ("port=7&passwd=s3cret", "passwd"),
            ("s3cret@h", "characters other than"),
            ("S3cret", "characters other than"),
        ] {
            let error = parse(&format!("postgres://me@h/d?{parameters}")).unwrap_err().to_string();
            assert!(error.contains(names) && !error.to_lowercase().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn should_say_how_to_encode_a_password() {
        for password in ["s3cret#1", "s3cret/1", "#", "/s3cret"] {
            let url = format!("postgres://me:{password}@host/db");
            let error = parse(&url).unwrap_err().to_string();
            assert!(error.contains("write # as %23, / as %2F"), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        assert_eq!(parse("postgres://me:a%23%2F@host/db").unwrap().get_host(), "host");
    }

    #[test]
    fn should_refuse_invalid_urls_and_urls_without_a_user() {
        for url in ["", "mysql://a", "localhost", "sqlite:a.db", "postgres://host/db"] {
            assert_eq!(parse(url).unwrap_err().code(), "INVALID_STORE_CONFIGURATION", "{url}");
        }
    }
}
