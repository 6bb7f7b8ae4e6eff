//! Tells an engine which attempts this process has, when it asks after it has taken over their run,
//! and sends it their answers.
//!
//! An engine that takes over a run does not know whether its predecessor's assignments reached the
//! broker. Instead of assigning again, it asks every process of the type. A process that has the
//! attempt sends a heartbeat at once; one in which it has ended sends the answer again; all others
//! stay silent. From then on the answer goes to the mailbox of the engine that asked.
//!
//! Every process of the type remembers that mailbox, because the task may still be queued and reach
//! any of them. The memory is bounded; an assignment that is forgotten is answered to the engine
//! that assigned it, whose successors read its mailbox later.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use aios_core::{
    agent::TaskHeartbeat,
    broker::Mailbox,
    catalog::agent::Attempt,
    event::{Event, EventId},
};
use parking_lot::Mutex;

use super::attempt_cache::Key;
use crate::{
    agent::host::{Shared, hosted::HostedType},
    task,
};

/// How many assignments are remembered that have a new mailbox for their answers.
const REMEMBERED: usize = 16_384;

/// The mailboxes of the engines that asked for attempts, by the ids of their assignments. The
/// answers go there instead of to the engine that assigned them: if that one is frozen, its mailbox
/// is not read by another one until the broker has closed its connection.
#[derive(Debug, Default)]
pub(crate) struct NewMailboxes(Mutex<Remembered>);

/// The content of the lock.
#[derive(Debug, Default)]
struct Remembered {
    /// By the id of the event that assigned the task.
    mailboxes: HashMap<EventId, Arc<str>>,
    /// Keys of `mailboxes`, the oldest first.
    order: VecDeque<EventId>,
}

impl NewMailboxes {
    /// Remembers the engine that asked last.
    fn set(&self, assignment: &EventId, mailbox: &Arc<str>) {
        let mut remembered = self.0.lock();
        let before = remembered.mailboxes.insert(assignment.clone(), Arc::clone(mailbox));
        if before.is_some() {
            return;
        }
        remembered.order.push_back(assignment.clone());
        if remembered.order.len() > REMEMBERED
            && let Some(oldest) = remembered.order.pop_front()
        {
            remembered.mailboxes.remove(&oldest);
        }
    }

    /// The engine that asked for this assignment, if one did.
    fn of(&self, assignment: &EventId) -> Option<Arc<str>> {
        self.0.lock().mailboxes.get(assignment).cloned()
    }
}

impl Shared {
    /// The mailbox for the answer to a task: that of the engine that has asked for it last, or the
    /// one that the task names.
    pub(crate) fn reply_to(&self, task: &Event) -> Option<Mailbox> {
        let new = self.new_mailboxes.of(&task.id);
        let name = new.as_deref().or(task.metadata.reply_to.as_deref())?;
        Mailbox::new(name)
            .inspect_err(
                |error| tracing::warn!(event_id = %task.id, "reply_to is not a mailbox: {error}"),
            )
            .ok()
    }
}

/// The assignments that wait in this process for a slot, by the ids of their events.
///
/// Added and removed by `HeldAssignment`.
#[derive(Debug, Default)]
pub(crate) struct HeldAssignments(Mutex<HashSet<EventId>>);

impl HeldAssignments {
    /// Whether an assignment waits here.
    fn contains(&self, id: &EventId) -> bool {
        self.0.lock().contains(id)
    }
}

/// An assignment that waits for a slot, until it is dropped.
///
/// Created by `Held` for each delivery.
pub(super) struct HeldAssignment {
    shared: Arc<Shared>,
    /// Id of the event that assigned the task.
    id: EventId,
}

impl HeldAssignment {
    /// Lists the assignment.
    pub(crate) fn new(shared: &Arc<Shared>, id: &EventId) -> Self {
        shared.held.0.lock().insert(id.clone());
        Self { shared: Arc::clone(shared), id: id.clone() }
    }
}

impl Drop for HeldAssignment {
    fn drop(&mut self) {
        self.shared.held.0.lock().remove(&self.id);
    }
}

/// Answers an engine that asks for an attempt: with a heartbeat if this process has it, and with the
/// answer if it has ended here. A blocked process does not report that it has an attempt, so that its
/// tasks are assigned to others.
pub(crate) fn report(types: &[Arc<HostedType>], question: &Event) {
    // The event type names the agent type, so the data need not be decoded for other types.
    let of_type = |hosted: &&Arc<HostedType>| *hosted.type_name == *question.event_type.entity();
    let Some(hosted) = types.iter().find(of_type) else { return };
    let assignment = question.metadata.causation_id.as_deref().and_then(|id| id.parse().ok());
    let (Some(assignment), Ok(attempt)) = (assignment, question.data::<Attempt>()) else {
        tracing::warn!(event_id = %question.id, "ignored a question about an attempt that can't be read");
        return;
    };
    if let Some(mailbox) = &question.metadata.reply_to {
        hosted.shared.new_mailboxes.set(&assignment, mailbox);
    }
    // Heartbeats and answers name the assignment as their cause.
    let task = question.clone().with_id(assignment);
    let hosted = Arc::clone(hosted);
    let key = Key::of(attempt.task_id.clone(), attempt.attempt, &question.metadata);
    // Spawned, because the listener must not wait for the broker.
    match hosted.shared.attempt_cache.answered(&key) {
        Some(answer) => drop(task::spawn(async move { hosted.answer_again(answer, &task).await })),
        None => report_held(hosted, task, attempt, &key),
    }
}

/// Sends a heartbeat for an attempt that this process runs or holds. `waits` tells the engine
/// whether its code has begun.
fn report_held(hosted: Arc<HostedType>, task: Event, attempt: Attempt, key: &Key) {
    if hosted.place.is_blocked() {
        return;
    }
    let has_begun = hosted.shared.attempt_cache.running(key).map(|running| running.has_begun());
    let waits = match has_begun {
        Some(has_begun) => !has_begun,
        None if hosted.shared.held.contains(&task.id) => true,
        None => return,
    };
    let Attempt { task_id, attempt, .. } = attempt;
    let mut beat = TaskHeartbeat::new(task_id, attempt);
    beat.waits = waits;
    task::spawn(async move { hosted.publish_heartbeat(&task, &beat).await });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_remember_the_latest_mailboxes_of_a_bounded_number_of_assignments() {
        let id = |number: usize| EventId::derive(&number.to_string());
        let known = NewMailboxes::default();
        let first = "first".into();
        let second = "second".into();
        known.set(&id(0), &first);
        known.set(&id(1), &first);
        known.set(&id(1), &second);
        assert_eq!(known.of(&id(1)).as_deref(), Some("second"));
        (2..=REMEMBERED).for_each(|number| known.set(&id(number), &first));
        assert_eq!((known.of(&id(0)), known.of(&id(1)).is_some()), (None, true));
        assert_eq!(known.0.lock().mailboxes.len(), REMEMBERED);
    }
}
