//! Which file a name refers to.
//!
//! A path is not an identity: the same file may have several names, and a name may refer to another
//! file later. On Unix, the device and the inode identify a file for as long as it exists.
//! Elsewhere, `Identity` is never known, all comparisons are between `None` and `None`, and the
//! watch finds nothing.

mod backup;
mod compact;
mod lock;
mod name;

use std::{
    ffi::OsString,
    fs::{self, Metadata},
    path::{Path, PathBuf},
};

use aios_core::store::StoreError;

pub use self::backup::backup;
#[cfg(unix)]
pub use self::lock::release_inherited_locks;
pub(crate) use self::{backup::schema_version, lock::DatabaseLock, name::record_name};

/// Identifies a file independently of its name. Available on Unix only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    #[cfg(unix)]
    pub(super) fn of(metadata: &Metadata) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        Some(Self { device: metadata.dev(), inode: metadata.ino() })
    }

    #[cfg(not(unix))]
    pub(super) fn of(_metadata: &Metadata) -> Option<Self> {
        None
    }

    /// Returns the identity of the file that has this name now.
    pub(super) fn at(path: &Path) -> Option<Self> {
        Self::of(&fs::metadata(path).ok()?)
    }
}

/// Checks that the names of an open database still refer to the files that SQLite has open.
///
/// SQLite does not notice that a file was deleted, moved or replaced. It keeps writing to the file it has
/// open, and these commits would be lost when the process ends.
#[derive(Debug)]
pub(super) struct FileWatch {
    /// The database and its write-ahead log. `None` for a database in memory.
    files: Option<(WatchedFile, WatchedFile)>,
    /// Never reset: what was committed since is lost anyway.
    is_gone: bool,
    /// Never reset here. The writer opens the database again with a new watch.
    has_lost_the_log: bool,
}

/// A path, and the file that it referred to at first.
#[derive(Debug)]
struct WatchedFile {
    path: PathBuf,
    /// The file that the path referred to when the watch began.
    identity: Option<Identity>,
}

impl WatchedFile {
    /// Begins to watch the file that the path refers to now.
    fn new(path: PathBuf) -> Self {
        Self { identity: Identity::at(&path), path }
    }

    /// Whether the path still refers to that file.
    fn is_in_place(&self) -> bool {
        self.identity == Identity::at(&self.path)
    }
}

impl FileWatch {
    /// Starts to watch the files that have these names now.
    pub(super) fn new(path: Option<&Path>) -> Self {
        let files = path.map(|path| {
            let log = WatchedFile::new(with_suffix(path, "-wal"));
            (WatchedFile::new(path.to_owned()), log)
        });
        Self { files, is_gone: false, has_lost_the_log: false }
    }

    /// Looks at the files. Fails once the database was deleted, moved or replaced, and from then on.
    pub(super) fn check(&mut self, database: &str) -> Result<(), StoreError> {
        if let Some((file, log)) = &self.files {
            self.is_gone |= !file.is_in_place();
            self.has_lost_the_log |= !log.is_in_place();
        }
        self.last_result(database)
    }

    /// Returns the result of the last check.
    pub(super) fn last_result(&self, database: &str) -> Result<(), StoreError> {
        match self.is_gone {
            true => Err(StoreError::Gone { database: database.to_owned() }),
            false => Ok(()),
        }
    }

    /// Whether, at the last check, the database was in place but its write-ahead log was not.
    pub(super) fn has_lost_the_log(&self) -> bool {
        self.has_lost_the_log && !self.is_gone
    }
}

/// Appends a suffix to the name of a file.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
