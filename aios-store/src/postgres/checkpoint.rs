//! Checkpoints of readers. Saving is idempotent and never moves a checkpoint back, so it is safe to
//! repeat it after a lost connection.

use aios_core::store::{Checkpoint, Checkpoints, StoreError};
use async_trait::async_trait;
use sqlx::{Row, postgres::PgRow};

use super::{PostgresStore, connection::Statement};

/// The checkpoint of a reader.
const LOAD: &str = "SELECT position FROM {schema}.checkpoints WHERE {primary} AND reader = $1";

/// Saves a checkpoint, unless a later one is saved.
const SAVE: &str = "\
    INSERT INTO {schema}.checkpoints AS c (reader, position) VALUES ($1, $2)
    ON CONFLICT (reader) DO UPDATE SET position = excluded.position
    WHERE c.position < excluded.position";

/// All checkpoints, in the order of the bytes of their names.
const LIST: &str =
    "SELECT reader, position FROM {schema}.checkpoints WHERE {primary} ORDER BY reader";

/// Deletes a checkpoint, and returns its row.
const DELETE: &str = "DELETE FROM {schema}.checkpoints WHERE reader = $1 RETURNING reader";

#[async_trait]
impl Checkpoints for PostgresStore {
    async fn load_checkpoint(&self, reader: &str) -> Result<u64, StoreError> {
        let database = &self.0.database;
        let operation = "load a checkpoint";
        let query = Statement::new(database.schema().fill(LOAD)).bind(reader);
        let rows = database.fetch_all(operation, query).await?;
        let Some(row) = rows.first() else { return Ok(0) };
        let position: i64 = row.try_get(0).map_err(|error| database.error(operation, error))?;
        Ok(u64::try_from(position).unwrap_or_default())
    }

    async fn save_checkpoint(&self, reader: &str, position: u64) -> Result<(), StoreError> {
        let database = &self.0.database;
        let position = i64::try_from(position).unwrap_or(i64::MAX);
        let query = Statement::new(database.schema().fill(SAVE)).bind(reader).bind(position);
        database.fetch_all("save a checkpoint", query).await.map(drop)
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        let database = &self.0.database;
        let operation = "list checkpoints";
        let query = Statement::new(database.schema().fill(LIST));
        let rows = database.fetch_all(operation, query).await?;
        let checkpoint = |row: &PgRow| {
            let position: i64 = row.try_get(1)?;
            let position = u64::try_from(position).unwrap_or_default();
            Ok(Checkpoint::new(row.try_get(0)?, position))
        };
        let read: Result<_, sqlx::Error> = rows.iter().map(checkpoint).collect();
        read.map_err(|error| database.error(operation, error))
    }

    async fn delete_checkpoint(&self, reader: &str) -> Result<bool, StoreError> {
        let database = &self.0.database;
        let query = Statement::new(database.schema().fill(DELETE)).bind(reader);
        let deleted = database.fetch_all("delete a checkpoint", query).await?;
        Ok(!deleted.is_empty())
    }
}
