//! From a URL to an opened store.
//!
//! The scheme selects the adapter, and the rest of the URL belongs to that adapter: this module
//! never parses it. An adapter whose feature is not compiled in is still known by its scheme, so
//! that the error names the missing feature and not an unknown scheme.
//!
//! URLs hold passwords, and a user may paste a URL or the connection string of another system by
//! mistake. No error of this module repeats what follows the scheme, except for a text that is probably
//! the path of a file: it has no scheme, and nothing that separates a password from the rest.

use std::sync::Arc;

use aios_core::store::{Store, StoreError};

use crate::{any::AnyStore, memory::MemoryStore, schema_version::SchemaVersion};

/// Opens the store that a URL names. [`AnyStore::connect`] does the same and keeps the operations that
/// only adapters have.
///
/// | URL | store | feature |
/// |---|---|---|
/// | `memory://` | [`MemoryStore`] | always built |
/// | `sqlite:path`, `sqlite://path`, `sqlite::memory:` | `SqliteStore` | `sqlite` |
/// | `postgres://user:password@host/database`, `postgresql://…` | `PostgresStore` | `postgres` |
///
/// # Errors
///
/// [`StoreError::InvalidConfiguration`] if the scheme is unknown or its feature is not compiled in.
/// Otherwise the error that the store reports when it opens.
///
/// # Cancel safety
///
/// Dropping the future closes what was opened. A SQLite file may stay open for a moment longer.
/// Migrations that committed stay applied.
///
/// # Examples
///
/// ```
/// use aios_core::{event::Event, store::{Append, EventStoreExt, StreamId}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = aios_store::connect("memory://").await?; // or sqlite://shop.db, postgres://…
/// let placed = Event::new("shop.order.placed".parse()?, "shop", &"tea")?;
/// store.append_one(Append::new(StreamId::new("orders/7")?, vec![placed])).await?;
/// assert_eq!(store.read_log(0, 10).await?.len(), 1);
/// store.close().await?;
/// # Ok(())
/// # }
/// ```
pub async fn connect(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    Ok(AnyStore::connect(url).await?.store())
}

impl AnyStore {
    /// Opens the store that a URL names; see [`connect`].
    ///
    /// # Errors
    ///
    /// The same as [`connect`].
    ///
    /// # Cancel safety
    ///
    /// The same as [`connect`].
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("memory") => Ok(Self::Memory(Arc::new(MemoryStore::new()))),
            Some("sqlite") => sqlite(url).await,
            Some("postgres" | "postgresql") => postgres(url).await,
            scheme => Err(StoreError::InvalidConfiguration { reason: unknown_scheme(url, scheme) }),
        }
    }
}

/// Explains an unknown scheme and suggests the intended one. Shows nothing after the scheme, because
/// that may hold a password.
fn unknown_scheme(url: &str, scheme: Option<&str>) -> String {
    let begins = "a store URL begins with memory:, sqlite: or postgres:";
    match scheme.filter(|scheme| is_scheme(scheme)) {
        Some(scheme) => {
            let lower = scheme.to_ascii_lowercase();
            let meant = match lower.as_bytes() {
                [b'p', ..] => "; did you mean postgres:?",
                [b's', ..] | b"file" => "; did you mean sqlite:?",
                [b'm', b'e', ..] => "; did you mean memory:?",
                _ => "",
            };
            format!("{begins}, not with {scheme}:{meant}")
        }
        None if url.is_empty() || may_hold_password(url) => begins.to_owned(),
        None => {
            let meant = match url {
                "memory" => "memory:".to_owned(),
                // The colon is missing.
                _ => match url.strip_prefix("sqlite").filter(|path| path.starts_with("//")) {
                    Some(path) => format!("sqlite:{path}"),
                    None => format!("sqlite:{url}"),
                },
            };
            format!("{begins}, not with {url:?}; did you mean \"{meant}\"?")
        }
    }
}

/// Whether the text before the colon is a URL scheme. A single letter is a drive of Windows.
fn is_scheme(text: &str) -> bool {
    text.len() > 1 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+')
}

/// Whether a text without a scheme may be more than the path of a file: a URL whose scheme is missing, or
/// `host=… password=…`. The colon of a drive of Windows separates no password.
fn may_hold_password(text: &str) -> bool {
    let is_separator = |(at, byte): (usize, u8)| match byte {
        b'@' | b'=' | b'?' => true,
        b':' => at != 1,
        _ => false,
    };
    text.bytes().enumerate().any(is_separator)
}

