//! Checkpoints of readers, in a table of their own.
//!
//! They are read from the pool and written by the writer, in the same transaction as the appends
//! that are queued at that time. The condition of the update keeps a checkpoint from moving back.

use aios_core::store::{Checkpoint, Checkpoints, StoreError};
use async_trait::async_trait;
use rusqlite::OptionalExtension;

use super::SqliteStore;

#[async_trait]
impl Checkpoints for SqliteStore {
    async fn load_checkpoint(&self, reader: &str) -> Result<u64, StoreError> {
        let reader = reader.to_owned();
        self.read("load a checkpoint", move |connection| {
            let sql = "SELECT position FROM checkpoints WHERE reader = ?1";
            let mut find = connection.prepare_cached(sql)?;
            let saved: Option<i64> = find.query_row([&reader], |row| row.get(0)).optional()?;
            Ok(saved.unwrap_or_default().cast_unsigned())
        })
        .await
    }

    async fn save_checkpoint(&self, reader: &str, position: u64) -> Result<(), StoreError> {
        let reader = reader.to_owned();
        let position = i64::try_from(position).unwrap_or(i64::MAX);
        self.writer()
            .call(move |writer| {
                let sql = "INSERT INTO checkpoints (reader, position) VALUES (?1, ?2)
                           ON CONFLICT (reader) DO UPDATE SET position = excluded.position
                           WHERE excluded.position > position";
                writer.connection.prepare_cached(sql)?.execute((&reader, position)).map(drop)
            })
            .await
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        self.read("list checkpoints", |connection| {
            let sql = "SELECT reader, position FROM checkpoints ORDER BY reader";
            let mut list = connection.prepare_cached(sql)?;
            let checkpoint = |row: &rusqlite::Row<'_>| {
                let position: i64 = row.get(1)?;
                Ok(Checkpoint::new(row.get(0)?, position.cast_unsigned()))
            };
            list.query_map([], checkpoint)?.collect()
        })
        .await
    }

    async fn delete_checkpoint(&self, reader: &str) -> Result<bool, StoreError> {
        let reader = reader.to_owned();
        self.writer()
            .call(move |writer| {
                let sql = "DELETE FROM checkpoints WHERE reader = ?1";
                let deleted = writer.connection.prepare_cached(sql)?.execute([&reader])?;
                Ok(deleted > 0)
            })
            .await
    }
}
