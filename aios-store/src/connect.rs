use std::sync::Arc;

use aios_core::store::{Store, StoreError};

use crate::memory::MemoryStore;

/// Opens the store that a URL names.
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
    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("memory") => Ok(Arc::new(MemoryStore::new())),
        Some("sqlite") => sqlite(url).await,
        Some("postgres" | "postgresql") => postgres(url).await,
        _ => Err(StoreError::InvalidConfiguration {
            reason: "a store URL begins with memory:, sqlite: or postgres:".to_owned(),
        }),
    }
}

#[cfg(feature = "sqlite")]
async fn sqlite(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(crate::sqlite::SqliteStore::connect(url).await?))
}

#[cfg(not(feature = "sqlite"))]
async fn sqlite(_url: &str) -> Result<Arc<dyn Store>, StoreError> {
    Err(not_compiled_in("sqlite"))
}

#[cfg(feature = "postgres")]
async fn postgres(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(crate::postgres::PostgresStore::connect(url).await?))
}

#[cfg(not(feature = "postgres"))]
async fn postgres(_url: &str) -> Result<Arc<dyn Store>, StoreError> {
    Err(not_compiled_in("postgres"))
}

#[cfg(not(all(feature = "sqlite", feature = "postgres")))]
fn not_compiled_in(feature: &str) -> StoreError {
    StoreError::InvalidConfiguration {
        reason: format!("aios-store was built without its feature `{feature}`"),
    }
}
