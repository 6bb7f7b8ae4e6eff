//! The mapping of errors of PostgreSQL and of the driver, in one place.
//!
//! In addition to the mapping, the module answers the questions that decide what to do with a failed
//! statement. They are not the same:
//!
//! | question | decides |
//! |---|---|
//! | `is_lost` | is it unknown whether the statement took effect? |
//! | `is_transient` | may it succeed if it is sent again? |
//! | `is_bad_data` | would the server refuse the same data again? |
//! | `needs_new_session` | had it no effect, because of the session or its server? |
//! | `has_lost_event` | does the log lack an event that was committed? |
//! | `is_unique_violation` | was a cached end or an id refused? |
//! | `is_deadlock` | was a migration rolled back that may be repeated? |
//! | `is_forbidden` | does the role lack a privilege? |

use std::{fmt, io::ErrorKind, time::Duration};

use aios_core::{Cause, store::StoreError};
use sqlx::{Error, postgres::PgDatabaseError};

/// The name of this adapter in errors.
pub(super) const BACKEND: &str = "postgres";

/// SQLSTATE of a connection to a database that does not exist.
const NO_DATABASE: &str = "3D000";

/// SQLSTATE of the function `refuse_log`: the log lacks an event that was committed.
const LOST_EVENT: &str = "ZA001";

/// The duration in a timeout of the pool, which does not report how long it waited.
const UNKNOWN: Duration = Duration::ZERO;

/// Maps an error of the driver during `operation` to an error of the port.
///
/// The codes are listed in appendix A of PostgreSQL's manual.
pub(super) fn store_error(operation: &'static str, database: &str, error: Error) -> StoreError {
    // A refusal of this adapter, made where only errors of the driver are returned.
    if let Error::Encode(cause) = &error
        && let Some(refusal) = cause.downcast_ref::<StoreError>()
    {
        return refusal.clone();
    }
    match &error {
        Error::PoolClosed => StoreError::Closed,
        Error::PoolTimedOut => StoreError::Timeout { operation, after: UNKNOWN },
        Error::ColumnDecode { .. } | Error::Decode(_) => StoreError::InvalidRow {
            database: database.to_owned(),
            reason: DriverError(error).to_string(),
        },
        Error::Configuration(_) => {
            let reason = format!("invalid PostgreSQL connection options: {error}");
            StoreError::InvalidConfiguration { reason }
        }
        _ => match code(&error) {
            Some(LOST_EVENT) => StoreError::LostEvents {
                database: database.to_owned(),
                position: lost_position(&error),
            },
            Some("53100") => StoreError::Full { database: database.to_owned() },
            Some("XX001" | "XX002") => StoreError::Corrupt {
                database: database.to_owned(),
                reason: DriverError(error).to_string(),
            },
            _ => backend(operation, is_transient(&error), DriverError(error)),
        },
    }
}

/// The position at the end of the message of `refuse_log`.
fn lost_position(error: &Error) -> u64 {
    let Error::Database(cause) = error else { return 0 };
    let position = cause.message().rsplit(' ').next();
    position.and_then(|position| position.parse().ok()).unwrap_or_default()
}

/// An error that has no variant of its own.
pub(super) fn backend(
    operation: &'static str,
    retryable: bool,
    source: impl std::error::Error + Send + Sync + 'static,
) -> StoreError {
    StoreError::Backend { backend: BACKEND, operation, retryable, source: Cause::new(source) }
}

/// Names the server in an error of a connection to it.
pub(super) fn at_server(server: String, error: StoreError) -> StoreError {
    match error {
        StoreError::Backend { backend, operation, retryable, source } => {
            let source = Cause::new(ConnectError { server, source });
            StoreError::Backend { backend, operation, retryable, source }
        }
        error => error,
    }
}

/// An error of a connection, with the server that it is about.
#[derive(Debug)]
struct ConnectError {
    /// Host and port, or the folder of a socket.
    server: String,
    /// The error of the driver.
    source: Cause,
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "no connection to {}", self.server)
    }
}

/// An error of the driver whose text names the cause only once. The driver's own texts repeat their
/// sources, and add the line of PostgreSQL's source code.
#[derive(Debug)]
struct DriverError(Error);

impl std::error::Error for DriverError {}

impl fmt::Display for DriverError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Error::Database(cause) = &self.0 else { return self.0.fmt(formatter) };
        formatter.write_str(cause.message())?;
        match code(&self.0) {
            Some(NO_DATABASE) => write!(formatter, "; {}", remedy(cause.message())),
            Some(code) => write!(formatter, " (SQLSTATE {code})"),
            None => Ok(()),
        }
    }
}

