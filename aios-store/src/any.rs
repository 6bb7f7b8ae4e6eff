//! A store behind its concrete adapter.
//!
//! `Arc<dyn Store>` is what a runtime needs, but it hides the operations that are not part of the
//! port because not every store can do them: retention with an archive, and compaction of a file.
//! The CLI and the Python bindings open stores by URL and offer these operations, so they keep an
//! [`AnyStore`] and pass `store()` on to the runtime.
//!
//! Each operation is one `match` without a wildcard arm. A new adapter does not compile until every
//! operation says what it does there. An operation that an adapter can't do fails with
//! `InvalidConfiguration`; it never succeeds without an effect.

use std::sync::Arc;

use aios_core::store::{Expirable, Store, StoreError};

#[cfg(feature = "postgres")]
use crate::postgres::PostgresStore;
#[cfg(feature = "sqlite")]
use crate::sqlite::SqliteStore;
use crate::{
    memory::MemoryStore,
    retention::{ExpiredEvents, Retention},
};

/// A store opened by URL, with the operations that the store port does not have:
/// [`expire_runs`](Self::expire_runs), [`expire_streams`](Self::expire_streams) and
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
/// assert_eq!(store.head().await?, 0);
///
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
    /// Returns the store as the port that runtimes use.
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

    /// Removes finished runs that are older than the policy allows from the log and the read models,
    /// in small transactions, and returns the number of removed runs. [`Retention`] lists the runs that
    /// are kept.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidConfiguration`] if the policy archives events and the store is in memory,
    /// which has no archive. Otherwise the error that the store reports. Transactions that committed
    /// before the error stay committed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: each transaction commits or rolls back as a whole. Call again to continue.
    pub async fn expire_runs(&self, policy: &Retention) -> Result<u64, StoreError> {
        match self {
            Self::Memory(_) if policy.expired == ExpiredEvents::Archive => {
                Err(invalid("a store in memory has no archive; use ExpiredEvents::Delete"))
            }
            Self::Memory(store) => store.expire_runs(policy).await,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(store) => store.expire_runs(policy).await,
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => store.expire_runs(policy).await,
        }
    }

    /// Removes streams that are needed for a time only and whose last event is older than the policy
    /// allows, and returns their number; see [`Retention`]. They are deleted, not archived.
    ///
    /// # Errors
    ///
    /// The error that the store reports. Transactions that committed before the error stay committed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: each transaction commits or rolls back as a whole. Call again to continue.
    pub async fn expire_streams(
        &self,
        what: Expirable,
        policy: &Retention,
    ) -> Result<u64, StoreError> {
        match self {
            Self::Memory(store) => store.expire_streams(what, policy).await,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(store) => store.expire_streams(what, policy).await,
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => store.expire_streams(what, policy).await,
        }
    }

    /// Returns the free space of a SQLite file to the operating system, and returns the number of bytes
    /// by which the database shrank.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidConfiguration`] if the store is not SQLite. Otherwise the error that SQLite
    /// reports; the database is then unchanged.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop a compaction that has been queued: it runs to completion, and
    /// its result is discarded.
    pub async fn compact(&self) -> Result<u64, StoreError> {
        match self {
            Self::Memory(_) => Err(invalid("a store in memory has no file to compact")),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(store) => store.compact().await,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => {
                Err(invalid("PostgreSQL reuses free space by itself; only SQLite can be compacted"))
            }
        }
    }
}

/// The error for an operation that the opened adapter does not have.
fn invalid(reason: &str) -> StoreError {
    StoreError::InvalidConfiguration { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn should_refuse_to_archive_or_compact_in_memory() {
        let opened = AnyStore::connect("memory:").await.unwrap();
        let policy = Retention::new(Duration::ZERO);
        assert_eq!(opened.expire_runs(&policy).await.unwrap(), 0);
        let archive = policy.with_expired(ExpiredEvents::Archive);
        for error in [opened.expire_runs(&archive).await, opened.compact().await] {
            assert_eq!(error.unwrap_err().code(), "INVALID_STORE_CONFIGURATION");
        }
    }
}
