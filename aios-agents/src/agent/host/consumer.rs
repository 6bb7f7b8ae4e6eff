use std::sync::Arc;

use aios_core::{
    Chain,
    broker::{BrokerError, Deliveries, Subscription},
    clock::ClockExt,
};
use tokio::sync::OwnedSemaphorePermit;

use super::hosted::{HostedAgent, HostedType};
use crate::agent::{AgentError, backoff::Backoff};

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
        self,
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
                // Nothing closes the semaphore.
                End::Busy => drop(self.hosted.permits.acquire().await),
            }
        }
    }

    async fn subscribe(&self) -> Result<Deliveries, BrokerError> {
        self.hosted.shared.broker.subscribe(self.subscription.clone()).await
    }

    async fn recover(&mut self, error: &BrokerError) {
        tracing::warn!(
            code = error.code(), error = %Chain(error),
            address = %self.subscription.address, "a subscription failed; it is made again"
        );
        self.backoff.wait(&*self.hosted.shared.clock).await;
    }

    /// Spawns a future for each task, under a permit. Ends with the subscription.
    async fn take_all(&mut self, mut deliveries: Deliveries) -> End {
        while let Some(item) = deliveries.next().await {
            let delivery = match item {
                Ok(delivery) => delivery,
                Err(error) => return End::Failed(error),
            };
            self.backoff.reset();
            let Some(permit) = self.permit().await else { return End::Busy };
            let Some(agent) = self.agent.clone().or_else(|| self.hosted.pick()) else {
                return End::Closed;
            };
            tokio::spawn(Arc::clone(&self.hosted).take(agent, delivery, permit));
        }
        End::Closed
    }

    /// A permit for one task; `None` if the tasks that run take so long that what waits for them
    /// is better given back than held until the broker's consumer timeout.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.hosted.permits).acquire_owned();
        let Some(patience) = self.hosted.shared.options.early_ack_after else {
            return permit.await.ok();
        };
        tokio::select! {
            biased;
            permit = permit => permit.ok(),
            () = self.hosted.shared.clock.sleep(patience) => None,
        }
    }
}

/// Why a subscription ended.
enum End {
    /// The broker, or the host, was closed.
    Closed,
    Failed(BrokerError),
    /// Every permit is held by a task that takes long.
    Busy,
}
