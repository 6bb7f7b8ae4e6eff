//! Tells store and broker which agents there are.

use std::sync::Arc;

use aios_core::{
    Chain,
    broker::{BrokerError, Publish},
    event::{Event, EventError, EventType},
    store::{Append, StoreError, StreamId},
};
use serde::Serialize;

use super::{Shared, hosted::HostedType, watch};
use crate::agent::AgentError;

/// An event about an agent, and the stream it belongs to.
#[derive(Clone, Debug)]
pub(super) struct Announcement {
    pub(super) stream: StreamId,
    pub(super) event: Event,
}

impl Shared {
    /// An event of this host that happens now.
    pub(super) fn event<T: Serialize>(
        &self,
        event_type: &EventType,
        data: &T,
    ) -> Result<Event, EventError> {
        let event = Event::new(event_type.clone(), Arc::clone(&self.source), data)?;
        Ok(event.with_timestamp(self.clock.now()))
    }

    /// An event about an agent that happens now.
    pub(super) fn announcement<T: Serialize>(
        &self,
        agent_id: &str,
        event_type: &EventType,
        data: &T,
    ) -> Result<Announcement, AgentError> {
        let stream = StreamId::new(format!("agents/{agent_id}"))?;
        Ok(Announcement { stream, event: self.event(event_type, data)? })
    }

    /// Appends to the store, if there is one, then publishes.
    pub(super) async fn announce(&self, all: Vec<Announcement>) -> Result<(), AgentError> {
        if let Some(store) = &self.store {
            let appends =
                all.iter().map(|one| Append::new(one.stream.clone(), vec![one.event.clone()]));
            store.append(appends.collect()).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        }
        self.publish(all).await
    }

    async fn publish(&self, all: Vec<Announcement>) -> Result<(), AgentError> {
        let batch = all.into_iter().map(|one| Publish::new(one.event)).collect();
        self.broker.publish(batch).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(())
    }

    /// Tells store and broker that agents are there. Only an agent that was not known to run gets an
    /// event in the log, so that the log does not grow while nothing happens.
    async fn announce_seen(&self, seen: Vec<(String, Announcement)>) {
        if seen.is_empty() {
            return;
        }
        let unknown = match &self.store {
            None => Vec::new(),
            Some(store) => {
                let ids: Vec<String> = seen.iter().map(|(id, _)| id.clone()).collect();
                match store.touch_agents(&ids, self.clock.now()).await {
                    Ok(unknown) => unknown,
                    Err(error) => return self.unannounced(&error.into()),
                }
            }
        };
        let (returned, known): (Vec<_>, Vec<_>) =
            seen.into_iter().partition(|(id, _)| unknown.contains(id));
        self.announce_or_warn(returned.into_iter().map(|(_, seen)| seen).collect()).await;
        let known: Vec<_> = known.into_iter().map(|(_, seen)| seen).collect();
        if !known.is_empty()
            && let Err(error) = self.publish(known).await
        {
            self.unannounced(&error);
        }
    }

    /// Announces what the next announcement repeats anyway: a failure that may pass is only logged.
    pub(super) async fn announce_or_warn(&self, all: Vec<Announcement>) {
        if all.is_empty() {
            return;
        }
        if let Err(error) = self.announce(all).await {
            self.unannounced(&error);
        }
    }

    /// Whatever closed store or broker says so itself.
    fn unannounced(&self, error: &AgentError) {
        match error {
            AgentError::Store(StoreError::Closed) | AgentError::Broker(BrokerError::Closed) => {}
            error if !error.is_retryable() => return self.fail("announce agents", error),
            _ => {}
        }
        tracing::warn!(
            code = error.code(),
            error = %Chain(error),
            "agents could not be announced"
        );
    }
}

/// Says now and then which agents are there, and looks for those that are missing.
pub(super) async fn run(shared: Arc<Shared>, types: Vec<Arc<HostedType>>) {
    let mut suspects = watch::Suspects::default();
    loop {
        shared.clock.sleep(shared.options.announce_interval).await;
        let seen = types.iter().flat_map(|hosted| hosted.seen()).collect();
        shared.announce_seen(seen).await;
        if let Some(store) = &shared.store {
            watch::report_missing(&shared, &**store, &mut suspects).await;
        }
    }
}
