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
    files: Vec<(PathBuf, Option<Identity>)>,
    is_gone: bool,
}

impl Watch {
    /// The database and its write-ahead log as they are now.
    pub(super) fn new(path: Option<&Path>) -> Self {
        let files = path.into_iter().flat_map(|path| [path.to_owned(), beside(path, "-wal")]);
        let files = files.map(|path| {
            let identity = Identity::at(&path);
            (path, identity)
        });
        Self { files: files.collect(), is_gone: false }
    }

    /// Fails once a file was deleted, moved or replaced, and from then on.
    pub(super) fn check(&mut self, database: &str) -> Result<(), StoreError> {
        let is_there = |(path, known): &(PathBuf, _)| *known == Identity::at(path);
        self.is_gone = self.is_gone || !self.files.iter().all(is_there);
        self.found(database)
    }

    /// What the last check found.
    pub(super) fn found(&self, database: &str) -> Result<(), StoreError> {
        match self.is_gone {
            true => Err(StoreError::Gone { database: database.to_owned() }),
            false => Ok(()),
        }
    }
}

/// The file whose name is that of another one, and this.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
