//! The subscription to the tasks of a type, or of one agent.
//!
//! Its prefetch is the number of slots. Tasks that are delivered while all slots are busy are held, with
//! heartbeats for each (see `held`). If that takes too long, or the thread or event loop of the agents is
//! blocked, the subscription ends, and the broker delivers them to other processes. It begins again when
//! a slot is free. Transient errors of the broker are retried without end; a permanent one makes the
//! host impaired.
//!
//! | end of a subscription | what follows |
//! |---|---|
//! | `Closed` | the consumer ends |
//! | `Failed`, transient | a pause with back-off, then a new subscription |
//! | `Failed`, permanent | the host is impaired, and the agents are no longer announced |
//! | `Busy` | a new subscription when a slot is free |
//! | `Blocked` | a new subscription when the place responds again |
//! | `Idle` | a new subscription when the type has an agent |
//! | `Resized` | a new subscription at once, with a larger prefetch |
//!
//! Dropping a subscription releases the deliveries that are held, so nothing has to be settled when
//! it ends.

use std::{pin::pin, sync::Arc, time::Duration};

use super::{
    hosted::{HostedAgent, HostedType},
    slot::Occupied,
    task::Held,
};
use crate::{
    agent::{AgentError, backoff::BackoffTimer},
    task,
};
use aios_core::{
    Chain,
    broker::{BrokerError, Deliveries, Delivery, Subscription},
};

/// How long tasks may wait in this process while overdue code occupies slots, before they are
/// released to the broker.
const REDUCED_PATIENCE: Duration = Duration::from_secs(1);

/// Takes the tasks of one subscription, for one agent or for any of the type.
pub(super) struct Consumer {
    hosted: Arc<HostedType>,
    /// `subscribe` sets its prefetch each time.
    subscription: Subscription,
    /// The agent whose mailbox this is; `None` for the group of the type, whose agents take turns.
    agent: Option<Arc<HostedAgent>>,
    backoff: BackoffTimer,
}

impl Consumer {
    /// A consumer that has not subscribed yet.
    pub(super) fn new(
        hosted: &Arc<HostedType>,
        subscription: Subscription,
        agent: Option<Arc<HostedAgent>>,
    ) -> Self {
        let backoff = BackoffTimer::new(hosted.shared.options.backoff);
        Self { hosted: Arc::clone(hosted), subscription, agent, backoff }
    }

