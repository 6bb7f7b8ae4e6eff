use std::{pin::pin, sync::Arc, time::Duration};

use super::{
    hosted::{HostedAgent, HostedType},
    slot::Occupied,
};
use crate::{
    agent::{AgentError, backoff::Backoff},
    task,
};
use aios_core::{
    Chain,
    broker::{BrokerError, Deliveries, Subscription},
};

/// How long tasks may wait in this process while overdue code occupies slots, before they are given
/// back to the broker.
const REDUCED_PATIENCE: Duration = Duration::from_secs(1);

/// Takes the tasks of one subscription, for one agent or for any of the type.
pub(super) struct Consumer {
    hosted: Arc<HostedType>,
    subscription: Subscription,
    agent: Option<Arc<HostedAgent>>,
    backoff: Backoff,
}

impl Consumer {
    pub(super) fn new(
        hosted: &Arc<HostedType>,
        subscription: Subscription,
        agent: Option<Arc<HostedAgent>>,
    ) -> Self {
        let backoff = Backoff::new(&hosted.shared.options.backoff);
        Self { hosted: Arc::clone(hosted), subscription, agent, backoff }
    }

    /// Subscribes, and returns what takes the tasks. A passing failure is left to that.
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

    /// Takes tasks until the broker is closed.
    pub(super) async fn run(mut self, mut deliveries: Option<Deliveries>) {
        loop {
            let end = match deliveries.take() {
                Some(deliveries) => self.take_all(deliveries).await,
                None => match self.subscribe().await {
                    Ok(subscribed) => {
                        deliveries = Some(subscribed);
                        continue;
                    }
                    Err(error) => End::Failed(error),
                },
            };
            match end {
                End::Closed | End::Failed(BrokerError::Closed) => return,
                End::Failed(error) => self.recover(&error).await,
                End::Busy => self.hosted.slots.any_free().await,
                End::Blocked => self.hosted.place.free().await,
                End::Resized => {}
            }
        }
    }

    /// Subscribes for as many tasks as can run.
    async fn subscribe(&mut self) -> Result<Deliveries, BrokerError> {
        self.subscription.prefetch = self.hosted.slots.usable();
        self.hosted.shared.broker.subscribe(self.subscription.clone()).await
    }

    async fn recover(&mut self, error: &BrokerError) {
        tracing::warn!(
            code = error.code(), error = %Chain(error),
            address = %self.subscription.address, "a subscription failed; it is made again"
        );
        self.backoff.wait(&*self.hosted.shared.clock).await;
    }

    /// Spawns a future for each task, in a slot. Ends with the subscription.
    async fn take_all(&mut self, mut deliveries: Deliveries) -> End {
        let place = Arc::clone(&self.hosted.place);
        let mut blocked = pin!(place.blocked());
        loop {
            let next = tokio::select! {
                biased;
                () = blocked.as_mut() => return End::Blocked,
                next = deliveries.next() => next,
            };
            let delivery = match next {
                Some(Ok(delivery)) => delivery,
                Some(Err(error)) => return End::Failed(error),
                None => return End::Closed,
            };
            self.backoff.reset();
            let slot = tokio::select! {
                biased;
                () = blocked.as_mut() => return End::Blocked,
                slot = self.slot() => slot,
            };
            let Some(slot) = slot else { return End::Busy };
            let Some(agent) = self.agent.clone().or_else(|| self.hosted.pick()) else {
                return End::Closed;
            };
            // Boxed, because a large future is moved several times on its way into a task.
            task::spawn(Box::pin(Arc::clone(&self.hosted).take(agent, delivery, slot)));
            if self.is_resized() {
                return End::Resized;
            }
        }
    }

    /// Whether slots that were occupied by overdue code are free again, so that this subscription
    /// asks for too few tasks.
    fn is_resized(&self) -> bool {
        let slots = &self.hosted.slots;
        !slots.is_reduced() && self.subscription.prefetch < slots.usable()
    }

    /// A slot for one task; `None` if the tasks that run take so long that what waits for them is
    /// better given back: to other processes if overdue code occupies slots, or before the broker's
    /// consumer timeout.
    async fn slot(&self) -> Option<Occupied> {
        let slots = &self.hosted.slots;
        let clock = &self.hosted.shared.clock;
        let reduced = async {
            slots.reduced().await;
            clock.sleep(REDUCED_PATIENCE).await;
        };
        let late = async {
            match self.hosted.shared.options.early_ack_after {
                Some(patience) => clock.sleep(patience).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            slot = slots.occupy() => slot,
            () = reduced => None,
            () = late => None,
        }
    }
}

/// Why a subscription ended.
enum End {
    /// The broker, or the host, was closed.
    Closed,
    Failed(BrokerError),
    /// Every slot is occupied by a task that takes long.
    Busy,
    /// What runs the agents is blocked.
    Blocked,
    /// More tasks can run than this subscription asks for.
    Resized,
}
