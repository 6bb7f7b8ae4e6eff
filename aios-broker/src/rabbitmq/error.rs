//! Timeouts and the mapping of errors of lapin, in one place.
//!
//! Every request to the server goes through [`within`]: a connection that swallows packets would
//! otherwise block its caller until the heartbeat notices.
//!
//! An error is retryable if lapin says that it can be recovered from, or if the server had an
//! internal error, unless the server refused the user or the virtual host. The text of the reply
//! has to be examined for some of these, because AMQP has one code for several causes.

use std::time::Duration;

use aios_core::{
    Cause, Chain,
    broker::{Address, BrokerError},
    clock::Clock,
};
use futures_util::future::{Either, select};
use lapin::{
    ErrorKind,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
};

/// Awaits a response of the server, with a timeout.
pub(super) async fn within<T>(
    clock: &dyn Clock,
    after: Duration,
    operation: &'static str,
    answer: impl Future<Output = Result<T, lapin::Error>>,
) -> Result<T, BrokerError> {
    match select(std::pin::pin!(answer), clock.sleep(after)).await {
        Either::Left((answer, _)) => answer.map_err(|error| backend(operation, error)),
        Either::Right(_) => Err(BrokerError::Timeout { operation, after }),
    }
}

/// Maps an error of lapin during `operation`.
pub(super) fn backend(operation: &'static str, error: lapin::Error) -> BrokerError {
    let retryable = (error.can_be_recovered() || is_internal(&error)) && !is_refused(&error);
    BrokerError::Backend { backend: "RabbitMQ", operation, retryable, source: Cause::new(error) }
}

/// Logs an error that the adapter handles by itself.
pub(super) fn warn(error: &BrokerError, what: &'static str) {
    tracing::warn!(code = error.code(), error = %Chain(error), "{what}");
}

/// Whether the server had an internal error, for example because a quorum queue has no leader yet.
fn is_internal(error: &lapin::Error) -> bool {
    match error.kind() {
        ErrorKind::ProtocolError(error) => {
            *error.kind() == AMQPErrorKind::Hard(AMQPHardError::INTERNALERROR)
        }
        _ => false,
    }
}

/// Whether the server denies access to the user, or has no such virtual host.
fn is_refused(error: &lapin::Error) -> bool {
    let ErrorKind::ProtocolError(error) = error.kind() else { return false };
    match error.kind() {
        AMQPErrorKind::Soft(code) => *code == AMQPSoftError::ACCESSREFUSED,
        // The same code also means too many connections, which is transient.
        AMQPErrorKind::Hard(code) => {
            let text = error.get_message().as_str();
            *code == AMQPHardError::NOTALLOWED
                && (text.contains("not found")
                    || text.contains("refused for user") && !text.contains("limit"))
        }
    }
}

/// Names what was declared differently, or does not exist.
///
/// The server closes a channel with the same codes for every object, so the caller says which one
/// it asked for. A queue whose node is down has the code of one that does not exist; the error of
/// the server, which names the node, is kept then.
pub(super) fn about(address: &Address, error: BrokerError) -> BrokerError {
    let address = address.clone();
    match reply(&error) {
        Some((AMQPSoftError::PRECONDITIONFAILED, difference)) => {
            BrokerError::Incompatible { address, difference }
        }
        Some((AMQPSoftError::NOTFOUND, text)) if !is_down(&text) => {
            BrokerError::UnknownAddress { address }
        }
        _ => error,
    }
}

/// Whether the server has no queue or exchange of the name that was asked for.
pub(super) fn is_not_found(error: &BrokerError) -> bool {
    matches!(reply(error), Some((AMQPSoftError::NOTFOUND, text)) if !is_down(&text))
}

/// Whether a queue exists, but the server can't reach it: a classic queue is on one node of a cluster.
/// The text is `home node 'rabbit@a' of durable queue 'x' in vhost '/' is down or inaccessible`.
fn is_down(text: &str) -> bool {
    text.contains("home node") && text.contains("is down or inaccessible")
}

/// The code and text with which the server closed a channel.
fn reply(error: &BrokerError) -> Option<(AMQPSoftError, String)> {
    let BrokerError::Backend { source, .. } = error else { return None };
    match source.get_ref().downcast_ref::<lapin::Error>()?.kind() {
        ErrorKind::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Soft(code) => Some((code.clone(), error.get_message().to_string())),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}
