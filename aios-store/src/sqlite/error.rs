use std::sync::Arc;

use aios_core::store::StoreError;
use rusqlite::{Error, ErrorCode, ffi};

/// What this adapter calls itself in errors.
pub(super) const BACKEND: &str = "sqlite";

/// What the driver reported while doing `operation`, as the port says it.
pub(super) fn store_error(operation: &'static str, database: &str, error: Error) -> StoreError {
    let database = database.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Corrupt { database, reason: error.to_string() }
        }
        Some(ErrorCode::DiskFull) => StoreError::Full { database },
        Some(code) => backend(operation, is_passing(code), error),
        None if is_nonsense(&error) => StoreError::Corrupt { database, reason: error.to_string() },
        None => backend(operation, false, error),
    }
}

/// Anything that went wrong outside the driver.
pub(super) fn backend(
    operation: &'static str,
    retryable: bool,
    source: impl std::error::Error + Send + Sync + 'static,
) -> StoreError {
    StoreError::Backend { backend: BACKEND, operation, retryable, source: Arc::new(source) }
}

/// Whether an insert was refused because its unique key is taken.
pub(super) fn is_unique_violation(error: &Error) -> bool {
    error.sqlite_error().is_some_and(|cause| cause.extended_code == ffi::SQLITE_CONSTRAINT_UNIQUE)
}

/// Whether what the driver reports may be gone at the next call.
fn is_passing(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::OperationInterrupted
            | ErrorCode::OutOfMemory
            | ErrorCode::SystemIoFailure
    )
}

/// Whether a row holds what this program never writes.
fn is_nonsense(error: &Error) -> bool {
    matches!(
        error,
        Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..)
            | Error::InvalidColumnType(..)
            | Error::QueryReturnedNoRows
    )
}
