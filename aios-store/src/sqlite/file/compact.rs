//! Compaction of the file.
//!
//! `VACUUM` can't run inside a transaction, so the job runs alone: the writer ends the batch before
//! it and begins none until it is done.

use aios_core::store::StoreError;

use crate::sqlite::{SqliteStore, writer::Writer};

impl SqliteStore {
    /// Returns the free space of the file to the operating system, and returns the number of bytes by
    /// which the database shrank.
    ///
    /// This rewrites the whole database, so it takes time and, temporarily, disk space in proportion to
    /// the size of the database. Appends wait until it is done. Reads do not wait.
    ///
    /// Engines can't renew their leases in the meantime. If it takes longer than about half of their
    /// `lease_time`, they stop their runs, and steps that were running begin again afterwards. Compact a large
    /// database while nothing runs, or give the engines a longer lease time.
    ///
    /// # Errors
    ///
    /// The error that SQLite reports, for example [`StoreError::Full`]. The database is then unchanged.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop a compaction that has been queued: it runs to completion, and
    /// its result is discarded.
    pub async fn compact(&self) -> Result<u64, StoreError> {
        self.writer().call_alone(|writer| writer.compact()).await
    }
}

impl Writer<'_> {
    /// Rewrites the database, and returns by how many bytes it shrank.
    fn compact(&self) -> rusqlite::Result<u64> {
        let before = self.bytes()?;
        // `VACUUM` writes the new database to the write-ahead log. Emptying the log first keeps it from
        // holding older changes at the same time.
        self.checkpoint()?;
        self.connection.execute_batch("VACUUM")?;
        self.checkpoint()?;
        Ok(before.saturating_sub(self.bytes()?))
    }

    /// Moves the write-ahead log into the database and truncates it, as far as no reader needs it.
    fn checkpoint(&self) -> rusqlite::Result<()> {
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    /// The size of the database, without the write-ahead log.
    fn bytes(&self) -> rusqlite::Result<u64> {
        let pages = self.pragma("page_count")?;
        let page_size = self.pragma("page_size")?;
        Ok(u64::try_from(pages.saturating_mul(page_size)).unwrap_or_default())
    }

    /// Reads a number of SQLite about the database.
    fn pragma(&self, name: &str) -> rusqlite::Result<i64> {
        self.connection.pragma_query_value(None, name, |row| row.get(0))
    }
}
