//! The hand-written writer that is the ceiling of the SQLite benchmarks.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use aios_core::store::{Append, StreamId};
use aios_store::sqlite::{SqliteOptions, SqliteStore};
use rusqlite::{Connection, Statement, params};
use tempfile::TempDir;

/// Opens a store in a file, with the options that users get by default.
pub async fn open(path: &Path) -> SqliteStore {
    SqliteStore::connect_with(SqliteOptions::file(path)).await.unwrap()
}

/// A connection to a fresh database with the store's own tables and settings.
#[must_use]
pub fn connect(path: &Path) -> Connection {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    drop(runtime.block_on(open(path)));
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(
            "PRAGMA synchronous = FULL; PRAGMA cache_size = -16384; PRAGMA foreign_keys = OFF;
             INSERT INTO event_types (id, name) VALUES (1, 'workflows.deploy.step_completed');
             INSERT INTO event_sources (id, name) VALUES (1, 'engine-1');",
        )
        .unwrap();
    connection
}

/// A hand-written writer that stores only the rows.
#[derive(Debug)]
pub struct Bare<'c> {
    begin: Statement<'c>,
    commit: Statement<'c>,
    insert_stream: Statement<'c>,
    insert_event: Statement<'c>,
    streams: HashMap<StreamId, (i64, i64)>,
    position: i64,
}

impl<'c> Bare<'c> {
    /// Prepares its statements.
    #[must_use]
    pub fn new(connection: &'c Connection) -> Self {
        let insert_event = "
            INSERT INTO events (position, id, stream_id, version, type_id, source_id, created_at,
                                external_id, metadata, payload)
            VALUES (?1, ?2, ?3, ?4, 1, 1, ?5, NULL, NULL, ?6)";
        let insert_stream = "INSERT INTO streams (name) VALUES (?1)";
        Self {
            begin: connection.prepare("BEGIN IMMEDIATE").unwrap(),
            commit: connection.prepare("COMMIT").unwrap(),
            insert_stream: connection.prepare(insert_stream).unwrap(),
            insert_event: connection.prepare(insert_event).unwrap(),
            streams: HashMap::new(),
            position: 0,
        }
    }

    /// Commits rows in one transaction.
    pub fn transaction<'a>(&mut self, rows: impl IntoIterator<Item = &'a Append>) {
        self.begin.execute([]).unwrap();
        rows.into_iter().for_each(|append| self.insert(append));
        self.commit.execute([]).unwrap();
    }

    fn insert(&mut self, append: &Append) {
        let event = &append.events[0];
        if !self.streams.contains_key(&append.stream) {
            let id = self.insert_stream.insert([append.stream.as_str()]).unwrap();
            self.streams.insert(append.stream.clone(), (id, 0));
        }
        let (stream, version) = self.streams.get_mut(&append.stream).unwrap();
        (*version, self.position) = (*version + 1, self.position + 1);
        let key = event.id.key();
        let row = params![
            self.position,
            &key.as_bytes()[..],
            *stream,
            *version,
            event.timestamp.as_micros(),
            event.payload.as_str(),
        ];
        self.insert_event.execute(row).unwrap();
    }
}

/// A folder that is removed with the benchmark, and a database in it.
#[derive(Debug)]
pub struct Place {
    /// The database.
    pub path: PathBuf,
    _folder: TempDir,
}

impl Place {
    /// A new database next to the build, which is on a real disk.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "it creates a folder")]
    pub fn new() -> Self {
        let folder = TempDir::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        Self { path: folder.path().join("bench.db"), _folder: folder }
    }
}
