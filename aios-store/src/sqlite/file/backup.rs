//! Copies of a database that is in use.
//!
//! `VACUUM INTO` reads the database in one read transaction, so the copy is the state at one
//! moment, and the process that has the database open continues to append. The copy is written
//! under another name, synced, and renamed: a program that sees a file with the name of the backup sees a
//! complete one. A copy that a crash left behind under the partial name is removed by the next one.
//!
//! Neither function takes the lock of the database, which is why they work while another process
//! has it open.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use aios_core::store::StoreError;

use super::{Identity, lock::LockedFile, name::check_name, with_suffix};
use crate::{
    schema_version::SchemaVersion,
    sqlite::{
        SqliteOptions,
        error::{backend, store_error},
        options::Location,
        schema::{known, open_reader, versions},
    },
};

/// Writes a copy of a database to a new file, and returns its size in bytes. The copy is the database at
/// one moment; another process may have it open and may append in the meantime. The copy appears under
/// its name once it is complete and on disk. On Unix, the group and others get at most the permissions that they
/// have on the database.
///
/// # Errors
///
/// [`StoreError::InvalidConfiguration`] if the database does not exist or is in memory, if its write-ahead
/// log belongs to another hard link of the file, or if the new file exists or can't be created, for example
/// because its folder does not exist, or can't be locked, as on some network file systems. [`StoreError::Full`] names the new file. Otherwise the error that
/// SQLite or the file system reports.
///
/// # Cancel safety
///
/// Dropping the future does not stop the copy.
///
/// # Examples
///
/// ```
/// use aios_store::sqlite::{SqliteStore, backup};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let url = format!("sqlite:{}", folder.path().join("orders.db").display());
/// let store = SqliteStore::connect(&url).await?;
/// let bytes = backup(&url.parse()?, folder.path().join("backup.db")).await?;
/// assert!(bytes > 0);
/// # Ok(())
/// # }
/// ```
pub async fn backup(
    options: &SqliteOptions,
    target: impl Into<PathBuf>,
) -> Result<u64, StoreError> {
    let source = existing(options)?;
    let target = target.into();
    blocking(move || copy(&source, &target)).await
}

/// The versions of the schema.
pub(crate) async fn schema_version(options: &SqliteOptions) -> Result<SchemaVersion, StoreError> {
    if !exists(options) {
        return Ok(SchemaVersion { found: 0, known: known() });
    }
    let path = existing(options)?;
    let database = options.database();
    blocking(move || {
        versions(&path).map_err(|error| store_error("read the schema", &database, error))
    })
    .await
}

/// Whether there is a database to read.
fn exists(options: &SqliteOptions) -> bool {
    matches!(&options.location, Location::File(path) if path.is_file())
}

/// Returns the path of the database, if it is a file that exists. Opening it would otherwise create
/// an empty database. Refuses a path that does not lead to the write-ahead log.
fn existing(options: &SqliteOptions) -> Result<PathBuf, StoreError> {
    match &options.location {
        Location::File(path) if path.is_file() => {
            check_name(&fs::canonicalize(path).unwrap_or_else(|_| path.clone()))?;
            Ok(path.clone())
        }
        Location::File(path) => Err(invalid(format!("there is no database {}", path.display()))),
        Location::Memory => Err(invalid("a database in memory can't be copied".to_owned())),
    }
}

/// Runs work that blocks on files, on a blocking thread of tokio. A panic in it becomes an error.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let failed =
        |error: tokio::task::JoinError| backend("read the file", false, io::Error::other(error));
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

/// Copies the database, and returns the size of the copy. The folder is synced last, so that the
/// new name survives a loss of power too.
fn copy(source: &Path, target: &Path) -> Result<u64, StoreError> {
    if target.exists() {
        return Err(invalid(format!("{} exists already", target.display())));
    }
    let partial = with_suffix(target, "-partial");
    let failed = |error: io::Error| {
        let named = io::Error::new(error.kind(), format!("{}: {error}", partial.display()));
        backend("write the backup", false, named)
    };
    let database = source.display().to_string();
    let fail = |error| store_error("copy the database", &database, error);
    let connection = open_reader(source).map_err(fail)?;
    let path = partial
        .to_str()
        .ok_or_else(|| invalid(format!("{} is not text, as SQLite needs it", partial.display())))?;
    let file = begin(source, &partial, target)?;
    if let Err(error) = connection.execute("VACUUM INTO ?1", [path]) {
        // The error that counts is that of the copy.
        let _ = fs::remove_file(&partial);
        return Err(match fail(error) {
            StoreError::Full { .. } => StoreError::Full { database: target.display().to_string() },
            error => error,
        });
    }
    file.sync_all().map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    fs::rename(&partial, target).map_err(failed)?;
    if let Some(folder) = target.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    }
    Ok(bytes)
}

