//! The rebuild of the read models from the log.
//!
//! It runs in one transaction under the append lock. Appends of all processes wait, because an
//! append that changed a row in between would be overwritten or lost. If the process dies, the server
//! rolls back, and the old rows stay.
//!
//! The time limit applies to each statement and not to the whole. To delete the rows of a large table takes
//! longer than other statements, so it has the limit of migrations.
//!
//! The changes of a page are sent in parts, because one value of the type `jsonb` has at most 256 MiB.

use aios_core::{
    projection::Table,
    store::{PageSize, RecordedEvent, StoreError},
};
use sqlx::{Connection, Executor, PgConnection};

use crate::postgres::{
    append::ChangeSets,
    connection::{Database, Statement},
    read,
    schema::{MIGRATION_LIMIT, UNLIMITED},
};

/// The highest number of events in a page.
const PAGE: usize = 1000;

/// Changes are sent once they have this many bytes.
const CHANGES: usize = 8 * 1024 * 1024;

/// Empties the read models and derives them from the log again, in one transaction that holds the
/// append lock. Readers see the old rows until the commit.
pub(crate) async fn rebuild(database: &Database) -> Result<(), StoreError> {
    let mut connection = database.acquire().await?;
    rebuild_on(database, &mut connection).await?;
    connection.release();
    Ok(())
}

/// Runs the transaction on a connection.
async fn rebuild_on(database: &Database, connection: &mut PgConnection) -> Result<(), StoreError> {
    let limit = database.limit();
    let begin = format!(
        "{}; {UNLIMITED}; SET LOCAL statement_timeout = {}",
        database.begin(),
        MIGRATION_LIMIT.as_millis()
    );
    let begin = connection.begin_with(begin);
    let mut transaction = database.bounded(OPERATION, limit, begin).await?;
    empty(database, &mut transaction).await?;
    let mut after = 0;
    let mut size = PageSize::new(PAGE);
    loop {
        let page = page(database, &mut transaction, after, size.events());
        let page = database.bounded(OPERATION, limit, page);
        let events = read::recorded(database, &page.await?)?;
        let Some(last) = events.last() else { break };
        after = i64::try_from(last.position).unwrap_or(i64::MAX);
        size.adapt(events.len(), &events);
        apply(database, &mut transaction, &events).await?;
    }
    database.bounded(OPERATION, limit, transaction.commit()).await
}

/// The name in errors.
const OPERATION: &str = "rebuild the read models";

/// Takes the append lock and deletes all rows. Not `TRUNCATE`, which would lock out readers.
async fn empty(database: &Database, connection: &mut PgConnection) -> Result<(), StoreError> {
    let schema = database.schema();
    let lock = schema.fill("SELECT pg_advisory_xact_lock({lock})");
    database.bounded(OPERATION, database.limit(), connection.execute(&*lock)).await?;
    for table in Table::ALL {
        let delete = schema.fill(&format!("DELETE FROM {{schema}}.{}", table.name()));
        database.bounded(OPERATION, MIGRATION_LIMIT, connection.execute(&*delete)).await?;
    }
    Ok(())
}

/// Reads a page of the log inside the transaction.
async fn page(
    database: &Database,
    connection: &mut PgConnection,
    after: i64,
    events: usize,
) -> sqlx::Result<Vec<sqlx::postgres::PgRow>> {
    read::LastEvent::default()
        .statement(read::log_page(database.schema()))
        .bind(after)
        .bind(i64::try_from(events).unwrap_or(i64::MAX))
        .persistent(database.pooler().prepares())
        .fetch_all(connection)
        .await
}

/// Applies the changes of a page, in parts.
async fn apply(
    database: &Database,
    connection: &mut PgConnection,
    events: &[RecordedEvent],
) -> Result<(), StoreError> {
    let mut sets = ChangeSets::default();
    for recorded in events {
        sets.add_recorded(recorded);
        if sets.weight() >= CHANGES {
            let sets = std::mem::take(&mut sets);
            database
                .bounded(OPERATION, database.limit(), send(database, connection, &sets))
                .await?;
        }
    }
    database.bounded(OPERATION, database.limit(), send(database, connection, &sets)).await
}

/// Sends changes. Their events have positions, so the function gets neither a head nor a list of accepted
/// events.
async fn send(
    database: &Database,
    connection: &mut PgConnection,
    sets: &ChangeSets,
) -> sqlx::Result<()> {
    let sets = sets.to_json().map_err(|error| sqlx::Error::Encode(error.into()))?;
    let Some(sets) = sets else { return Ok(()) };
    let sql = database.schema().fill("SELECT {schema}.apply_changes($1, NULL, NULL)");
    let statement = Statement::new(sql).bind(sets).persistent(database.pooler().prepares());
    statement.fetch_all(connection).await.map(drop)
}
