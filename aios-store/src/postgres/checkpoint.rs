//! Checkpoints of readers. Saving is idempotent and never moves a checkpoint back, so it is safe to
//! repeat it after a lost connection.
//!
//! A position is neither loaded nor saved if the log lacks the last event that this process knows; see
//! `read::known`. So no checkpoint of a reader that has passed lost events is saved.
//!
//! The names of readers are escaped, because a text of PostgreSQL can't have NUL.

use aios_core::store::{Checkpoint, Checkpoints, StoreError};
use async_trait::async_trait;
use sqlx::{Row, postgres::PgRow};

use super::{
    PostgresStore,
    connection::Statement,
    nul_escape::{escape, unescape},
    read::{LAST_EVENT, LastEvent, fetch_known},
};

/// The last event of the log, which no checkpoint is after, and the checkpoint of a reader.
const LOAD: &str = "\
    SELECT {last}, (SELECT position FROM {schema}.checkpoints WHERE reader = $3) WHERE {known}";

/// Saves a checkpoint, unless a later one is saved.
const SAVE: &str = "\
    INSERT INTO {schema}.checkpoints AS c (reader, position)
    SELECT $3, $4 WHERE {known}
    ON CONFLICT (reader) DO UPDATE SET position = excluded.position
    WHERE c.position < excluded.position";

/// All checkpoints.
const LIST: &str = "SELECT reader, position FROM {schema}.checkpoints WHERE {primary}";

/// Deletes a checkpoint, and returns its row.
const DELETE: &str = "DELETE FROM {schema}.checkpoints WHERE reader = $1 RETURNING reader";

#[async_trait]
impl Checkpoints for PostgresStore {
    async fn load_checkpoint(&self, reader: &str) -> Result<u64, StoreError> {
        let database = &self.0.database;
        let operation = "load a checkpoint";
        let sql = database.schema().fill(&LOAD.replace("{last}", LAST_EVENT));
        let bind = |query: Statement| query.bind(escape(reader.to_owned()));
        let rows = fetch_known(database, &self.0.head, operation, sql, bind).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound);
        let read = row.and_then(|row| Ok((LastEvent::read(row)?, row.try_get(2)?)));
        let (last, position): (_, Option<i64>) =
            read.map_err(|error| database.error(operation, error))?;
        self.0.head.advance(last);
        Ok(position.and_then(|position| u64::try_from(position).ok()).unwrap_or_default())
    }

    async fn save_checkpoint(&self, reader: &str, position: u64) -> Result<(), StoreError> {
        let database = &self.0.database;
        let position = i64::try_from(position).unwrap_or(i64::MAX);
        let sql = database.schema().fill(SAVE);
        let bind = |query: Statement| query.bind(escape(reader.to_owned())).bind(position);
        fetch_known(database, &self.0.head, "save a checkpoint", sql, bind).await.map(drop)
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        let database = &self.0.database;
        let operation = "list checkpoints";
        let query = Statement::new(database.schema().fill(LIST));
        let rows = database.fetch_all(operation, query).await?;
        let checkpoint = |row: &PgRow| {
            let position: i64 = row.try_get(1)?;
            let position = u64::try_from(position).unwrap_or_default();
            Ok(Checkpoint::new(unescape(row.try_get(0)?), position))
        };
        let read: Result<Vec<_>, sqlx::Error> = rows.iter().map(checkpoint).collect();
        let mut read = read.map_err(|error| database.error(operation, error))?;
        // Not in the order of the escaped names.
        read.sort_unstable_by(|one, other| one.reader.cmp(&other.reader));
        Ok(read)
    }

    async fn delete_checkpoint(&self, reader: &str) -> Result<bool, StoreError> {
        let database = &self.0.database;
        let query = Statement::new(database.schema().fill(DELETE));
        let query = query.bind(escape(reader.to_owned()));
        let deleted = database.fetch_all("delete a checkpoint", query).await?;
        Ok(!deleted.is_empty())
    }
}