/// Creates the empty file that SQLite writes the copy into, and locks it until it is dropped. What a process
/// left there that died is removed.
///
/// SQLite does not say why it can't create a file.
fn begin(source: &Path, partial: &Path, target: &Path) -> Result<LockedFile, StoreError> {
    let in_progress = || invalid(format!("another backup to {} is in progress", target.display()));
    let file = create(source, partial).map_err(|error| uncreated(target, &error))?;
    let file = LockedFile::try_lock_database(file, partial)?.ok_or_else(in_progress)?;
    let metadata = file.metadata().map_err(|error| uncreated(target, &error))?;
    // Another backup may have ended since the file was opened, and renamed it.
    if Identity::of(&metadata) != Identity::at(partial) {
        return Err(in_progress());
    }
    restrict(source, &file)
        .and_then(|()| file.set_len(0))
        .map_err(|error| uncreated(target, &error))?;
    Ok(file)
}

/// Opens the file of a copy, or creates it with at most the permissions of the database.
#[cfg(unix)]
fn create(source: &Path, partial: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    let mut options = File::options();
    options.create(true).truncate(false).write(true).mode(most_permissions(source)?);
    options.open(partial)
}

/// Takes from a file the permissions that the database does not have. An earlier backup may have created it.
#[cfg(unix)]
fn restrict(source: &Path, file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;

    let (mode, most) = (file.metadata()?.permissions().mode() & 0o7777, most_permissions(source)?);
    match mode & !most {
        0 => Ok(()),
        _ => file.set_permissions(fs::Permissions::from_mode(mode & most)),
    }
}

/// The permissions of the database, and those that the owner of the copy needs to write it.
#[cfg(unix)]
fn most_permissions(source: &Path) -> io::Result<u32> {
    use std::os::unix::fs::PermissionsExt;

    Ok(fs::metadata(source)?.permissions().mode() & 0o777 | 0o600)
}

/// Opens the file of a copy, or creates it.
#[cfg(not(unix))]
fn create(_: &Path, partial: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(partial)
}

/// A new file has the permissions of its folder here.
#[cfg(not(unix))]
fn restrict(_: &Path, _: &File) -> io::Result<()> {
    Ok(())
}

/// Why a file can't be created, and what to do.
fn uncreated(target: &Path, error: &io::Error) -> StoreError {
    let file = target.display();
    match target.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
        Some(folder) => invalid(format!(
            "there is no folder {}; create it first, or write the backup to another one",
            folder.display()
        )),
        None if error.kind() == io::ErrorKind::StorageFull => {
            StoreError::Full { database: file.to_string() }
        }
        None => invalid(format!(
            "{file} can't be created ({error}); let the user of this process write the folder, or \
             write the backup to another one"
        )),
    }
}

/// The error for what the caller has to change.
fn invalid(reason: String) -> StoreError {
    StoreError::InvalidConfiguration { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_leave_the_file_of_a_backup_in_progress_alone() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("backup.db");
        let partial = with_suffix(&target, "-partial");
        let source = folder.path().join("a.db");
        fs::write(&source, "").unwrap();
        let first = begin(&source, &partial, &target).unwrap();
        fs::write(&partial, "half").unwrap();
        if cfg!(target_os = "linux") {
            let error = begin(&source, &partial, &target).unwrap_err();
            assert!(error.to_string().contains("another backup to "), "{error}");
            assert_eq!(fs::read(&partial).unwrap(), b"half");
        }
        // The process dies: the next backup begins again.
        drop(first);
        begin(&source, &partial, &target).unwrap();
        assert_eq!(fs::read(&partial).unwrap(), b"");
    }
}
