use aios_core::store::StoreError;

use super::{SqliteStore, writer::Writer};

impl SqliteStore {
    /// Gives the space back that retention left, and returns how many bytes the database is smaller.
    ///
    /// The whole database is written anew, so this takes as long as that and, for a while, as much
    /// space again. Appends wait meanwhile; reads do not.
    ///
    /// # Errors
    ///
    /// What SQLite reports, for example [`StoreError::Full`]; the database is then as it was.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call is finished all the same, or does not begin.
    pub async fn compact(&self) -> Result<u64, StoreError> {
        self.writer().call_alone(|writer| writer.compact()).await
    }
}

impl Writer<'_> {
    fn compact(&self) -> rusqlite::Result<u64> {
        let before = self.bytes()?;
        // The log of the last changes is emptied first, so that it need not hold the database twice.
        self.checkpoint()?;
        self.connection.execute_batch("VACUUM")?;
        self.checkpoint()?;
        Ok(before.saturating_sub(self.bytes()?))
    }

    /// Moves the write-ahead log into the database, as far as no reader needs it.
    fn checkpoint(&self) -> rusqlite::Result<()> {
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    fn bytes(&self) -> rusqlite::Result<u64> {
        let number =
            |pragma: &str| self.connection.query_row(pragma, [], |row| row.get::<_, i64>(0));
        let (pages, size) = (number("PRAGMA page_count")?, number("PRAGMA page_size")?);
        Ok(u64::try_from(pages.saturating_mul(size)).unwrap_or_default())
    }
}
