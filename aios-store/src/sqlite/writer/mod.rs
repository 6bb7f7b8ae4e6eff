//! The tools of the writer thread: the connection, its prepared statements, and copies of what
//! only this connection changes.
//!
//! A `Writer` borrows the connection, because the prepared statements do. When the database has to
//! be opened again, the thread drops the writer and makes a new one.

mod append;
mod apply;
mod log;
mod queue;
mod reply;
mod row;
mod thread;

use std::path::Path;

use aios_core::store::StoreError;
use rusqlite::{Connection, Statement};
use tokio::sync::watch;

use self::{apply::Changes, log::Log};
use super::{error::store_error, file::FileWatch, lease::lease_rows, options::SqliteOptions};
use crate::leases::LeaseTable;

pub(crate) use self::{
    append::AppendJob,
    apply::{push, value},
    thread::WriterHandle,
};

/// The writing connection, and copies of the data that only this connection changes.
pub(super) struct Writer<'c> {
    pub(super) connection: &'c Connection,
    /// The head and the ends of streams.
    pub(super) log: Log<'c>,
    /// Changes the rows of read models.
    pub(super) changes: Changes<'c>,
    /// All leases; checked by every append under a fence.
    pub(super) leases: LeaseTable,
    pub(super) begin: Statement<'c>,
    pub(super) commit: Statement<'c>,
    /// Wakes the readers of the log.
    head: watch::Sender<u64>,
    pub(super) database: String,
    /// Notices that the file was deleted, moved or replaced.
    pub(super) files: FileWatch,
    /// Whether the copies may differ from the database, because a transaction was rolled back.
    pub(super) stale: bool,
}

impl<'c> Writer<'c> {
    /// Prepares the statements and reads the copies. The first writer of a store expires all
    /// leases; one that opens the database again after its log was deleted does not, because the
    /// owners of this process are alive.
    pub(super) fn open(
        connection: &'c Connection,
        options: &SqliteOptions,
        path: Option<&Path>,
        is_first: bool,
        head: &watch::Sender<u64>,
    ) -> Result<Self, StoreError> {
        let database = options.database();
        let fail = |error| store_error("open the database", &database, error);
        if is_first {
            lease_rows::expire_all(connection).map_err(fail)?;
        }
        let mut writer = Self {
            connection,
            log: Log::new(connection).map_err(fail)?,
            changes: Changes::new(connection),
            leases: LeaseTable::default(),
            begin: connection.prepare("BEGIN IMMEDIATE").map_err(fail)?,
            commit: connection.prepare("COMMIT").map_err(fail)?,
            head: head.clone(),
            files: FileWatch::new(path),
            database: database.clone(),
            stale: true,
        };
        writer.reload_if_stale().map_err(fail)?;
        writer.publish_head();
        Ok(writer)
    }

    /// Checks that the commit will be found when the database is opened again.
    ///
    /// A commit in a deleted write-ahead log would be lost, so the log is moved into the database first.
    /// This happens when another copy of SQLite in this process opens and closes the same database: it
    /// believes to be the last user and deletes the log.
    pub(super) fn check_files(&mut self) -> Result<(), StoreError> {
        self.files.check(&self.database)?;
        if !self.files.has_lost_the_log() {
            return Ok(());
        }
        let fail = |error| store_error("commit", &self.database, error);
        let is_busy: bool = self
            .connection
            .query_row("PRAGMA wal_checkpoint(FULL)", [], |row| row.get(0))
            .map_err(fail)?;
        match is_busy {
            true => Err(StoreError::Gone { database: self.database.clone() }),
            false => Ok(()),
        }
    }

    /// Undoes the transaction, if there is one, and marks the copies as stale.
    pub(super) fn roll_back(&mut self) {
        self.stale = true;
        if !self.connection.is_autocommit() {
            // If the rollback fails, the next `BEGIN` fails and reports it to its callers.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }

    /// Reads the copies from the database, if a rollback has made them invalid.
    pub(super) fn reload_if_stale(&mut self) -> rusqlite::Result<()> {
        if self.stale {
            self.log.reload()?;
            self.leases = lease_rows::load(self.connection)?;
            self.stale = false;
        }
        Ok(())
    }

    /// Wakes the readers of the log, if it has grown. Called only after a commit.
    pub(super) fn publish_head(&self) {
        let head = self.log.head.cast_unsigned();
        self.head.send_if_modified(|published| std::mem::replace(published, head) != head);
    }
}
