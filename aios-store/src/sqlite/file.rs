use std::{
    ffi::OsString,
    fs::{self, Metadata},
    path::{Path, PathBuf},
};

use aios_core::store::StoreError;

/// Which file it is, whatever its name. It is only known on Unix.
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

    /// The file that has this name now.
    pub(super) fn at(path: &Path) -> Option<Self> {
        Self::of(&fs::metadata(path).ok()?)
    }
}

/// Sees that the files of an open database are still the ones that have its name. SQLite goes on
/// writing to one that was deleted, and nobody would ever read that.
#[derive(Debug)]
pub(super) struct Watch {
    /// The database and its write-ahead log; none for a database in memory.
    files: Option<(Named, Named)>,
    is_gone: bool,
    has_lost_the_log: bool,
}

/// A name, and the file that had it.
#[derive(Debug)]
struct Named {
    path: PathBuf,
    identity: Option<Identity>,
}

impl Named {
    fn new(path: PathBuf) -> Self {
        Self { identity: Identity::at(&path), path }
    }

    fn is_in_place(&self) -> bool {
        self.identity == Identity::at(&self.path)
    }
}

impl Watch {
    /// The files as they are now.
    pub(super) fn new(path: Option<&Path>) -> Self {
        let named = |path: &Path| (Named::new(path.to_owned()), Named::new(beside(path, "-wal")));
        Self { files: path.map(named), is_gone: false, has_lost_the_log: false }
    }

    /// Fails once the database was deleted, moved or replaced, and from then on.
    pub(super) fn check(&mut self, database: &str) -> Result<(), StoreError> {
        if let Some((file, log)) = &self.files {
            self.is_gone |= !file.is_in_place();
            self.has_lost_the_log |= !log.is_in_place();
        }
        self.found(database)
    }

    /// What the last check found.
    pub(super) fn found(&self, database: &str) -> Result<(), StoreError> {
        match self.is_gone {
            true => Err(StoreError::Gone { database: database.to_owned() }),
            false => Ok(()),
        }
    }

    /// Whether the database is in place, but its log was not at the last check.
    pub(super) fn has_lost_the_log(&self) -> bool {
        self.has_lost_the_log && !self.is_gone
    }
}

/// The file whose name is that of another one, and this.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
