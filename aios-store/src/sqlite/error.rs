use std::sync::Arc;

use aios_core::store::StoreError;
use rusqlite::{Error, ErrorCode, ffi};

/// The name of this adapter in errors.
pub(super) const BACKEND: &str = "sqlite";

/// Maps an error of the driver during `operation` to an error of the port.
pub(super) fn store_error(operation: &'static str, database: &str, error: Error) -> StoreError {
    let (database, error) = (database.to_owned(), without_sql(error));
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Corrupt { database, reason: error.to_string() }
        }
        Some(ErrorCode::DiskFull) => StoreError::Full { database },
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
    StoreError::Backend { backend: BACKEND, operation, retryable, source: Arc::new(source) }
}

/// Whether an insert violated a unique index.
pub(super) fn is_unique_violation(error: &Error) -> bool {
    error.sqlite_error().is_some_and(|cause| cause.extended_code == ffi::SQLITE_CONSTRAINT_UNIQUE)
}

/// Whether the next call may succeed.
fn is_transient(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
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
