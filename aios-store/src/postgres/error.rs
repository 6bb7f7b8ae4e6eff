use std::{fmt, io::ErrorKind, sync::Arc, time::Duration};

use aios_core::store::StoreError;
use sqlx::Error;

/// What this adapter calls itself in errors.
pub(super) const BACKEND: &str = "postgres";

/// The database that the URL names does not exist.
const NO_DATABASE: &str = "3D000";

/// Shortest time after which a limit of the server's own can have struck; only for messages.
const UNKNOWN: Duration = Duration::ZERO;

/// What the driver reported while doing `operation`, as the port says it.
///
/// The codes are those of appendix A of PostgreSQL's manual.
pub(super) fn store_error(operation: &'static str, database: &str, error: Error) -> StoreError {
    match &error {
        Error::PoolClosed => StoreError::Closed,
        Error::PoolTimedOut => StoreError::Timeout { operation, after: UNKNOWN },
        Error::ColumnDecode { .. } | Error::Decode(_) => {
            StoreError::Corrupt { database: database.to_owned(), reason: Cause(error).to_string() }
        }
        Error::Configuration(_) => {
            let reason = format!("the PostgreSQL connection: {error}");
            StoreError::InvalidConfiguration { reason }
        }
        _ => match code(&error) {
            Some("53100") => StoreError::Full { database: database.to_owned() },
            Some("XX001" | "XX002") => StoreError::Corrupt {
                database: database.to_owned(),
                reason: Cause(error).to_string(),
            },
            _ => backend(operation, is_transient(&error), Cause(error)),
        },
    }
}

/// Anything that is no kind of its own.
pub(super) fn backend(
    operation: &'static str,
    retryable: bool,
    source: impl std::error::Error + Send + Sync + 'static,
) -> StoreError {
    StoreError::Backend { backend: BACKEND, operation, retryable, source: Arc::new(source) }
}

/// What the driver or the server said, once: the driver's own errors repeat their sources, and where
/// in PostgreSQL's source code the server noticed.
#[derive(Debug)]
struct Cause(Error);

impl std::error::Error for Cause {}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Error::Database(said) = &self.0 else { return self.0.fmt(formatter) };
        formatter.write_str(said.message())?;
        match code(&self.0) {
            Some(NO_DATABASE) => write!(formatter, "; {}", remedy(said.message())),
            Some(code) => write!(formatter, " (SQLSTATE {code})"),
            None => Ok(()),
        }
    }
}

/// How to create the database that the message names in quotes.
fn remedy(message: &str) -> String {
    match message.split('"').nth(1) {
        Some(name) => format!("create it, for example with: createdb {name}"),
        None => "create it, for example with createdb".to_owned(),
    }
}

/// Whether the connection leads to a server that only reads, such as one that was the primary before
/// a failover. The statement did nothing, and a new connection may lead to another server.
pub(super) fn is_read_only(error: &Error) -> bool {
    code(error) == Some("25006")
}

/// Whether the connection is gone, so that nobody knows what became of the last statement.
pub(super) fn is_lost(error: &Error) -> bool {
    match error {
        Error::Io(_) | Error::Protocol(_) | Error::PoolTimedOut | Error::WorkerCrashed => true,
        Error::Database(_) => class(error) == Some("08") || is_shutting_down(error),
        _ => false,
    }
}

/// Whether the data itself is what the server refuses, so that it would refuse it again.
pub(super) fn is_bad_data(error: &Error) -> bool {
    matches!(class(error), Some("21" | "22" | "23" | "54")) || matches!(error, Error::Encode(_))
}

/// Whether a row was refused because its unique key is taken.
pub(super) fn is_unique_violation(error: &Error) -> bool {
    code(error) == Some("23505")
}

/// Whether the statement did nothing, and may succeed if it is simply sent again: a deadlock, a
/// lock or statement that took too long, a server without resources or that only reads.
pub(super) fn is_transient(error: &Error) -> bool {
    (is_lost(error) && !is_tls_failure(error))
        || matches!(class(error), Some("40" | "53"))
        || matches!(code(error), Some("55P03" | "57014" | "25006"))
}

/// Whether a table, or a column of it, is not there.
pub(super) fn is_undefined(error: &Error) -> bool {
    matches!(code(error), Some("42P01" | "3F000"))
}

/// Whether the two sides could not agree on how to encrypt: they trust each other as little later.
fn is_tls_failure(error: &Error) -> bool {
    matches!(error, Error::Io(cause) if cause.kind() == ErrorKind::InvalidData)
}

fn is_shutting_down(error: &Error) -> bool {
    matches!(code(error), Some("57P01" | "57P02" | "57P03" | "57P05"))
}

fn class(error: &Error) -> Option<&str> {
    code(error)?.get(..2)
}

fn code(error: &Error) -> Option<&str> {
    let Error::Database(cause) = error else { return None };
    let cause = cause.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()?;
    Some(cause.code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_tell_a_lost_connection_from_a_refused_statement() {
        let lost = Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert!(is_lost(&lost) && is_transient(&lost) && !is_bad_data(&lost));
        let untrusted = Error::Io(ErrorKind::InvalidData.into());
        assert!(is_lost(&untrusted) && !is_transient(&untrusted));
        let refused = Error::Encode("too long".into());
        assert!(!is_lost(&refused) && !is_transient(&refused) && is_bad_data(&refused));
    }

    #[test]
    fn should_name_what_it_was_doing() {
        let lost = Error::Io(std::io::ErrorKind::ConnectionReset.into());
        let error = store_error("read the log", "aios", lost);
        assert_eq!(error.to_string(), "postgres failed to read the log");
        assert!(error.is_retryable());
        assert_eq!(store_error("read", "aios", Error::PoolClosed).code(), "STORE_CLOSED");
    }
}
