use std::{
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aios_core::{clock::Clock, store::StoreError};

use super::{
    error::backend,
    file::{Identity, beside},
};

/// How often a taken lock is tried again.
const TRY_EVERY: Duration = Duration::from_millis(50);

/// The databases that this process has open. It is the process's, because SQLite's own locks are: to
/// close any handle on a database drops those of all its connections in the process, so that a file
/// must not even be opened to find out that it is open already.
static OPEN: Mutex<BTreeSet<Identity>> = Mutex::new(BTreeSet::new());

fn open_here() -> MutexGuard<'static, BTreeSet<Identity>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The exclusive right to a database, until dropped, under whatever name it was opened.
///
/// It is held three times: on a file beside the database, which also holds while the database is
/// deleted; on the database itself, for names in other folders (on Linux, where that does not get in
/// the way of SQLite's own locks); and in this process.
#[derive(Debug)]
pub(super) struct DatabaseLock {
    path: PathBuf,
    _beside: File,
    _database: File,
    /// Last, so that the handles are closed before.
    here: Option<OpenHere>,
}

impl DatabaseLock {
    /// Takes the lock, trying again for as long as `wait`. Creates the database if it is not there.
    pub(super) async fn take(
        database: &Path,
        wait: Duration,
        clock: &dyn Clock,
    ) -> Result<Self, StoreError> {
        let deadline = clock.now() + wait;
        loop {
            if let Some(lock) = Self::attempt(database)? {
                return Ok(lock);
            }
            if clock.now() >= deadline {
                return Err(StoreError::Locked { database: database.display().to_string() });
            }
            clock.sleep(TRY_EVERY).await;
        }
    }

    /// The path without symbolic links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the database still has its name.
    pub(super) fn is_in_place(&self) -> bool {
        self.here.as_ref().is_none_or(|here| Identity::at(&self.path) == Some(here.0))
    }

    fn attempt(database: &Path) -> Result<Option<Self>, StoreError> {
        let mut open = open_here();
        if Identity::at(database).is_some_and(|identity| open.contains(&identity)) {
            return Ok(None);
        }
        let file = create(database).map_err(|source| unopened(database, &source))?;
        let path = fs::canonicalize(database).map_err(|source| unopened(database, &source))?;
        let lock = beside(&path, "-lock");
        let beside = create(&lock).map_err(|source| unopened(&lock, &source))?;
        if !is_free(&beside)? || (cfg!(target_os = "linux") && !is_free(&file)?) {
            return Ok(None);
        }
        let metadata = file.metadata().map_err(|source| unopened(database, &source))?;
        let here = Identity::of(&metadata).map(|identity| OpenHere::new(&mut open, identity));
        Ok(Some(Self { path, _beside: beside, _database: file, here }))
    }
}

fn create(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(path)
}

/// Takes the lock on a file, unless somebody else has it.
fn is_free(file: &File) -> Result<bool, StoreError> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(source)) => Err(backend("lock the database", false, source)),
    }
}

fn unopened(path: &Path, source: &io::Error) -> StoreError {
    let shown = path.display();
    let reason = match (source.kind(), path.parent()) {
        (ErrorKind::NotFound, Some(folder)) => {
            format!("the folder {} of {shown} does not exist", folder.display())
        }
        (ErrorKind::IsADirectory, _) => format!("{shown} is a folder"),
        (ErrorKind::InvalidFilename, _) => format!("{shown} is too long for the name of a file"),
        (kind, _) => {
            let named = io::Error::new(kind, format!("{shown}: {source}"));
            return backend("open the database", false, named);
        }
    };
    StoreError::InvalidConfiguration { reason }
}

/// An entry among the databases that this process has open.
#[derive(Debug)]
struct OpenHere(Identity);

impl OpenHere {
    fn new(open: &mut BTreeSet<Identity>, identity: Identity) -> Self {
        open.insert(identity);
        Self(identity)
    }
}

impl Drop for OpenHere {
    fn drop(&mut self) {
        open_here().remove(&self.0);
    }
}
