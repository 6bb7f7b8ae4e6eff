//! The checks of a subscription.
//!
//! A check asks the server and may take as long as the operation timeout, so the task of the subscription
//! runs it beside its deliveries. Whatever is delivered in the meantime shows that the consumer works.

use aios_core::broker::BrokerError;

use super::{ConsumeTask, Session, SettlementContext};
use crate::rabbitmq::{
    error::{about, warn},
    topology,
};

/// Detects a consumer that receives nothing although its queue has events, or was deleted.
/// Consumers of any AMQP library can become silent in this way.
#[derive(Default)]
pub(super) struct DeliveryWatchdog {
    /// Something was delivered since the last check began.
    delivered: bool,
    /// Events were waiting at the last check, too.
    suspicious: bool,
    /// It began behind another reader of its mailbox, and nothing was delivered to it.
    pub(super) may_wait: bool,
}

impl DeliveryWatchdog {
    /// Begins with a new session.
    pub(super) fn new(session: &Session) -> Self {
        Self { may_wait: session.is_second, ..Self::default() }
    }

    /// Records that something was delivered.
    pub(super) fn delivered(&mut self) {
        self.delivered = true;
        self.may_wait = false;
    }

    /// Begins a check. Returns whether it has to inspect the queue.
    pub(super) fn begin(&mut self, task: &ConsumeTask, session: &Session) -> bool {
        let quiet = !std::mem::take(&mut self.delivered);
        // A consumer at its prefetch limit receives nothing more.
        let unsettled = session.unsettled() + task.inbox.len();
        quiet && unsettled < usize::from(task.context.subscription.prefetch)
    }

    /// Ends a check. A queue that is gone counts at once; a queue with events only if it had some at
    /// the last check too, because they may be on their way.
    pub(super) fn is_silent(&mut self, found: QueueState) -> bool {
        let state = if self.delivered { QueueState::Nothing } else { found };
        let silent = match state {
            QueueState::Gone => true,
            QueueState::Events => self.suspicious,
            QueueState::Nothing => false,
        };
        self.suspicious = matches!(state, QueueState::Events);
        silent
    }
}

/// The state of a queue.
pub(super) enum QueueState {
    /// No event waits, or it is unknown.
    Nothing,
    /// Events wait that no consumer has.
    Events,
    /// The queue no longer exists. A server does not always notify the consumer: RabbitMQ 4.3 does
    /// not if the queue is deleted while it is being published to.
    Gone,
}

/// Checks once. Binds the queue again, because another process may have found the exchange deleted.
pub(super) async fn check(context: &SettlementContext, inspects: bool) -> QueueState {
    context.delay_queues.count_unclaimed(&context.link).await;
    // Also of a consumer that is busy: it does not see what is published to no queue.
    restore_bindings(context).await;
    match inspects {
        true => queue_state(context).await,
        false => QueueState::Nothing,
    }
}

/// Binds the queue again, in case the exchange was deleted. If the queue is gone as well, the
/// watchdog notices.
pub(super) async fn restore_bindings(context: &SettlementContext) {
    let SettlementContext { link, subscription, .. } = context;
    match topology::restore_bindings(link, subscription).await {
        Ok(()) | Err(BrokerError::UnknownAddress { .. } | BrokerError::Closed) => {}
        Err(error) => warn(&error, "failed to bind a queue again; it is tried again later"),
    }
}

/// Returns the state of the subscription's queue. A failure to inspect it counts as `Nothing`.
pub(super) async fn queue_state(context: &SettlementContext) -> QueueState {
    let SettlementContext { link, subscription, .. } = context;
    let name = topology::queue(&link.options.prefix, &subscription.address);
    let Ok((_connection, channel)) = link.channel().await else { return QueueState::Nothing };
    let queue = topology::inspect(link, &channel, &name).await;
    match queue.map_err(|error| about(&subscription.address, error)) {
        Ok(queue) if queue.message_count() > 0 => QueueState::Events,
        Err(BrokerError::UnknownAddress { .. }) => QueueState::Gone,
        Ok(_) | Err(_) => QueueState::Nothing,
    }
}
