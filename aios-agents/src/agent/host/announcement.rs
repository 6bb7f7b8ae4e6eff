//! Events about agents, for the store and the broker.
//!
//! An announcement is first appended to the stream of its agent, and then published. The log is the
//! truth, so nothing is published that is not recorded. A process without a store only publishes.
//!
//! Registrations must succeed for the host to start. Everything later is repeated at the next
//! announcement interval, so a transient failure costs nothing but a warning.

use std::sync::Arc;

use aios_core::{
    Chain,
    broker::{BrokerError, Publish},
    event::{Event, EventError, EventType},
    store::{Append, StoreError, StreamId},
};
use serde::Serialize;

use super::Shared;
use crate::agent::AgentError;

/// An event about an agent, and the stream it belongs to.
#[derive(Clone, Debug)]
pub(super) struct Announcement {
    /// `agents/<agent id>`, which has the reports of processes, not the desired state.
    pub(super) stream: StreamId,
    pub(super) event: Event,
}

impl Shared {
    /// Creates an event of this host with the current time.
    pub(super) fn event<T: Serialize>(
        &self,
        event_type: &EventType,
        data: &T,
    ) -> Result<Event, EventError> {
        let event = Event::new(event_type.clone(), Arc::clone(&self.source), data)?;
        Ok(event.with_timestamp(self.clock.now()))
    }

    /// Creates an event about an agent with the current time.
    pub(super) fn announcement<T: Serialize>(
        &self,
        agent_id: &str,
        event_type: &EventType,
        data: &T,
    ) -> Result<Announcement, AgentError> {
        let stream = StreamId::new(format!("agents/{agent_id}"))?;
        Ok(Announcement { stream, event: self.event(event_type, data)? })
    }

    /// Appends to the store, if there is one, and then publishes.
    pub(super) async fn announce(&self, all: Vec<Announcement>) -> Result<(), AgentError> {
        if let Some(store) = &self.store {
            let appends =
                all.iter().map(|one| Append::new(one.stream.clone(), vec![one.event.clone()]));
            store.append(appends.collect()).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        }
        self.publish(all).await
    }

    /// Publishes without recording, for what the store knows already.
    pub(super) async fn publish(&self, all: Vec<Announcement>) -> Result<(), AgentError> {
        let batch = all.into_iter().map(|one| Publish::new(one.event)).collect();
        self.broker.publish(batch).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(())
    }

    /// Announces something that the next announcement repeats anyway, so a transient failure is
    /// only logged.
    pub(super) async fn announce_or_warn(&self, all: Vec<Announcement>) {
        if all.is_empty() {
            return;
        }
        if let Err(error) = self.announce(all).await {
            self.on_announce_failure(&error);
        }
    }

    /// Ignores that store or broker was closed, reports a permanent failure, and logs the others.
    pub(super) fn on_announce_failure(&self, error: &AgentError) {
        match error {
            // The process is shutting down.
            AgentError::Store(StoreError::Closed) | AgentError::Broker(BrokerError::Closed) => {}
            error if !error.is_retryable() => return self.fail("announce agents", error),
            _ => {}
        }
        tracing::warn!(
            code = error.code(),
            error = %Chain(error),
            "failed to announce agents"
        );
    }
}
