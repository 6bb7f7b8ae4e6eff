//! Connections with their settings, and the migrations.
//!
//! All migrations run in one immediate transaction: a database has the old schema or the new one,
//! and never a part. A migration that was released is never changed; what it got wrong, a later one
//! repairs. A database with a newer schema is refused, because this version does not know what its
//! rows mean.

use std::path::Path;

use aios_core::{event::Timestamp, store::StoreError};
use rusqlite::{Connection, OpenFlags, TransactionBehavior, config::DbConfig};

use super::{error::store_error, file::record_name, options::SqliteOptions};
use crate::schema_version::SchemaVersion;

/// All migrations in order. The version of a migration is its number in this list, from 1.
const MIGRATIONS: [(&str, &str); 12] = [
    ("event_log", include_str!("../../migrations/sqlite/0001_event_log.sql")),
    ("read_models", include_str!("../../migrations/sqlite/0002_read_models.sql")),
    ("retention", include_str!("../../migrations/sqlite/0003_retention.sql")),
    ("waits", include_str!("../../migrations/sqlite/0004_waits.sql")),
    ("usual_metadata", include_str!("../../migrations/sqlite/0005_usual_metadata.sql")),
    ("status_indexes", include_str!("../../migrations/sqlite/0006_status_indexes.sql")),
    ("ended_runs", include_str!("../../migrations/sqlite/0007_ended_runs.sql")),
    ("lists", include_str!("../../migrations/sqlite/0008_lists.sql")),
    ("rare_statuses", include_str!("../../migrations/sqlite/0009_rare_statuses.sql")),
    ("chains", include_str!("../../migrations/sqlite/0010_chains.sql")),
    ("opened_as", include_str!("../../migrations/sqlite/0011_opened_as.sql")),
    ("ended_pages", include_str!("../../migrations/sqlite/0012_ended_pages.sql")),
];

/// Page cache of the writer, in KiB.
const WRITER_CACHE: i64 = 16 * 1024;

/// Page cache of each reader, in KiB.
const READER_CACHE: i64 = 2 * 1024;

/// How long to wait for SQLite's own locks, which a program without our lock may hold, such as a shell.
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Number of prepared statements that each connection caches.
const STATEMENTS: usize = 64;

/// Size of a database page, in bytes.
const PAGE_SIZE: u32 = 4096;

/// Size of the write-ahead log, in bytes, to which it is shortened after it was written back. SQLite writes it
/// back from 4 MB.
const LOG_SIZE: u32 = 8 * 1024 * 1024;

/// Opens the writing connection and migrates the schema.
pub(super) fn open_writer(
    options: &SqliteOptions,
    path: Option<&Path>,
) -> Result<Connection, StoreError> {
    let database = options.database();
    let fail = |error| store_error("open the database", &database, error);
    let mut connection =
        path.map_or_else(Connection::open_in_memory, Connection::open).map_err(fail)?;
    configure_writer(&connection, options).map_err(fail)?;
    migrate(&mut connection, &database, options.clock.now())?;
    if let Some(path) = path {
        record_name(&connection, path).map_err(fail)?;
    }
    Ok(connection)
}

/// Opens a read-only connection.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    configure(&connection, READER_CACHE)?;
    Ok(connection)
}

/// Settings of every connection.
fn configure(connection: &Connection, cache_kibibytes: i64) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Otherwise SQLite plans by the values of some parameters, such as a limit, and compiles a cached
    // statement again each time they are bound.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // SQLite takes a negative number as KiB, and a positive one as pages.
    connection.pragma_update(None, "cache_size", -cache_kibibytes)
}

/// Settings of the writing connection. The page size comes before the journal mode, because it
/// can't be changed in WAL mode.
fn configure_writer(connection: &Connection, options: &SqliteOptions) -> rusqlite::Result<()> {
    configure(connection, WRITER_CACHE)?;
    // The writer takes every id that it refers to from the referenced table, so checks cannot fail.
    connection.pragma_update(None, "foreign_keys", false)?;
    connection.pragma_update(None, "page_size", PAGE_SIZE)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update_and_check(None, "journal_size_limit", LOG_SIZE, |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", options.synchronous.as_str())?;
    if let Some(bytes) = options.max_database_bytes {
        let pages = i64::try_from(bytes / u64::from(PAGE_SIZE)).unwrap_or(i64::MAX).max(1);
        connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
    }
    Ok(())
}

/// Applies the migrations that the database does not have.
fn migrate(connection: &mut Connection, database: &str, now: Timestamp) -> Result<(), StoreError> {
    let fail = |error| store_error("migrate the database", database, error);
    let known = known();
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
    let found = version(&transaction).map_err(fail)?;
    if found > known {
        return Err(StoreError::NewerSchema { database: database.to_owned(), found, known });
    }
    for (version, (name, sql)) in (1_u32..).zip(MIGRATIONS) {
        if version > found {
            transaction.execute_batch(sql).map_err(fail)?;
            record(&transaction, version, name, now).map_err(fail)?;
        }
    }
    transaction.commit().map_err(fail)
}

/// The versions of an existing database and of this version of aios. Changes nothing.
pub(super) fn versions(path: &Path) -> rusqlite::Result<SchemaVersion> {
    let connection = open_reader(path)?;
    let table = "SELECT count(*) FROM sqlite_schema WHERE name = 'aios_migrations'";
    let has_table: bool = connection.query_row(table, [], |row| row.get(0))?;
    let sql = "SELECT coalesce(max(version), 0) FROM aios_migrations";
    let found = has_table.then(|| connection.query_row(sql, [], |row| row.get(0))).transpose()?;
    Ok(SchemaVersion { found: found.unwrap_or_default(), known: known() })
}

/// The version that this version of aios needs.
pub(super) fn known() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

/// The version of the schema; 0 for a new database. Creates the table of migrations.
fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS aios_migrations (
             version INTEGER PRIMARY KEY,
             name TEXT NOT NULL,
             created_at INTEGER NOT NULL
         ) STRICT",
    )?;
    let sql = "SELECT coalesce(max(version), 0) FROM aios_migrations";
    connection.query_row(sql, [], |row| row.get(0))
}

/// Notes a migration, in the transaction that applies it.
fn record(
    connection: &Connection,
    version: u32,
    name: &str,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO aios_migrations (version, name, created_at) VALUES (?1, ?2, ?3)";
    connection.execute(sql, (version, name, now.as_micros())).map(drop)
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::{
        super::{options::Synchronous, read::LOG_PAGE},
        *,
    };

    #[test]
    fn should_compile_a_cached_statement_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("aios.db");
        let writer = open_writer(&SqliteOptions::file(&path), Some(&path)).unwrap();
        for connection in [writer, open_reader(&path).unwrap()] {
            let mut statement = connection.prepare_cached(LOG_PAGE).unwrap();
            for limit in 1..=3 {
                assert!(!statement.exists((0, limit)).unwrap());
            }
            assert_eq!(statement.get_status(StatementStatus::RePrepare), 0);
        }
    }

    /// `PRAGMA synchronous` returns 2 for `FULL`, which syncs at every commit, and 1 for `NORMAL`.
    #[test]
    fn should_sync_every_commit_by_default() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("aios.db");
        let options = SqliteOptions::file(&path);
        for (options, level) in
            [(options.clone(), 2), (options.with_synchronous(Synchronous::Normal), 1)]
        {
            let connection = open_writer(&options, Some(&path)).unwrap();
            let synchronous: i64 =
                connection.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap();
            assert_eq!(synchronous, level);
            let journal: String =
                connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
            assert_eq!(journal, "wal");
        }
    }
}