    /// Subscribes, and returns the future that takes the tasks. That future retries after a
    /// transient failure.
    pub(super) async fn start(
        mut self,
    ) -> Result<impl Future<Output = ()> + Send + 'static, AgentError> {
        let deliveries = match self.subscribe().await {
            Ok(deliveries) => Some(deliveries),
            Err(error) if error.is_retryable() => None,
            Err(error) => return Err(error.into()),
        };
        Ok(self.run(deliveries))
    }

    /// Takes tasks until the broker is closed or refuses the subscription permanently.
    pub(super) async fn run(mut self, mut deliveries: Option<Deliveries>) {
        loop {
            let end = match deliveries.take() {
                Some(deliveries) => self.take_all(deliveries).await,
                None => match self.subscribe_when_ready().await {
                    Ok(subscribed) => {
                        deliveries = Some(subscribed);
                        continue;
                    }
                    Err(error) => End::Failed(error),
                },
            };
            match end {
                End::Closed | End::Failed(BrokerError::Closed) => return,
                End::Failed(error) if error.is_retryable() => self.recover(&error).await,
                End::Failed(error) => return self.give_up(error),
                End::Busy => self.hosted.slots.any_free().await,
                End::Blocked => self.hosted.place.free().await,
                End::Resized | End::Idle => {}
            }
        }
    }

    /// Subscribes once there is an agent for the tasks.
    ///
    /// The mailbox of one agent is only read while that agent exists, so it need not wait.
    async fn subscribe_when_ready(&mut self) -> Result<Deliveries, BrokerError> {
        if self.agent.is_none() {
            self.hosted.ready().await;
        }
        self.subscribe().await
    }

    /// Subscribes with a prefetch of as many tasks as can run.
    async fn subscribe(&mut self) -> Result<Deliveries, BrokerError> {
        self.subscription.prefetch = self.hosted.slots.usable();
        self.hosted.shared.broker.subscribe(self.subscription.clone()).await
    }

    /// Reports that the broker refuses the subscription permanently.
    fn give_up(&self, error: BrokerError) {
        let what = format!("take tasks from {}", self.subscription.address);
        self.hosted.shared.fail(&what, &error.into());
        self.hosted.withdraw(self.agent.as_deref());
    }

    /// Logs a transient error, and waits before the next subscription.
    async fn recover(&mut self, error: &BrokerError) {
        tracing::warn!(
            code = error.code(), error = %Chain(error),
            address = %self.subscription.address, "a subscription failed; subscribing again"
        );
        self.backoff.wait(&*self.hosted.shared.clock).await;
    }

    /// Spawns a future for each task, in a slot. When the subscription ends, returns after all
    /// delivered tasks have begun.
    async fn take_all(&mut self, mut deliveries: Deliveries) -> End {
        let place = Arc::clone(&self.hosted.place);
        // Pinned outside of the loop: a wake-up between two turns is not lost.
        let mut blocked = pin!(place.blocked());
        let mut held = Held::default();
        let mut end = None;
        loop {
            if held.is_empty() {
                if let Some(end) = end {
                    // Returned only when nothing is held any more: what was delivered before the
                    // end is still valid.
                    return end;
                }
                let next = tokio::select! {
                    biased;
                    () = blocked.as_mut() => return End::Blocked,
                    next = deliveries.next() => next,
                };
                end = self.hold(next, &mut held);
                continue;
            }
            let slot = tokio::select! {
                biased;
                () = blocked.as_mut() => return End::Blocked,
                slot = self.slot(&mut deliveries, &mut held, &mut end) => slot,
            };
            let Some(slot) = slot else { return End::Busy };
            let agent = self.agent.clone().or_else(|| self.hosted.pick());
            // The last agent was removed while tasks waited. Dropping them returns them to the
            // broker.
            let Some(agent) = agent else { return End::Idle };
            let Some(delivery) = held.pop() else { return End::Closed };
            // Boxed, because a large future is moved several times on its way into a task.
            task::spawn(Box::pin(Arc::clone(&self.hosted).take(agent, delivery, slot)));
            if self.is_resized() {
                return End::Resized;
            }
        }
    }

    /// Stores a delivery until it gets a slot. Returns why the subscription ended, if it did.
    fn hold(
        &mut self,
        item: Option<Result<Delivery, BrokerError>>,
        held: &mut Held,
    ) -> Option<End> {
        match item {
            Some(Ok(delivery)) => {
                self.backoff.reset();
                held.push(delivery, &self.hosted);
                None
            }
            Some(Err(error)) => Some(End::Failed(error)),
            None => Some(End::Closed),
        }
    }

    /// Whether slots that overdue code occupied are free again, so that the prefetch of this
    /// subscription is too small.
    fn is_resized(&self) -> bool {
        let slots = &self.hosted.slots;
        !slots.is_reduced() && self.subscription.prefetch < slots.usable()
    }

    /// Waits for a slot and accepts further deliveries in the meantime. Returns `None` if the
    /// running tasks take so long that the waiting ones should be released to the broker.
    async fn slot(
        &mut self,
        deliveries: &mut Deliveries,
        held: &mut Held,
        end: &mut Option<End>,
    ) -> Option<Occupied> {
        let hosted = Arc::clone(&self.hosted);
        let mut slot = pin!(hosted.slots.occupy());
        let mut impatient = pin!(impatient(&hosted));
        loop {
            tokio::select! {
                biased;
                slot = &mut slot => return slot,
                () = &mut impatient => return None,
                // Without this guard, a subscription that has ended would be polled in a loop.
                item = deliveries.next(), if end.is_none() => *end = self.hold(item, held),
                () = held.beat_due(&*hosted.shared.clock) => held.beat(&hosted),
            }
        }
    }
}

/// Completes when a task has waited too long for a slot: [`REDUCED_PATIENCE`] if overdue code
/// occupies slots, because other processes may have free ones; otherwise `early_ack_after`, which
/// is shorter than the broker's consumer timeout.
async fn impatient(hosted: &HostedType) {
    let clock = &hosted.shared.clock;
    let reduced = async {
        hosted.slots.reduced().await;
        clock.sleep(REDUCED_PATIENCE).await;
    };
    let late = async {
        match hosted.shared.options.early_ack_after {
            Some(patience) => clock.sleep(patience).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = reduced => {}
        () = late => {}
    }
}

/// Why a subscription ended.
enum End {
    /// The broker or the host was closed.
    Closed,
    Failed(BrokerError),
    /// Long-running tasks occupy every slot.
    Busy,
    /// The thread or event loop that runs the agents is blocked.
    Blocked,
    /// The last agent of the type was removed.
    Idle,
    /// More tasks can run than this subscription prefetches.
    Resized,
}
