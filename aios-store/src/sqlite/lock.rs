use std::{
    ffi::OsString,
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use aios_core::{
    clock::{Clock, ClockExt},
    store::StoreError,
};

use super::error::backend;

/// How often a taken lock is tried again.
const TRY_EVERY: Duration = Duration::from_millis(50);

/// The exclusive right to a database, until dropped.
///
/// It is held on a file beside the database, because closing any handle on the database file itself
/// would drop SQLite's own locks.
#[derive(Debug)]
pub(super) struct DatabaseLock(#[expect(dead_code, reason = "held, never used")] File);

impl DatabaseLock {
    /// Takes the lock, trying again for as long as `wait`.
    pub(super) async fn take(
        database: &Path,
        wait: Duration,
        clock: &dyn Clock,
    ) -> Result<Self, StoreError> {
        let deadline = clock.now() + wait;
        loop {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(lock_path(database))
                .map_err(|source| backend("create the lock file", false, source))?;
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::Error(source)) => {
                    return Err(backend("lock the database", false, source));
                }
                Err(TryLockError::WouldBlock) if clock.now() >= deadline => {
                    return Err(StoreError::Locked { database: database.display().to_string() });
                }
                Err(TryLockError::WouldBlock) => clock.sleep(TRY_EVERY).await,
            }
        }
    }
}

fn lock_path(database: &Path) -> PathBuf {
    let mut name = OsString::from(database);
    name.push("-lock");
    name.into()
}
