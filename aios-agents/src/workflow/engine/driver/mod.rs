//! Drives one run: the only place where the machine meets store, broker and clock.

mod answer;
mod commit;
mod load;
mod stay;

use std::{
    collections::HashMap,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use aios_core::{
    BoxFuture,
    agent::Segment,
    broker::{Delivery, Publish},
    event::{EventError, Metadata, Timestamp},
    failure::Failure,
    store::{Appended, Fence, StoreError, StreamId},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::{error, warn};

pub(super) use self::stay::run;
use super::{Ended, Engine, Message, dispatch::Dispatch};
use crate::{
    agent::mailbox_of,
    workflow::{
        Execution,
        journal::{ChildStarted, Codec, Entry, OfAgent, Parent, Record, TaskCancelled},
        machine::{Effect, Request},
    },
};

/// Why a run leaves memory.
#[derive(Debug)]
enum Exit {
    /// It has ended, or stands still until its code changes.
    Ended(Ended),
    /// It waits for something that will wake it.
    Waiting,
    /// Its time has not come; a timer wakes it.
    Premature,
    /// Somebody else owns it.
    Lost,
    /// There is no such run.
    Unknown,
    /// Its journal can't be read.
    Unreadable(EventError),
    /// The store refused for good.
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

/// A run in memory.
struct Driver {
    engine: Arc<Engine>,
    run_id: Arc<str>,
    stream: StreamId,
    workflow: Segment,
    codec: Arc<Codec>,
    execution: Execution,
    /// Proof that this engine owns the run, since it was loaded.
    fence: Fence,
    /// Version of the last event of the stream that was applied or held.
    version: u64,
    /// Metadata for the events that this run causes.
    metadata: Metadata,
    parent: Option<Parent>,
    /// Records that wait for the next append.
    outbox: Vec<Record>,
    /// Answers to be acknowledged once the outbox is durable.
    answers: Vec<Delivery>,
    append: Option<InFlight>,
    /// Whether to look for what others appended, once the append in flight is answered.
    nudged: bool,
    /// Why the run was blocked when it was loaded, if it was.
    blocked: Option<Failure>,
    /// Why somebody wants it cancelled, if anybody does: what is to be done with code that no
    /// longer fits.
    cancel_requested: Option<String>,
    /// When an agent last said that it works on a task, by operation.
    seen: HashMap<u64, Timestamp>,
    permit: Option<OwnedSemaphorePermit>,
}

/// Records on their way into the journal.
struct InFlight {
    records: Vec<Record>,
    answers: Vec<Delivery>,
    appending: BoxFuture<'static, Result<Appended, StoreError>>,
}

enum Happened {
    Appended(Result<Appended, StoreError>),
    Told(Option<Message>),
    Asked,
}

impl Driver {
    async fn drive(&mut self, inbox: &mut mpsc::Receiver<Message>) -> Exit {
        loop {
            self.perform_effects().await;
            if self.append.is_none() {
                if let Some(failure) = self.execution.misfit() {
                    return self.block(failure).await;
                }
                if let Err(exit) = self.begin_successor().await {
                    return exit;
                }
                self.begin_append();
            }
            if self.may_rest() && inbox.is_empty() {
                return Exit::Waiting;
            }
            let happened = poll_fn(|context| self.poll(inbox, context)).await;
            let exit = match happened {
                Happened::Appended(result) => self.appended(result).await,
                Happened::Told(Some(message)) => self.told(message).await,
                Happened::Told(None) => Some(Exit::Lost),
                Happened::Asked => None,
            };
            if let Some(exit) = exit {
                return exit;
            }
        }
    }

    fn poll(
        &mut self,
        inbox: &mut mpsc::Receiver<Message>,
        context: &mut Context<'_>,
    ) -> Poll<Happened> {
        if let Some(append) = &mut self.append
            && let Poll::Ready(result) = append.appending.as_mut().poll(context)
        {
            return Poll::Ready(Happened::Appended(result));
        }
        if let Poll::Ready(message) = inbox.poll_recv(context) {
            return Poll::Ready(Happened::Told(message));
        }
        self.execution.poll(context);
        let misfit = || self.execution.misfit().is_some();
        if self.append.is_none() && (self.has_records() || misfit()) {
            return Poll::Ready(Happened::Asked);
        }
        self.permit = None;
        Poll::Pending
    }

    /// Whether nothing but timers, signals and children is waited for, none of them soon.
    fn may_rest(&self) -> bool {
        if self.append.is_some() || self.has_records() || self.execution.outcome().is_some() {
            return false;
        }
        let machine = self.execution.machine();
        let soon = self.engine.clock.now() + self.engine.options.linger;
        let waits = |request: &Request| {
            matches!(request, Request::Sleep { .. } | Request::Signal { .. } | Request::Child(_))
        };
        let mut active = machine.active().peekable();
        let rests = active.peek().is_some() && active.all(|(_, request)| waits(request));
        (rests || machine.is_paused()) && machine.next_timer().is_none_or(|due| due > soon)
    }

    async fn perform_effects(&mut self) {
        let effects = self.execution.machine().take_effects();
        for effect in effects {
            match effect {
                Effect::Timer { operation, at } => {
                    self.engine.timers.set(at, &self.run_id, operation);
                }
                Effect::Dispatch(assignment) => {
                    let attempt = assignment.data.attempt;
                    let operation = assignment.data.task_id.run().map_or(0, |run| run.1);
                    let task = Some((Arc::clone(&self.run_id), operation, attempt));
                    self.publish(Entry::TaskAssigned(assignment), task).await;
                }
                Effect::CancelTask { agent_type, task_id } => {
                    let data = TaskCancelled { task_id };
                    let entry = Entry::TaskCancelled(OfAgent { agent_type, data });
                    self.publish(entry, None).await;
                }
                Effect::StartChild(child) => self.start_child(child),
            }
        }
    }

    fn start_child(&self, child: ChildStarted) {
        let check = self.engine.clock.now() + self.engine.options.child_check;
        self.engine.timers.set(check, &self.run_id, child.operation);
        let (engine, run_id) = (Arc::clone(&self.engine), Arc::clone(&self.run_id));
        let metadata = self.metadata.clone();
        // A task of its own, because starting a child starts a driver like this one.
        tokio::spawn(async move { engine.start_child(run_id, child, metadata).await });
    }

    async fn publish(&mut self, entry: Entry, task: Option<(Arc<str>, u64, u32)>) {
        let publish = match self.addressed(entry, task.is_some()) {
            Ok(publish) => publish,
            Err(error) => return error!(%error, "could not write a task"),
        };
        // The dispatcher lives as long as the engine; once it is gone, so is this run.
        let _ = self.engine.dispatches.send(Dispatch { publish, task }).await;
    }

    /// The event of an entry, on its way to an agent type or to one agent.
    fn addressed(&self, entry: Entry, require_route: bool) -> Result<Publish, EventError> {
        let record = self.encode(entry)?;
        let to = match &record.entry {
            Entry::TaskAssigned(OfAgent { agent_type, data }) => {
                let agent_id = data.agent_id.as_deref();
                agent_id.map(|agent_id| mailbox_of(agent_type, agent_id)).transpose()
            }
            _ => Ok(None),
        };
        let to = to.map_err(|invalid| EventError::InvalidType { text: invalid.text })?;
        Ok(Publish { event: record.event, to, require_route })
    }
}

async fn acknowledge(delivery: Delivery) {
    if let Err(error) = delivery.ack().await {
        warn!(%error, "could not acknowledge an answer; it will come again");
    }
}
