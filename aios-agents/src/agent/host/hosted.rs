//! The agents of one type in this process, and their state as it is announced.
//!
//! Consumers, attempts, the reconciler and the presence loop share a `HostedType`. Each lock guards
//! one collection, is held for a few operations, and is never taken while another one is held.
//!
//! An agent is in `ready` from the moment its factory succeeds until it is removed. It is in
//! `failed` from a failure of its factory until it is created or removed. Withdrawn agents stay in
//! `ready`: the code can run, but the broker refuses their subscription, so they must not be
//! announced.

use std::{
    collections::BTreeMap,
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
    /// Part of the name of its mailbox.
    pub(super) id: Arc<str>,
    /// With the layers of the definition around it.
    pub(super) agent: Arc<dyn DynAgent>,
    /// Whether the broker permanently refuses the mailbox of this agent.
    is_withdrawn: AtomicBool,
}

/// The agents of one type in this process.
pub(super) struct HostedType {
    /// The state of the host that the type belongs to.
    pub(super) shared: Arc<Shared>,
    pub(super) agent_type: Name,
    /// The name, shared for contexts and labels.
    pub(super) type_name: Arc<str>,
    /// The event types of the agent type, built once.
    pub(super) names: AgentEventTypes,
    pub(super) definition: AgentDefinition,
    pub(super) slots: Arc<Slots>,
    /// Where the code of these agents runs. Types that share a pulse share it.
    pub(super) place: Arc<Place>,
    /// In the order in which they were created; `pick` takes turns.
    ready: RwLock<Vec<Arc<HostedAgent>>>,
    /// Whether the broker permanently refuses the group of the type.
    is_withdrawn: AtomicBool,
    /// Counts the turns of `pick`.
    next: AtomicUsize,
    /// Wakes the consumer of the group, the only one that waits for the first agent.
    became_ready: Notify,
    /// Agents whose factory fails, and whether that is announced.
    failed: RwLock<BTreeMap<String, bool>>,
}

impl HostedType {
    /// A type without agents yet.
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

    /// Puts the layers of the definition around an agent.
    pub(super) fn wrapped(&self, agent: Arc<dyn DynAgent>) -> Arc<dyn DynAgent> {
        // The first layer is the outermost, so the last one is applied first.
        let layers = self.definition.layers.iter().rev();
        layers.fold(agent, |agent, layer| layer.wrap(agent))
    }

    /// Adds an agent with its layers, which takes tasks from now on.
    pub(super) fn add(&self, id: &str, agent: Arc<dyn DynAgent>) -> Arc<HostedAgent> {
        let hosted =
            Arc::new(HostedAgent { id: id.into(), agent, is_withdrawn: AtomicBool::new(false) });
        let mut ready = self.ready.write();
        ready.push(Arc::clone(&hosted));
        drop(ready);
        self.set_failed(id, false);
        self.became_ready.notify_one();
        hosted
    }

    /// Removes an agent, which accepts no more tasks.
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
            // Enabled before the check, so that an agent that is added in between is not missed.
            became_ready.as_mut().enable();
            if !self.ready_ids().is_empty() {
                return;
            }
            became_ready.await;
        }
    }

    /// Records whether the factory of an agent fails, and wakes the reconciler, which reports it.
    pub(super) fn set_failed(&self, id: &str, has_failed: bool) {
        let mut failed = self.failed.write();
        match has_failed {
            // A failure that follows another one is not announced again.
            true => _ = failed.entry(id.to_owned()).or_insert(false),
            false => _ = failed.remove(id),
        }
        drop(failed);
        // A permit is stored, so a change during a report causes another one.
        self.shared.agents_changed.notify_one();
    }

    /// Whether the factory of an agent failed at the last attempt.
    pub(super) fn has_failed(&self, id: &str) -> bool {
        self.failed.read().contains_key(id)
    }

    /// Ids of the agents whose failure is not announced.
    fn unannounced_failures(&self) -> Vec<String> {
        let failed = self.failed.read();
        let new = failed.iter().filter(|(_, is_announced)| !**is_announced);
        new.map(|(id, _)| id.clone()).collect()
    }

    /// Announces the failures that are not announced yet. Those that store or broker do not take
    /// now are announced at the next interval.
    pub(super) async fn announce_failures(&self) {
        for id in self.unannounced_failures() {
            let status = self.status_of(&id, AgentStatus::Failed);
            match self.shared.announce(status.into_iter().collect()).await {
                Ok(()) => {
                    if let Some(is_announced) = self.failed.write().get_mut(&id) {
                        *is_announced = true;
                    }
                }
                Err(error) => self.shared.on_announce_failure(&error),
            }
        }
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
        // Wraps around after all numbers; that only skips a turn.
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        ready.get(turn.checked_rem(ready.len())?).cloned()
    }

    /// The announcements of all agents that are registered in code, for the start of the host.
    pub(super) fn registered(&self) -> Result<Vec<Announcement>, AgentError> {
        let agents = self.definition.agents.iter();
        agents
            .map(|agent| self.announcement(&agent.id, &self.names.registered, &registered(agent)))
            .collect()
    }

    /// The agents that currently take tasks, with the announcements of their presence.
    pub(super) fn seen(&self) -> Vec<(String, Announcement)> {
        // Not announced, so that they become missing and callers see it.
        if self.place.is_blocked() || self.is_withdrawn.load(Ordering::Acquire) {
            return Vec::new();
        }
        let ids = self.taking_ids().into_iter();
        ids.filter_map(|id| Some((id.to_string(), self.seen_now(&id)?))).collect()
    }

    /// The announcements of a status for every agent that was created, for the end of the host.
    pub(super) fn status_of_ready(&self, status: AgentStatus) -> Vec<Announcement> {
        let ids = self.ready_ids().into_iter();
        ids.filter_map(|id| self.status_of(&id, status)).collect()
    }

    /// The announcement of a status of one agent.
    pub(super) fn status_of(&self, agent_id: &str, status: AgentStatus) -> Option<Announcement> {
        self.note(
            agent_id,
            &self.names.status_changed,
            &StatusChanged::new(agent_id.to_owned(), status),
        )
    }

    /// The announcement that an agent is running.
    pub(super) fn seen_now(&self, agent_id: &str) -> Option<Announcement> {
        self.note(agent_id, &self.names.seen, &Seen::new(agent_id.to_owned()))
    }

    /// Ids of the agents whose tasks can be received.
    pub(super) fn taking_ids(&self) -> Vec<Arc<str>> {
        let ready = self.ready.read();
        let taking = ready.iter().filter(|agent| !agent.is_withdrawn.load(Ordering::Acquire));
        taking.map(|agent| Arc::clone(&agent.id)).collect()
    }

    /// Ids of the agents that were created, including agents that were withdrawn.
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

/// The data of the event that registers an agent.
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