/// Tells how to create the database that the server's message names in quotes.
fn remedy(message: &str) -> String {
    match message.split('"').nth(1) {
        Some(name) => format!("create it, for example with: createdb {name}"),
        None => "create it, for example with createdb".to_owned(),
    }
}

/// Whether the statement had no effect, and may succeed on a new connection: the server is read-only, such as a
/// standby, or a former primary after a failover; or the session does not have the prepared statement, or has
/// prepared it before the types of its columns changed.
pub(super) fn needs_new_session(error: &Error) -> bool {
    matches!(code(error), Some("25006" | "26000")) || is_outdated_plan(error)
}

/// Whether the columns of a prepared statement have other types now. The code stands for any missing feature,
/// and the message is translated.
fn is_outdated_plan(error: &Error) -> bool {
    code(error) == Some("0A000")
        && server_error(error).is_some_and(|it| it.routine() == Some("RevalidateCachedQuery"))
}

/// Whether the log lacks an event that was committed, as on a former primary or after a failover that lost
/// commits. The statement had no effect.
pub(super) fn has_lost_event(error: &Error) -> bool {
    code(error) == Some(LOST_EVENT)
}

/// Whether the connection was lost, so that the outcome of the last statement is unknown.
pub(super) fn is_lost(error: &Error) -> bool {
    match error {
        Error::Io(_) | Error::Protocol(_) | Error::PoolTimedOut | Error::WorkerCrashed => true,
        Error::Database(_) => class(error) == Some("08") || is_ending_session(error),
        _ => false,
    }
}

/// Whether the server refused the data, so that it would refuse it again.
pub(super) fn is_bad_data(error: &Error) -> bool {
    matches!(class(error), Some("21" | "22" | "23" | "54")) || matches!(error, Error::Encode(_))
}

/// Whether a row violated a unique index.
pub(super) fn is_unique_violation(error: &Error) -> bool {
    code(error) == Some("23505")
}

/// Whether the statement may succeed if it is sent again: after a lost connection, a deadlock, a timeout
/// of a lock or statement, a fault of the server's disk, on a server that is out of resources, or on a new
/// connection.
pub(super) fn is_transient(error: &Error) -> bool {
    (is_lost(error) && !is_tls_failure(error))
        || matches!(class(error), Some("40" | "53"))
        || matches!(code(error), Some("55P03" | "57014" | "58000" | "58030"))
        || needs_new_session(error)
}

/// Whether the server ended the transaction to resolve a deadlock.
pub(super) fn is_deadlock(error: &Error) -> bool {
    code(error) == Some("40P01")
}

/// Whether the role lacks a privilege.
pub(super) fn is_forbidden(error: &Error) -> bool {
    code(error) == Some("42501")
}

/// Whether a table or its schema does not exist.
pub(super) fn is_undefined(error: &Error) -> bool {
    matches!(code(error), Some("42P01" | "3F000"))
}

/// Whether the TLS handshake failed. Retrying does not help.
fn is_tls_failure(error: &Error) -> bool {
    matches!(error, Error::Io(cause) if cause.kind() == ErrorKind::InvalidData)
}

/// Whether the server ends the session: shutdown by an administrator, a crash, starting up, or a
/// timeout of the idle session, of an idle transaction or of a whole transaction. The statement may have been
/// committed before.
fn is_ending_session(error: &Error) -> bool {
    matches!(code(error), Some("57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25P04"))
}

/// The first two characters of the SQLSTATE.
fn class(error: &Error) -> Option<&str> {
    code(error)?.get(..2)
}

/// The SQLSTATE of an error that the server reported.
fn code(error: &Error) -> Option<&str> {
    server_error(error).map(PgDatabaseError::code)
}

/// An error that the server reported.
fn server_error(error: &Error) -> Option<&PgDatabaseError> {
    let Error::Database(cause) = error else { return None };
    cause.try_downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_distinguish_a_lost_connection_from_a_refused_statement() {
        let lost = Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert!(is_lost(&lost) && is_transient(&lost) && !is_bad_data(&lost));
        let handshake = Error::Io(ErrorKind::InvalidData.into());
        assert!(is_lost(&handshake) && !is_transient(&handshake));
        let refused = Error::Encode("too long".into());
        assert!(!is_lost(&refused) && !is_transient(&refused) && is_bad_data(&refused));
    }

    #[test]
    fn should_name_the_operation() {
        let lost = Error::Io(std::io::ErrorKind::ConnectionReset.into());
        let error = store_error("read the log", "aios", lost);
        assert_eq!(error.to_string(), "postgres failed to read the log");
        assert!(error.is_retryable());
        assert_eq!(store_error("read", "aios", Error::PoolClosed).code(), "STORE_CLOSED");
    }
}