/// Opens the SQLite file that the URL names.
#[cfg(feature = "sqlite")]
async fn sqlite(url: &str) -> Result<AnyStore, StoreError> {
    Ok(AnyStore::Sqlite(Arc::new(crate::sqlite::SqliteStore::connect(url).await?)))
}

/// Refuses the URL, because this build has no SQLite.
#[cfg(not(feature = "sqlite"))]
async fn sqlite(_url: &str) -> Result<AnyStore, StoreError> {
    Err(not_compiled_in("sqlite"))
}

/// Connects to the PostgreSQL server that the URL names.
#[cfg(feature = "postgres")]
async fn postgres(url: &str) -> Result<AnyStore, StoreError> {
    Ok(AnyStore::Postgres(Arc::new(crate::postgres::PostgresStore::connect(url).await?)))
}

/// Refuses the URL, because this build has no client for PostgreSQL.
#[cfg(not(feature = "postgres"))]
async fn postgres(_url: &str) -> Result<AnyStore, StoreError> {
    Err(not_compiled_in("postgres"))
}

/// The error for a known scheme whose adapter is not in this build.
#[cfg(not(all(feature = "sqlite", feature = "postgres")))]
fn not_compiled_in(feature: &str) -> StoreError {
    StoreError::InvalidConfiguration {
        reason: format!("aios-store was built without its feature `{feature}`"),
    }
}

/// Reads the version of the schema of the store that a URL names. Unlike [`connect`](crate::connect), it
/// migrates nothing, creates nothing, and reads a SQLite file that another process has open.
///
/// # Errors
///
/// [`StoreError::InvalidConfiguration`] if the URL is invalid, or names a store in memory. Otherwise the
/// error that the store reports.
///
/// # Cancel safety
///
/// Cancel safe: nothing is written.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let url = format!("sqlite:{}", folder.path().join("new.db").display());
/// # #[cfg(feature = "sqlite")]
/// # {
/// assert!(aios_store::schema_version(&url).await?.is_outdated());
/// aios_store::connect(&url).await?; // migrates
/// assert!(!aios_store::schema_version(&url).await?.is_outdated());
/// # }
/// # Ok(())
/// # }
/// ```
pub async fn schema_version(url: &str) -> Result<SchemaVersion, StoreError> {
    match url.split_once(':').map(|(scheme, _)| scheme) {
        #[cfg(feature = "sqlite")]
        Some("sqlite") => crate::sqlite::schema_version(&url.parse()?).await,
        #[cfg(feature = "postgres")]
        Some("postgres" | "postgresql") => {
            let options = crate::postgres::PostgresOptions::new(url);
            crate::postgres::PostgresStore::schema_version(options).await
        }
        Some("memory") => {
            let reason = "a store in memory has no schema".to_owned();
            Err(StoreError::InvalidConfiguration { reason })
        }
        // Explains what is wrong with the URL.
        _ => match AnyStore::connect(url).await {
            Ok(_) => Ok(SchemaVersion { found: 0, known: 0 }),
            Err(error) => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_suggest_the_scheme_of_a_misspelt_url() {
        for (url, expected) in [
            ("sqllite://a.db", "not with sqllite:; did you mean sqlite:?"),
            ("SQLITE://a.db", "not with SQLITE:; did you mean sqlite:?"),
            ("file:a.db", "not with file:; did you mean sqlite:?"),
            (
                "postgresql+psycopg://me:secret@h/d",
                "not with postgresql+psycopg:; did you mean postgres:?",
            ),
            ("mem://", "not with mem:; did you mean memory:?"),
            ("redis://me:secret@h", "not with redis:"),
            ("a.db", "not with \"a.db\"; did you mean \"sqlite:a.db\"?"),
            ("sqlite//a.db", "not with \"sqlite//a.db\"; did you mean \"sqlite://a.db\"?"),
            ("memory", "not with \"memory\"; did you mean \"memory:\"?"),
            ("C:\\a.db", "did you mean \"sqlite:C:\\a.db\"?"),
            ("me:secret@h/d", "sqlite: or postgres:"),
            ("secret@h/d", "sqlite: or postgres:"),
            ("host=h user=me password=secret dbname=d", "sqlite: or postgres:"),
            ("host=h password=se:secret", "sqlite: or postgres:"),
            ("localhost/d?user=me&password=secret", "sqlite: or postgres:"),
            ("db.example:secret", "sqlite: or postgres:"),
            ("//me:secret/d", "sqlite: or postgres:"),
            ("", "sqlite: or postgres:"),
        ] {
            let reason = unknown_scheme(url, url.split_once(':').map(|(scheme, _)| scheme));
            assert!(reason.contains(expected) && !reason.contains("secret"), "{url}: {reason}");
        }
    }
}
