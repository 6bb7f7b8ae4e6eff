//! The mapping of errors of SQLite, in one place.
//!
//! Variants of the port are for cases that a caller or an operator can act on: a damaged file, a
//! full disk, a file that can't be written. Everything else is `Backend`, with the answer to
//! whether the next call may succeed.

use aios_core::{Cause, store::StoreError};
use rusqlite::{Error, ErrorCode, ffi};

/// The name of this adapter in errors.
pub(super) const BACKEND: &str = "sqlite";

/// The operation that opens a database.
pub(super) const OPEN: &str = "open the database";

/// Maps an error of the driver during `operation` to an error of the port.
///
/// An error without a code of SQLite comes from the driver, which could not convert a value: the
/// row is invalid.
pub(super) fn store_error(operation: &'static str, database: &str, error: Error) -> StoreError {
    let database = database.to_owned();
    let error = without_sql(error);
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Corrupt { database, reason: error.to_string() }
        }
        Some(ErrorCode::DiskFull) => StoreError::Full { database },
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) if operation == OPEN => {
            let reason = format!(
                "{database} can't be written ({error}); let the user of this process write the \
                 file and its folder"
            );
            StoreError::InvalidConfiguration { reason }
        }
        Some(code) => backend(operation, is_transient(code), error),
        None if is_invalid(&error) => {
            StoreError::InvalidRow { database, reason: error.to_string() }
        }
        None => backend(operation, false, error),
    }
}

/// The error without the text of its statement, which may be a whole migration.
fn without_sql(error: Error) -> Error {
    match error {
        Error::SqlInputError { error, msg, .. } => Error::SqliteFailure(error, Some(msg)),
        error => error,
    }
}

/// An error that has no variant of its own.
pub(super) fn backend(
    operation: &'static str,
    retryable: bool,
    source: impl std::error::Error + Send + Sync + 'static,
) -> StoreError {
    StoreError::Backend { backend: BACKEND, operation, retryable, source: Cause::new(source) }
}

/// Whether an insert violated a unique index.
pub(super) fn is_unique_violation(error: &Error) -> bool {
    error.sqlite_error().is_some_and(|cause| cause.extended_code == ffi::SQLITE_CONSTRAINT_UNIQUE)
}

/// Whether the disk, the database or the memory is full. What needs less space may succeed.
pub(super) fn lacks_space(error: &Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::OutOfMemory))
}

/// Whether the next call may succeed.
///
/// A file that can't be opened was there before: it is found or created before SQLite opens it. The
/// process has no file descriptors left, for example.
fn is_transient(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::CannotOpen
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::OperationInterrupted
            | ErrorCode::OutOfMemory
            | ErrorCode::SystemIoFailure
    )
}

/// Whether a row has a value that this crate never writes.
fn is_invalid(error: &Error) -> bool {
    matches!(
        error,
        Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..)
            | Error::InvalidColumnType(..)
            | Error::QueryReturnedNoRows
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_say_that_a_database_cannot_be_written() {
        let read_only = || Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_READONLY), None);
        let error = store_error(OPEN, "/data/aios.db", read_only());
        assert_eq!(error.code(), "INVALID_STORE_CONFIGURATION");
        let text = error.to_string();
        assert!(text.contains("/data/aios.db") && text.contains("its folder"), "{text}");
        assert_eq!(store_error("append", "/data/aios.db", read_only()).code(), "STORE_BACKEND");
    }

    /// SQLite gives up on a lock that it can't get in the usual time.
    #[test]
    fn should_repeat_what_lost_a_race_for_a_lock() {
        let error = Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_PROTOCOL), None);
        assert!(store_error("read the log", "/data/aios.db", error).is_retryable());
    }
}
