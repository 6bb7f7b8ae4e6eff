//! Timeouts and the mapping of errors of lapin, in one place.
//!
//! Every request to the server goes through [`within`]: a connection that swallows packets would
//! otherwise block its caller until the heartbeat notices.
//!
//! An error is retryable if lapin says that it can be recovered from, if the server had an internal error,
//! or if the connection has no channel left, unless the server refused the user, the virtual host, or the
//! request as such: it would refuse the same request again. The text of the reply has to be examined for
//! some of these, because AMQP has one code for several causes.

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
    let is_transient = error.can_be_recovered() || is_internal(&error) || is_full(&error);
    let retryable = is_transient && !is_refused(&error);
    BrokerError::Backend { backend: "RabbitMQ", operation, retryable, source: Cause::new(error) }
}

/// Logs an error that the adapter handles by itself.
pub(super) fn warn(error: &BrokerError, what: &'static str) {
    tracing::warn!(code = error.code(), error = %Chain(error), "{what}");
}

/// Whether the connection has as many channels as the server allows. Others may be closed later.
fn is_full(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ChannelsLimitReached)
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

/// Whether the server denies access to the user, has no such virtual host, or can't do what it was asked
/// for: an object of the name has other properties, or the virtual host has no room for another one.
fn is_refused(error: &lapin::Error) -> bool {
    let ErrorKind::ProtocolError(error) = error.kind() else { return false };
    let text = error.get_message().as_str();
    match error.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => true,
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => !is_about_delivery(text),
        AMQPErrorKind::Soft(_) => false,
        AMQPErrorKind::Hard(AMQPHardError::NOTIMPLEMENTED) => true,
        // The same code also means too many connections, which is transient.
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => {
            text.contains("not found")
                || text.contains("refused for user") && !text.contains("limit")
        }
        AMQPErrorKind::Hard(_) => false,
    }
}

/// Whether the server closed the channel because of one of its deliveries, which says nothing about the
/// request that was lost with it. The texts are `delivery acknowledgement on channel 1 timed out` and
/// `unknown delivery tag 7`.
fn is_about_delivery(text: &str) -> bool {
    text.contains("delivery acknowledgement on channel") || text.contains("unknown delivery tag")
}

/// Names what was declared differently, or does not exist.
///
/// The server closes a channel with the same codes for every object, so the caller says which one
/// it asked for. A queue whose node is down has the code of one that does not exist; the error of
/// the server, which names the node, is kept then.
pub(super) fn about(address: &Address, error: BrokerError) -> BrokerError {
    let address = address.clone();
    match reply(&error) {
        Some((AMQPSoftError::PRECONDITIONFAILED, difference)) if is_difference(&difference) => {
            BrokerError::Incompatible { address, difference }
        }
        Some((AMQPSoftError::NOTFOUND, text)) if !is_down(&text) => {
            BrokerError::UnknownAddress { address }
        }
        _ => error,
    }
}

/// Whether an object exists with other properties. The same code also means that there is no room for
/// another one. The text is `inequivalent arg 'x-expires' for queue 'x' in vhost '/': received …`.
fn is_difference(text: &str) -> bool {
    text.contains("inequivalent arg")
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
