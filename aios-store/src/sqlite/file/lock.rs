//! Exclusive access to a database file, before SQLite opens it.
//!
//! SQLite's own locks let several processes share a file. This store needs more: it keeps copies of
//! what the file holds, and it expires all leases when it opens. A second process has to be kept
//! out for as long as the store is open, not only during a transaction.
//!
//! The lock is taken before the file is opened by SQLite, and released after SQLite has closed it.
//! It is a lock of the operating system, so the death of the process releases it.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, ErrorKind},
    ops::Deref,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use aios_core::{clock::Clock, store::StoreError};
use parking_lot::Mutex;

use super::{Identity, name::check_name, with_suffix};
use crate::sqlite::error::backend;

/// Interval between attempts to take a lock that another process holds.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// The databases that this process has open, and their locked files.
///
/// This has to be global, because POSIX file locks belong to the process: closing any handle of a file
/// drops all locks that the process holds on it, among them those of SQLite. So whether a database is
/// already open has to be known before its file is opened.
static OPEN: Mutex<BTreeMap<Identity, LockedFiles>> = Mutex::new(BTreeMap::new());

/// The file `<database>-lock` and the database.
type LockedFiles = [LockedFile; 2];

/// A file that this process has locked. Dropping it releases the lock.
///
/// A child process has the files of its parent until it runs its program, and with them their locks.
/// Closing the file would leave the lock to a child that is just being started, so it is
/// released first.
#[derive(Debug)]
pub(super) struct LockedFile {
    file: File,
    /// The process that took the lock. `None` if the file is only kept open.
    owner: Option<u32>,
}

impl LockedFile {
    /// Locks a file that was opened by this path. Returns `None` if it is already locked.
    pub(super) fn try_lock(file: File, path: &Path) -> Result<Option<Self>, StoreError> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file, owner: Some(process::id()) })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(lock_error(path, source)),
        }
    }

    /// The same as [`try_lock`](Self::try_lock) for a file that SQLite locks too. It is only locked on Linux,
    /// where the two locks do not interfere, and kept open elsewhere.
    pub(super) fn try_lock_database(file: File, path: &Path) -> Result<Option<Self>, StoreError> {
        match cfg!(target_os = "linux") {
            true => Self::try_lock(file, path),
            false => Ok(Some(Self { file, owner: None })),
        }
    }
}

impl Deref for LockedFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // A forked child must not release the lock of its parent.
        if self.owner == Some(process::id()) {
            // Closing the file releases the lock if this fails.
            let _ = self.file.unlock();
        }
    }
}

/// Exclusive access to a database, whatever name it was opened by. Released on drop.
///
/// Three locks together cover all cases:
///
/// - a lock on the file `<database>-lock`, which works even while the database is being deleted;
/// - a lock on the database itself, which covers hard links in other folders. Only on Linux, where it
///   does not interfere with SQLite's own locks;
/// - an entry in [`OPEN`], which covers this process.
#[derive(Debug)]
pub(crate) struct DatabaseLock {
    /// Canonical, so that later looks at the name do not depend on the working directory or on
    /// links.
    path: PathBuf,
    held: Held,
}

/// Where the locked files are. Dropping it closes them.
#[derive(Debug)]
enum Held {
    /// In [`OPEN`].
    Entry(OpenEntry),
    /// Here, where files have no identity.
    Unidentified(#[expect(dead_code, reason = "held until it is dropped")] LockedFiles),
}

impl DatabaseLock {
    /// Takes the lock. Retries for `wait` while another process holds it. Creates the database file if
    /// it does not exist.
    pub(crate) async fn take(
        database: &Path,
        wait: Duration,
        clock: &dyn Clock,
    ) -> Result<Self, StoreError> {
        let deadline = clock.elapsed().saturating_add(wait);
        loop {
            if let Some(lock) = Self::attempt(database)? {
                return Ok(lock);
            }
            if clock.elapsed() >= deadline {
                return Err(StoreError::Locked { database: database.display().to_string() });
            }
            clock.sleep(RETRY_INTERVAL).await;
        }
    }

    /// The path of the database, without symbolic links.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still refers to the locked file.
    pub(crate) fn is_in_place(&self) -> bool {
        match &self.held {
            Held::Entry(entry) => Identity::at(&self.path) == Some(entry.0),
            Held::Unidentified(_) => true,
        }
    }

    /// Tries once. Returns `None` if the database is locked.
    ///
    /// The order matters. The registry of this process is checked before any handle is opened,
    /// because closing a handle would drop the locks of SQLite in this process. It stays locked
    /// until the entry is made, so that two stores of this process can't both pass the check. For the same
    /// reason, the database is not opened while another process has locked `<database>-lock`: a backup of this
    /// process may read it.
    fn attempt(database: &Path) -> Result<Option<Self>, StoreError> {
        let mut open = OPEN.lock();
        if Identity::at(database).is_some_and(|identity| open.contains_key(&identity)) {
            return Ok(None);
        }
        let path = find_or_create(database).map_err(|source| open_error(database, &source))?;
        let lock_path = with_suffix(&path, "-lock");
        let lock_file = create(&lock_path).map_err(|source| open_error(&lock_path, &source))?;
        let Some(lock_file) = LockedFile::try_lock(lock_file, &lock_path)? else { return Ok(None) };
        let file = create(&path).map_err(|source| open_error(database, &source))?;
        let Some(file) = LockedFile::try_lock_database(file, &path)? else { return Ok(None) };
        check_name(&path)?;
        let metadata = file.metadata().map_err(|source| open_error(database, &source))?;
        let files = [lock_file, file];
        let held = match Identity::of(&metadata) {
            Some(identity) => Held::Entry(OpenEntry::new(&mut open, identity, files)),
            None => Held::Unidentified(files),
        };
        Ok(Some(Self { path, held }))
    }
}

/// Returns the path of a database, without symbolic links. Creates the file if it does not exist, and does not
/// open it otherwise.
fn find_or_create(database: &Path) -> io::Result<PathBuf> {
    let path = match fs::canonicalize(database) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            create(database)?;
            fs::canonicalize(database)?
        }
        path => path?,
    };
    if path.is_dir() { Err(ErrorKind::IsADirectory.into()) } else { Ok(path) }
}

