use std::sync::Arc;

use aios_core::store::{Store, StoreError};

use crate::{any::AnyStore, memory::MemoryStore};

/// Opens the store that a URL names. [`AnyStore::connect`] does the same, and keeps what only adapters
/// can do.
///
/// | URL | store | feature |
/// |---|---|---|
/// | `memory://` | [`MemoryStore`] | always there |
/// | `sqlite:path`, `sqlite://path`, `sqlite::memory:` | `SqliteStore` | `sqlite` |
/// | `postgres://user:password@host/database`, `postgresql://…` | `PostgresStore` | `postgres` |
///
/// # Errors
///
/// [`StoreError::InvalidConfiguration`] if the scheme is unknown or its feature is not compiled in,
/// else what the store reports when it opens.
pub async fn connect(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    Ok(AnyStore::connect(url).await?.store())
}

impl AnyStore {
    /// Opens the store that a URL names; see [`connect`].
    ///
    /// # Errors
    ///
    /// Those of [`connect`].
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("memory") => Ok(Self::Memory(Arc::new(MemoryStore::new()))),
            Some("sqlite") => sqlite(url).await,
            Some("postgres" | "postgresql") => postgres(url).await,
            scheme => Err(StoreError::InvalidConfiguration { reason: unknown(url, scheme) }),
        }
    }
}

/// Says what a URL begins with, and what may be meant. What follows the scheme may hold a password.
fn unknown(url: &str, scheme: Option<&str>) -> String {
    let begins = "a store URL begins with memory:, sqlite: or postgres:";
    let is_scheme =
        |text: &&str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+');
    match scheme.filter(is_scheme).filter(|scheme| scheme.len() > 1) {
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
        None if url.is_empty() || url.contains('@') => begins.to_owned(),
        None => format!("{begins}, not with {url:?}; did you mean \"sqlite:{url}\"?"),
    }
}

#[cfg(feature = "sqlite")]
async fn sqlite(url: &str) -> Result<AnyStore, StoreError> {
    Ok(AnyStore::Sqlite(Arc::new(crate::sqlite::SqliteStore::connect(url).await?)))
}

#[cfg(not(feature = "sqlite"))]
async fn sqlite(_url: &str) -> Result<AnyStore, StoreError> {
    Err(not_compiled_in("sqlite"))
}

#[cfg(feature = "postgres")]
async fn postgres(url: &str) -> Result<AnyStore, StoreError> {
    Ok(AnyStore::Postgres(Arc::new(crate::postgres::PostgresStore::connect(url).await?)))
}

#[cfg(not(feature = "postgres"))]
async fn postgres(_url: &str) -> Result<AnyStore, StoreError> {
    Err(not_compiled_in("postgres"))
}

#[cfg(not(all(feature = "sqlite", feature = "postgres")))]
fn not_compiled_in(feature: &str) -> StoreError {
    StoreError::InvalidConfiguration {
        reason: format!("aios-store was built without its feature `{feature}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_say_what_a_url_may_have_meant() {
        for (url, says) in [
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
            ("C:\\a.db", "did you mean \"sqlite:C:\\a.db\"?"),
            ("me:secret@h/d", "sqlite: or postgres:"),
            ("secret@h/d", "sqlite: or postgres:"),
            ("", "sqlite: or postgres:"),
        ] {
            let reason = unknown(url, url.split_once(':').map(|(scheme, _)| scheme));
            assert!(reason.contains(says) && !reason.contains("secret"), "{url}: {reason}");
        }
    }
}
