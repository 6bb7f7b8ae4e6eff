use std::sync::Arc;

use aios_core::store::{Store, StoreError};

#[cfg(feature = "postgres")]
use crate::postgres::PostgresStore;
#[cfg(feature = "sqlite")]
use crate::sqlite::SqliteStore;
use crate::{
    memory::MemoryStore,
    retention::{ExpiredEvents, Retention},
};

/// The store that a URL names, with what only adapters can do: [`expire_runs`](Self::expire_runs) and
/// [`compact`](Self::compact). Cloning is cheap.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), aios_core::store::StoreError> {
/// use std::time::Duration;
///
/// use aios_store::{AnyStore, Retention};
///
/// let opened = AnyStore::connect("memory://").await?;
/// let store = opened.store(); // for `RuntimeBuilder::store`
/// # drop(store);
/// let month = Duration::from_secs(30 * 24 * 3600);
/// let removed = opened.expire_runs(&Retention::new(month)).await?;
/// assert_eq!(removed, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AnyStore {
    /// `memory:`
    Memory(Arc<MemoryStore>),
    /// `sqlite:`
    #[cfg(feature = "sqlite")]
    Sqlite(Arc<SqliteStore>),
    /// `postgres:`
    #[cfg(feature = "postgres")]
    Postgres(Arc<PostgresStore>),
}

impl AnyStore {
    /// The store port.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory(store) => Arc::clone(store) as Arc<dyn Store>,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(store) => Arc::clone(store) as Arc<dyn Store>,
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => Arc::clone(store) as Arc<dyn Store>,
        }
    }

    /// Removes runs that ended long enough ago from the log and the read models, in small
    /// transactions, and returns how many. [`Retention`] says which ones stay.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidConfiguration`] if events are to be archived by a store in memory, which
    /// has no archive; else what the store reports. What was done until then stays done.
    ///
    /// # Cancel safety
    ///
    /// Each transaction happens or does not; go on by calling again.
    pub async fn expire_runs(&self, policy: &Retention) -> Result<u64, StoreError> {
        match self {
            Self::Memory(_) if policy.expired == ExpiredEvents::Archive => {
                Err(invalid("a store in memory has no archive; let the events be deleted"))
            }
            Self::Memory(store) => store.expire_runs(policy).await,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(store) => store.expire_runs(policy).await,
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => store.expire_runs(policy).await,
        }
    }

    /// Gives the space back that retention left in a SQLite file, and returns by how many bytes the
    /// database is smaller.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidConfiguration`] for stores without a file of their own; else what SQLite
    /// reports, and the database is then as it was.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call is finished all the same, or does not begin.
    pub async fn compact(&self) -> Result<u64, StoreError> {
        match self {
            Self::Memory(_) => Err(invalid("a store in memory has no file to compact")),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(store) => store.compact().await,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => {
                Err(invalid("PostgreSQL reuses free space by itself; only SQLite is compacted"))
            }
        }
    }
}

fn invalid(reason: &str) -> StoreError {
    StoreError::InvalidConfiguration { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn should_refuse_an_archive_and_a_file_in_memory() {
        let opened = AnyStore::connect("memory:").await.unwrap();
        let policy = Retention::new(Duration::ZERO);
        assert_eq!(opened.expire_runs(&policy).await.unwrap(), 0);
        let archive = policy.with_expired(ExpiredEvents::Archive);
        for error in [opened.expire_runs(&archive).await, opened.compact().await] {
            assert_eq!(error.unwrap_err().code(), "INVALID_STORE_CONFIGURATION");
        }
    }
}
