//! The checks of a subscription.
//!
//! A check asks the server and may take as long as the operation timeout, so the task of the subscription
//! runs it beside its deliveries. Whatever is delivered in the meantime shows that the consumer works.
//!
//! An exchange that was deleted has taken the bindings of its queues with it. A check sees that the exchange
//! is missing. It does not see that another process has declared it again, because AMQP does not list
//! bindings, so each tenth check binds the queue in any case. It would be a write on the server if each did.

use aios_core::broker::BrokerError;

use super::{ConsumeTask, Session, SettlementContext};
use crate::rabbitmq::{
    error::{about, warn},
    topology,
};

/// How many checks there are for each that binds the queue again.
const REBIND_EVERY: u32 = 10;

/// Detects a consumer that receives nothing although its queue has events, or was deleted.
/// Consumers of any AMQP library can become silent in this way.
#[derive(Default)]
pub(super) struct DeliveryWatchdog {
    /// Something was delivered since the last check began.
    delivered: bool,
    /// Events were waiting at the last check, too.
    suspicious: bool,
    /// How many checks there were.
    checks: u32,
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

    /// Begins a check.
    pub(super) fn begin(&mut self, task: &ConsumeTask, session: &Session) -> Check {
        let quiet = !std::mem::take(&mut self.delivered);
        // A consumer at its prefetch limit receives nothing more.
        let unsettled = session.unsettled() + task.inbox.len();
        let hungry = unsettled < usize::from(task.context.subscription.prefetch);
        self.checks = self.checks.wrapping_add(1);
        Check { inspects: quiet && hungry, rebinds: self.checks.is_multiple_of(REBIND_EVERY) }
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

/// The requests of a check.
pub(super) struct Check {
    /// Asks for the state of the queue.
    inspects: bool,
    /// Binds the queue even if its exchanges exist.
    rebinds: bool,
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

/// Checks once. Also whether the exchange of a busy consumer exists: the consumer does not see what is
/// published to no queue.
pub(super) async fn check(context: &SettlementContext, check: Check) -> QueueState {
    let SettlementContext { link, subscription, delay_queues, .. } = context;
    delay_queues.count_unclaimed(link).await;
    // An unknown answer is none: the next check asks again.
    if check.rebinds || topology::lacks_exchange(link, subscription).await.unwrap_or_default() {
        restore_bindings(context).await;
    }
    match check.inspects {
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
