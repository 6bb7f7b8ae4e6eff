//! The sequences that number streams, event types and event sources.
//!
//! Logical replication copies rows, and leaves the sequences of the subscriber where they are. After a
//! cut-over, each new name would get a number that is taken. So the sequences are compared with their tables
//! when a store is opened, and those that are behind are moved to the highest number.

use aios_core::store::StoreError;
use sqlx::{Executor, PgConnection, Row};
use tracing::warn;

use super::{error::is_forbidden, schema::Schema};

/// The tables whose ids come from a sequence.
const TABLES: [&str; 3] = ["streams", "event_types", "event_sources"];

/// Moves the sequences that are behind their tables. A number that is assigned at the same time does not make a
/// sequence look behind: it is taken from the sequence before its row exists.
pub(super) async fn correct_sequences(
    connection: &mut PgConnection,
    schema: &Schema,
) -> sqlx::Result<()> {
    let is_behind = match are_behind(connection, schema).await {
        // Appends do not need the privilege to read a sequence.
        Err(error) if is_forbidden(&error) => return Ok(()),
        is_behind => is_behind?,
    };
    if !is_behind {
        return Ok(());
    }
    match move_sequences(connection, schema).await {
        Err(error) if is_forbidden(&error) => {
            let reason = format!(
                "the sequences of the schema {} are behind their tables, as after a logical replication, \
                 which does not copy them; connect once as the owner of the schema, which corrects them",
                schema.name()
            );
            Err(sqlx::Error::Encode(StoreError::InvalidConfiguration { reason }.into()))
        }
        moved => {
            moved?;
            warn!(
                schema = schema.name(),
                "the sequences were behind their tables, as after a logical replication; they are corrected"
            );
            Ok(())
        }
    }
}

/// Whether one of the sequences is behind its table.
async fn are_behind(connection: &mut PgConnection, schema: &Schema) -> sqlx::Result<bool> {
    let sql = format!("SELECT ({})::text", TABLES.map(condition).join(" OR "));
    let row = connection.fetch_one(&*schema.fill(&sql)).await?;
    Ok(row.try_get::<String, _>(0)? == "true")
}

/// Moves them in one transaction under the append lock, so that only one process does.
async fn move_sequences(connection: &mut PgConnection, schema: &Schema) -> sqlx::Result<()> {
    let moves = TABLES.map(|table| {
        format!(
            "SELECT setval('{{schema}}.{table}_id_seq', (SELECT max(id) FROM {{schema}}.{table})) \
             WHERE {}",
            condition(table)
        )
    });
    let sql = format!("SELECT pg_advisory_xact_lock({{lock}}); {}", moves.join("; "));
    connection.execute(&*schema.fill(&sql)).await.map(drop)
}

/// The condition that the sequence of a table is behind it.
fn condition(table: &str) -> String {
    format!(
        "(SELECT coalesce(max(id), 0) FROM {{schema}}.{table}) > \
         (SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END \
          FROM {{schema}}.{table}_id_seq)"
    )
}