/// Opens a file for writing, and creates it if it does not exist. Never truncates.
fn create(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(path)
}

/// Explains why a file can't be opened, in terms of what to change.
fn open_error(path: &Path, source: &io::Error) -> StoreError {
    let shown = path.display();
    let reason = match (source.kind(), path.parent()) {
        (ErrorKind::NotFound, Some(folder)) => {
            format!("the folder {} of {shown} does not exist", folder.display())
        }
        (ErrorKind::IsADirectory, _) => format!("{shown} is a folder"),
        (ErrorKind::InvalidFilename, _) => format!("{shown} is too long for a file name"),
        (ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem, _) => format!(
            "{shown} can't be written ({source}); let the user of this process write the file and \
             its folder"
        ),
        (kind, _) => {
            let named = io::Error::new(kind, format!("{shown}: {source}"));
            return backend("open the database", false, named);
        }
    };
    StoreError::InvalidConfiguration { reason }
}

/// The error number of Unix for a file that can't be locked, for which there is no [`ErrorKind`].
const NO_LOCKS: i32 = if cfg!(any(target_os = "linux", target_os = "android")) { 37 } else { 77 };

/// Explains why a file can't be locked.
fn lock_error(path: &Path, source: io::Error) -> StoreError {
    if source.kind() == ErrorKind::Unsupported || source.raw_os_error() == Some(NO_LOCKS) {
        let reason = format!(
            "{} can't be locked ({source}), because its file system does not support locks; write the \
             file to a local disk",
            path.display()
        );
        return StoreError::InvalidConfiguration { reason };
    }
    backend("lock the database", false, source)
}

/// An entry of [`OPEN`]. Removed on drop.
#[derive(Debug)]
struct OpenEntry(Identity);

impl OpenEntry {
    /// Adds an entry to the map, which the caller has locked.
    fn new(
        open: &mut BTreeMap<Identity, LockedFiles>,
        identity: Identity,
        files: LockedFiles,
    ) -> Self {
        open.insert(identity, files);
        Self(identity)
    }
}

impl Drop for OpenEntry {
    fn drop(&mut self) {
        let mut open = OPEN.lock();
        // Closed before the map is unlocked, so that another store of this process can lock them.
        drop(open.remove(&self.0));
    }
}

/// Gives up the locks that a forked process shares with its parent, so that the parent alone decides how long
/// its databases are locked. Call it in the child, right after `fork`, before anything else uses a
/// store.
///
/// A lock of the operating system belongs to all processes that have inherited its file. Without this, a child
/// that outlives its parent keeps the databases of the parent locked.
///
/// The stores of the parent can't be used in the child in any case, because their threads do not exist
/// there.
///
/// # Errors
///
/// An error of the operating system, which has no file left for example.
#[cfg(unix)]
pub fn release_inherited_locks() -> io::Result<()> {
    // A thread of the parent may have held the lock; it does not exist here, and the map may be half
    // changed.
    let Some(mut open) = OPEN.try_lock() else { return Ok(()) };
    let nothing = File::open("/dev/null")?;
    for file in open.values_mut().flatten() {
        // Keeps the number of the file valid, which a store may still close.
        file.file = nothing.try_clone()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn should_release_the_lock_although_a_new_child_has_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let lock = DatabaseLock::attempt(&path).unwrap().unwrap();
        let Held::Entry(entry) = &lock.held else { panic!("{lock:?}") };
        // A child has the same files as its parent until it runs its program.
        let files_of_child = OPEN.lock()[&entry.0].each_ref().map(|file| file.try_clone().unwrap());
        drop(lock);
        DatabaseLock::attempt(&path).unwrap().unwrap();
        drop(files_of_child);
    }

    #[cfg(unix)]
    #[test]
    fn should_leave_the_lock_to_the_parent_of_a_forked_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let mut file = LockedFile::try_lock(create(&path).unwrap(), &path).unwrap().unwrap();
        let file_of_parent = file.try_clone().unwrap();
        file.owner = Some(std::os::unix::process::parent_id());
        drop(file);
        assert!(LockedFile::try_lock(create(&path).unwrap(), &path).unwrap().is_none());
        drop(file_of_parent);
    }

    #[test]
    fn should_say_that_a_file_cannot_be_written() {
        let source = io::Error::from(ErrorKind::PermissionDenied);
        let error = open_error(Path::new("/data/aios.db"), &source);
        assert_eq!(error.code(), "INVALID_STORE_CONFIGURATION");
        let text = error.to_string();
        assert!(text.contains("/data/aios.db can't be written (permission denied)"), "{text}");
    }

    #[test]
    fn should_say_that_a_file_system_does_not_support_locks() {
        let unsupported = io::Error::from(ErrorKind::Unsupported);
        for source in [unsupported, io::Error::from_raw_os_error(NO_LOCKS)] {
            let error = lock_error(Path::new("/net/a.db"), source);
            assert_eq!(error.code(), "INVALID_STORE_CONFIGURATION");
            let text = error.to_string();
            assert!(text.contains("/net/a.db") && text.contains("a local disk"), "{text}");
        }
    }
}
