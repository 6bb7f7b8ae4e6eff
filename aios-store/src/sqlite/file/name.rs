//! The path by which a database was opened last.
//!
//! SQLite names the write-ahead log after the path, and not after the file. After a crash, the log of
//! a file with several hard links is found through one of them only. Opened through another one, the
//! database would lack the commits of the log, and later commits would make the log useless.
//!
//! So the path is recorded in the database, before events are appended through it. When the
//! file is opened by another path, both logs have to be empty, as they are after a clean end. A file
//! that was moved or copied has no other path, and is not checked further.

use std::{fs, path::Path};

use aios_core::store::StoreError;
use rusqlite::Connection;

/// Refuses a path of a database, without symbolic links, if the file has a write-ahead log that belongs to
/// another of its paths.
#[cfg(unix)]
pub(crate) fn check_name(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::MetadataExt;

    use super::{Identity, with_suffix};
    use crate::sqlite::error::{OPEN, store_error};

    if fs::metadata(path).is_ok_and(|metadata| metadata.nlink() > 1) {
        let log = with_suffix(path, "-wal");
        let recorded = match recorded(path) {
            Ok(recorded) => recorded.filter(|recorded| recorded != path),
            // A crash during a checkpoint leaves a file that is valid only with its log.
            Err(_) if !is_empty(&log) => None,
            Err(error) => return Err(store_error(OPEN, &path.display().to_string(), error)),
        };
        let Some(recorded) = recorded else { return Ok(()) };
        let other_log = with_suffix(&recorded, "-wal");
        let is_same_file = Identity::at(&recorded) == Identity::at(path);
        // Two paths of one folder lead to the same log.
        let is_same_log = Identity::at(&other_log) == Identity::at(&log);
        let left = [other_log, log].into_iter().find(|log| !is_empty(log));
        if let Some(left) = left.filter(|_| is_same_file && !is_same_log) {
            let reason = format!(
                "{} is a hard link to the database that was opened as {} last, and {} was not written \
                 back to it; open the database as {}",
                path.display(),
                recorded.display(),
                left.display(),
                recorded.display(),
            );
            return Err(StoreError::InvalidConfiguration { reason });
        }
    }
    Ok(())
}

/// Records the path by which the writing connection has opened the database, before events are appended
/// through it.
///
/// A program that reads the database may keep the log from being written back. A file with one link is
/// opened nevertheless, and the record reaches it later.
#[cfg(unix)]
pub(crate) fn record_name(connection: &Connection, path: &Path) -> rusqlite::Result<()> {
    use std::os::unix::{ffi::OsStrExt, fs::MetadataExt};

    // Without the log, as the next one to open the file reads it. It may be invalid without it.
    if recorded(path).ok().flatten().is_some_and(|recorded| recorded == path) {
        return Ok(());
    }
    let bytes = path.as_os_str().as_bytes();
    connection.execute("REPLACE INTO opened_as (id, path) VALUES (1, ?1)", [bytes])?;
    let has_links = fs::metadata(path).is_ok_and(|metadata| metadata.nlink() > 1);
    let checkpoint = match has_links {
        true => "PRAGMA wal_checkpoint(FULL)",
        false => "PRAGMA wal_checkpoint(PASSIVE)",
    };
    let (is_busy, frames, moved): (bool, i64, i64) =
        connection.query_row(checkpoint, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    match has_links && (is_busy || frames != moved) {
        true => Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
            Some("a program reads the database, so its log can't be written back".to_owned()),
        )),
        false => Ok(()),
    }
}

/// Files have no identity here, so names are not compared.
#[cfg(not(unix))]
pub(crate) fn check_name(_: &Path) -> Result<(), StoreError> {
    Ok(())
}

/// Files have no identity here, so names are not compared.
#[cfg(not(unix))]
pub(crate) fn record_name(_: &Connection, _: &Path) -> rusqlite::Result<()> {
    Ok(())
}

/// Reads the recorded path from the file itself, without its log. `immutable` keeps SQLite from creating or
/// using a log next to the file.
#[cfg(unix)]
fn recorded(path: &Path) -> rusqlite::Result<Option<std::path::PathBuf>> {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt};

    use rusqlite::OpenFlags;

    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(immutable_uri(path), flags)?;
    Ok(read(&connection)?.map(|bytes| OsString::from_vec(bytes).into()))
}

/// Reads the recorded path. A database that an earlier version wrote has none.
#[cfg(unix)]
fn read(connection: &Connection) -> rusqlite::Result<Option<Vec<u8>>> {
    use rusqlite::OptionalExtension;

    let table = "SELECT count(*) FROM sqlite_schema WHERE name = 'opened_as'";
    if !connection.query_row(table, [], |row| row.get::<_, bool>(0))? {
        return Ok(None);
    }
    connection.query_row("SELECT path FROM opened_as", [], |row| row.get(0)).optional()
}

/// The path as a URI of SQLite, which gives some characters a meaning.
#[cfg(unix)]
fn immutable_uri(path: &Path) -> String {
    use std::{fmt::Write, os::unix::ffi::OsStrExt};

    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                uri.push(char::from(*byte));
            }
            byte => {
                // Writing to a text can't fail.
                let _ = write!(uri, "%{byte:02X}");
            }
        }
    }
    uri + "?immutable=1"
}

/// Whether a file is empty or does not exist.
#[cfg(unix)]
fn is_empty(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |metadata| metadata.len() == 0)
}
