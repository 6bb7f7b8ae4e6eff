//! Tells store and broker which agents there are.

use std::sync::Arc;

use aios_core::{
    Chain,
    broker::Publish,
    clock::ClockExt,
    event::{Event, EventError, EventType},
    store::{AgentStatus, Append, StreamId},
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

/// Data of `agents.<type>.status_changed`.
#[derive(Serialize)]
pub(super) struct StatusChanged<'a> {
    pub(super) agent_id: &'a str,
    pub(super) status: AgentStatus,
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
        let batch = all.into_iter().map(|one| Publish::new(one.event)).collect();
        self.broker.publish(batch).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(())
    }

    /// Announces what the next announcement repeats anyway: a failure is only logged.
    pub(super) async fn announce_or_warn(&self, all: Vec<Announcement>) {
        if all.is_empty() {
            return;
        }
        if let Err(error) = self.announce(all).await {
            tracing::warn!(
                code = error.code(),
                error = %Chain(&error),
                "agents could not be announced"
            );
        }
    }
}

/// Says now and then which agents are there, and looks for those that are missing.
pub(super) async fn run(shared: Arc<Shared>, types: Vec<Arc<HostedType>>) {
    loop {
        shared.clock.sleep(shared.options.announce_interval).await;
        let seen = types.iter().flat_map(|hosted| hosted.seen()).collect();
        shared.announce_or_warn(seen).await;
        if let Some(store) = &shared.store {
            watch::report_missing(&shared, &**store).await;
        }
    }
}
