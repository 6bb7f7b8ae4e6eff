use aios_core::store::StoreError;
use sqlx::postgres::PgConnectOptions;

/// What a connection is called where the URL does not say: in `pg_stat_activity`, for example.
const APPLICATION: &str = "aios";

/// Parameters that the driver understands.
const UNDERSTOOD: [&str; 17] = [
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

/// Parameters of libpq that URLs often have, and without which the connection is the same or fails.
/// The driver would log their values.
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

/// Reads a URL, and leaves to the driver's own defaults, which come from the environment and from a
/// password file, as little as the driver allows.
///
/// # Errors
///
/// [`StoreError::InvalidConfiguration`] if it is no such URL or names no user.
pub(crate) fn parse(url: &str) -> Result<PgConnectOptions, StoreError> {
    let url = url.split('#').next().unwrap_or_default();
    let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
    let rest = rest.ok_or_else(|| invalid("a URL begins with postgres:// or postgresql://"))?;
    let said = UrlParts::of(rest);
    if !said.user() {
        return Err(invalid("the PostgreSQL URL names no user"));
    }
    if let Some(name) = said.unknown() {
        return Err(invalid(&format!(
            "the PostgreSQL URL has a parameter that is unknown: {name}"
        )));
    }
    let options = said.complete(&said.understood(url)).parse::<PgConnectOptions>();
    let mut options = options.map_err(|_| invalid("the PostgreSQL URL can't be read"))?;
    if !said.database() {
        let user = options.get_username().to_owned();
        options = options.database(&user);
    }
    Ok(if said.parameter(&["sslrootcert", "ssl-root-cert", "ssl-ca"]) {
        options
    } else {
        options.ssl_root_cert_from_pem(Vec::new())
    })
}

fn invalid(reason: &str) -> StoreError {
    StoreError::InvalidConfiguration { reason: reason.to_owned() }
}

/// The parts of a URL, as far as they are there.
struct UrlParts<'a> {
    credentials: &'a str,
    host: &'a str,
    path: &'a str,
    parameters: &'a str,
}

impl<'a> UrlParts<'a> {
    fn of(rest: &'a str) -> Self {
        let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        Self { credentials, host, path, parameters }
    }

    /// The first parameter that is unknown. It is not named if it may be the end of a password.
    fn unknown(&self) -> Option<&'a str> {
        let names = self.parameters.split('&').filter_map(|pair| pair.split('=').next());
        let is_known = |name: &&str| {
            name.is_empty()
                || name.starts_with("options[")
                || *name == "statement-cache-capacity"
                || UNDERSTOOD.contains(name)
                || IGNORED.contains(name)
        };
        let name = names.into_iter().find(|name| !is_known(name))?;
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_' || byte == b'-';
        let is_safe = !self.parameters.contains('@') && name.bytes().all(is_plain);
        Some(if is_safe { name } else { "one with other characters than a to z, _ and -" })
    }

    /// The URL without what is ignored.
    fn understood(&self, url: &str) -> String {
        let is_ignored =
            |pair: &&str| IGNORED.contains(&pair.split('=').next().unwrap_or_default());
        let pairs: Vec<&str> =
            self.parameters.split('&').filter(|pair| !is_ignored(pair)).collect();
        let base = url.split('?').next().unwrap_or_default();
        if self.parameters.is_empty() {
            base.to_owned()
        } else {
            format!("{base}?{}", pairs.join("&"))
        }
    }

    fn parameter(&self, names: &[&str]) -> bool {
        let mut pairs = self.parameters.split('&');
        pairs.any(|pair| names.contains(&pair.split('=').next().unwrap_or_default()))
    }

    fn user(&self) -> bool {
        let user = self.credentials.split(':').next();
        user.is_some_and(|user| !user.is_empty()) || self.parameter(&["user"])
    }

    fn password(&self) -> bool {
        self.credentials.contains(':') || self.parameter(&["password"])
    }

    fn host(&self) -> bool {
        self.host.starts_with(|first| first != ':') || self.parameter(&["host", "hostaddr"])
    }

    /// The colons of an IPv6 address stand in brackets.
    fn port(&self) -> bool {
        let end = self.host.rsplit(']').next();
        end.is_some_and(|end| end.contains(':')) || self.parameter(&["port"])
    }

    fn database(&self) -> bool {
        !self.path.is_empty() || self.parameter(&["dbname"])
    }

    /// The URL with everything said that is not, and that can be said with a parameter.
    fn complete(&self, url: &str) -> String {
        let mut complete = url.to_owned();
        let mut separator = if url.contains('?') { '&' } else { '?' };
        for (is_said, name, value) in [
            (self.host(), "host", "localhost"),
            (self.port(), "port", "5432"),
            (self.password(), "password", ""),
            (self.parameter(&["sslmode", "ssl-mode"]), "sslmode", "prefer"),
            (self.parameter(&["application_name"]), "application_name", APPLICATION),
        ] {
            if !is_said {
                complete.extend([&*separator.to_string(), name, "=", value]);
                separator = '&';
            }
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgSslMode;

    use super::*;

    #[test]
    fn should_complete_what_the_url_does_not_say() {
        let options = parse("postgres:///?user=me").unwrap();
        assert_eq!((options.get_host(), options.get_port()), ("localhost", 5432));
        assert_eq!((options.get_username(), options.get_database()), ("me", Some("me")));
        assert_eq!(options.get_application_name(), Some("aios"));
        assert!(matches!(options.get_ssl_mode(), PgSslMode::Prefer));
    }

    #[test]
    fn should_keep_what_the_url_says() {
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
    fn should_name_a_parameter_that_is_unknown_and_never_its_value() {
        let options = parse("postgres://me@h/d?connect_timeout=10&sslmode=require").unwrap();
        assert!(matches!(options.get_ssl_mode(), PgSslMode::Require));
        for (parameters, names) in [
            ("sslmod=require", "sslmod"),
            ("port=7&passwd=s3cret", "passwd"),
            ("s3cret@h", "other characters"),
            ("S3cret", "other characters"),
        ] {
            let error = parse(&format!("postgres://me@h/d?{parameters}")).unwrap_err().to_string();
            assert!(error.contains(names) && !error.to_lowercase().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn should_refuse_what_is_no_url_or_names_no_user() {
        for url in ["", "mysql://a", "localhost", "sqlite:a.db", "postgres://host/db"] {
            assert_eq!(parse(url).unwrap_err().code(), "INVALID_STORE_CONFIGURATION", "{url}");
        }
    }
}
