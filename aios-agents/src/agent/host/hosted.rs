use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use aios_core::{
    Chain,
    agent::{DynAgent, Name},
    catalog::agent::{Registered, Seen, StatusChanged},
    event::EventType,
    store::AgentStatus,
};
use parking_lot::RwLock;
use serde::Serialize;
use tokio::sync::Notify;

use super::{Shared, announcement::Announcement, place::Place, slot::Slots};
use crate::agent::{AgentDefinition, AgentError, RegisteredAgent, names::AgentEventTypes};

/// An agent that takes tasks.
pub(super) struct HostedAgent {
    pub(super) id: Arc<str>,
    pub(super) agent: Arc<dyn DynAgent>,
    /// Whether the broker permanently refuses the mailbox of this agent.
    is_withdrawn: AtomicBool,
}

/// The agents of one type in this process.
pub(super) struct HostedType {
    pub(super) shared: Arc<Shared>,
    pub(super) agent_type: Name,
    pub(super) type_name: Arc<str>,
    pub(super) names: AgentEventTypes,
    pub(super) definition: AgentDefinition,
    pub(super) slots: Arc<Slots>,
    pub(super) place: Arc<Place>,
    ready: RwLock<Vec<Arc<HostedAgent>>>,
    /// Whether the broker permanently refuses the group of the type.
    is_withdrawn: AtomicBool,
    next: AtomicUsize,
    became_ready: Notify,
    /// Agents whose factory fails.
    failed: RwLock<BTreeSet<String>>,
}

impl HostedType {
    pub(super) fn new(
        shared: &Arc<Shared>,
        agent_type: Name,
        definition: AgentDefinition,
        place: Arc<Place>,
    ) -> Result<Arc<Self>, AgentError> {
        let type_name = agent_type.as_str().into();
        Ok(Arc::new(Self {
            shared: Arc::clone(shared),
            names: AgentEventTypes::new(&agent_type)?,
            slots: Slots::new(&type_name, definition.concurrency),
            place,
            type_name,
            ready: RwLock::default(),
            is_withdrawn: AtomicBool::new(false),
            next: AtomicUsize::new(0),
            became_ready: Notify::new(),
            failed: RwLock::default(),
            agent_type,
            definition,
        }))
    }

    /// Adds an agent, which takes tasks from now on.
    pub(super) fn add(&self, id: &str, agent: Arc<dyn DynAgent>) -> Arc<HostedAgent> {
        let layers = self.definition.layers.iter().rev();
        let agent = layers.fold(agent, |agent, layer| layer.wrap(agent));
        let hosted =
            Arc::new(HostedAgent { id: id.into(), agent, is_withdrawn: AtomicBool::new(false) });
        let mut ready = self.ready.write();
        ready.push(Arc::clone(&hosted));
        drop(ready);
        self.set_failed(id, false);
        self.became_ready.notify_one();
        hosted
    }

    /// Removes an agent, which takes no more tasks.
    pub(super) fn remove(&self, id: &str) {
        let mut ready = self.ready.write();
        ready.retain(|agent| &*agent.id != id);
        drop(ready);
        self.set_failed(id, false);
    }

    /// Waits until there is an agent that takes tasks.
    pub(super) async fn ready(&self) {
        loop {
            let mut became_ready = std::pin::pin!(self.became_ready.notified());
            became_ready.as_mut().enable();
            if !self.ready_ids().is_empty() {
                return;
            }
            became_ready.await;
        }
    }

    pub(super) fn set_failed(&self, id: &str, has_failed: bool) {
        let mut failed = self.failed.write();
        let _ = if has_failed { failed.insert(id.to_owned()) } else { failed.remove(id) };
        drop(failed);
        self.shared.agents_changed.notify_one();
    }

    pub(super) fn has_failed(&self, id: &str) -> bool {
        self.failed.read().contains(id)
    }

    /// Stops announcing one agent, or all agents of the type, because their tasks can't be received
    /// any more.
    pub(super) fn withdraw(&self, agent: Option<&HostedAgent>) {
        match agent {
            Some(agent) => agent.is_withdrawn.store(true, Ordering::Release),
            None => self.is_withdrawn.store(true, Ordering::Release),
        }
    }

    /// The next agent in turn, or `None` before the first was created.
    pub(super) fn pick(&self) -> Option<Arc<HostedAgent>> {
        let ready = self.ready.read();
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        ready.get(turn.checked_rem(ready.len())?).cloned()
    }

    pub(super) fn registered(&self) -> Result<Vec<Announcement>, AgentError> {
        let agents = self.definition.agents.iter();
        agents
            .map(|agent| self.announcement(&agent.id, &self.names.registered, &registered(agent)))
            .collect()
    }

    /// The agents that currently take tasks, with the announcements of their presence.
    pub(super) fn seen(&self) -> Vec<(String, Announcement)> {
        if self.place.is_blocked() || self.is_withdrawn.load(Ordering::Acquire) {
            return Vec::new();
        }
        let ids = self.taking_ids().into_iter();
        ids.filter_map(|id| Some((id.to_string(), self.seen_now(&id)?))).collect()
    }

    pub(super) fn status_of_ready(&self, status: AgentStatus) -> Vec<Announcement> {
        let ids = self.ready_ids().into_iter();
        ids.filter_map(|id| self.status_of(&id, status)).collect()
    }

    pub(super) fn status_of(&self, agent_id: &str, status: AgentStatus) -> Option<Announcement> {
        self.note(
            agent_id,
            &self.names.status_changed,
            &StatusChanged::new(agent_id.to_owned(), status),
        )
    }

    pub(super) fn seen_now(&self, agent_id: &str) -> Option<Announcement> {
        self.note(agent_id, &self.names.seen, &Seen::new(agent_id.to_owned()))
    }

    /// Ids of the agents whose tasks can be received.
    pub(super) fn taking_ids(&self) -> Vec<Arc<str>> {
        let ready = self.ready.read();
        let taking = ready.iter().filter(|agent| !agent.is_withdrawn.load(Ordering::Acquire));
        taking.map(|agent| Arc::clone(&agent.id)).collect()
    }

    fn ready_ids(&self) -> Vec<Arc<str>> {
        let ready = self.ready.read();
        ready.iter().map(|agent| Arc::clone(&agent.id)).collect()
    }

    fn announcement<T: Serialize>(
        &self,
        agent_id: &str,
        event_type: &EventType,
        data: &T,
    ) -> Result<Announcement, AgentError> {
        self.shared.announcement(agent_id, event_type, data)
    }

    /// Creates an announcement. Its data and stream were valid when the agent was registered, so a
    /// failure is only logged.
    fn note<T: Serialize>(
        &self,
        agent_id: &str,
        event_type: &EventType,
        data: &T,
    ) -> Option<Announcement> {
        self.announcement(agent_id, event_type, data)
            .inspect_err(|error| tracing::error!(code = error.code(), agent_id, "{}", Chain(error)))
            .ok()
    }
}

fn registered(agent: &RegisteredAgent) -> Registered {
    Registered::new(agent.id.clone(), agent.name.clone(), agent.config.clone())
}

impl fmt::Debug for HostedType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HostedType")
            .field("agent_type", &self.type_name)
            .field("ready", &self.ready_ids())
            .finish_non_exhaustive()
    }
}
