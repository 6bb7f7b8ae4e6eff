//! Entries as events, and events as entries.
//!
//! An entry of the workflow itself becomes `workflows.<name>.<action>`, one about a task
//! `agents.<type>.<action>`. The macro `actions!` lists the pairs of entry and action once, so that the
//! two directions can't differ. Everything else in a journal, such as an event that the workflow
//! emitted, is `Entry::Other` and keeps its type, id and data.
//!
//! Decoding is tolerant: an action that this version does not know becomes `Entry::Other`, which has no
//! effect on the run. Data that can't be decoded is an error, because a known entry may not be ignored.

use std::sync::Arc;

use aios_core::{
    agent::Name,
    catalog::{agent, workflow},
    event::{Event, EventError, EventId, EventType, Metadata, Payload, Timestamp},
};
use serde::Serialize;

use super::{AgentEvent, Entry};

/// An entry and its event.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// The meaning of the event.
    pub(crate) entry: Entry,
    /// The event as the store gets it. Its id is chosen before the append and stays the same when the
    /// append is repeated.
    pub(crate) event: Event,
}

impl Record {
    /// The entry and when it was recorded, as the code of the run sees it.
    pub(crate) fn into_applied(self) -> (Entry, Timestamp) {
        (self.entry, self.event.timestamp)
    }

    /// Like [`into_applied`](Self::into_applied), and keeps the record.
    pub(crate) fn to_applied(&self) -> (Entry, Timestamp) {
        (self.entry.clone(), self.event.timestamp)
    }
}

/// The data of events that have none: an empty object.
#[derive(Serialize)]
struct Nothing {}

/// Maps the entries that are events of workflows to the actions of these events,
/// `workflows.<name>.<action>`: first the entries with data, then those without.
macro_rules! actions {
    ($($variant:ident = $action:path,)+ ; $($bare:ident = $bare_action:path,)+) => {
        const ACTIONS: &[&str] = &[$($action,)+ $($bare_action,)+];

        // The action and data of an entry of the workflow itself; `None` for all other entries.
        fn encode_own(entry: &Entry) -> Option<Result<(&'static str, Payload), EventError>> {
            let encoded = match entry {
                $(Entry::$variant(data) => ($action, Payload::encode(data)),)+
                $(Entry::$bare => ($bare_action, Payload::encode(&Nothing {})),)+
                _ => return None,
            };
            Some(encoded.1.map(|payload| (encoded.0, payload)))
        }

        // The entry of an action; `None` for an action that this version does not know.
        fn decode_own(action: &str, data: &Payload) -> Result<Option<Entry>, EventError> {
            Ok(Some(match action {
                $($action => Entry::$variant(data.decode()?),)+
                $($bare_action => Entry::$bare,)+
                _ => return Ok(None),
            }))
        }
    };
}

actions! {
    StepCompleted = workflow::STEP_COMPLETED,
    Started = workflow::STARTED,
    OperationFailed = workflow::OPERATION_FAILED,
    RetryScheduled = workflow::RETRY_SCHEDULED,
    TimerStarted = workflow::TIMER_STARTED,
    TimerFired = workflow::TIMER_FIRED,
    SignalAwaited = workflow::SIGNAL_AWAITED,
    Signaled = workflow::SIGNALED,
    ChildStarted = workflow::CHILD_STARTED,
    ChildEnded = workflow::CHILD_ENDED,
    VersionMarked = workflow::VERSION_MARKED,
    EventEmitted = workflow::EVENT_EMITTED,
    StatusSet = workflow::STATUS_SET,
    CancelRequested = workflow::CANCEL_REQUESTED,
    Blocked = workflow::BLOCKED,
    Unblocked = workflow::UNBLOCKED,
    Moved = workflow::MOVED,
    Completed = workflow::COMPLETED,
    Failed = workflow::FAILED,
    Cancelled = workflow::CANCELLED,
    Continued = workflow::CONTINUED,
    ;
    Paused = workflow::PAUSED,
    Resumed = workflow::RESUMED,
}

/// Encodes the entries of one workflow's runs as events.
#[derive(Debug)]
pub(crate) struct Codec {
    /// Shared by all events: the name of the process or service.
    source: Arc<str>,
    /// Event types by action.
    types: Vec<(&'static str, EventType)>,
}

impl Codec {
    /// Creates a codec for a workflow. `source` becomes the source of every event.
    pub(crate) fn new(name: &Name, source: Arc<str>) -> Result<Self, EventError> {
        // The types are built once for each workflow, not for each event.
        let of_action =
            |action| Ok((action, EventType::new(workflow::DOMAIN, name.as_str(), action)?));
        let types = ACTIONS.iter().copied().map(of_action).collect::<Result<_, EventError>>()?;
        Ok(Self { source, types })
    }

    /// The source of every event.
    pub(crate) fn source(&self) -> &Arc<str> {
        &self.source
    }

    /// Encodes an entry as a new event with this metadata. The event in [`Entry::Other`] keeps its
    /// own.
    pub(crate) fn encode(
        &self,
        entry: Entry,
        now: Timestamp,
        metadata: Arc<Metadata>,
    ) -> Result<Record, EventError> {
        let (event_type, payload) = match &entry {
            Entry::Other(event) => return Ok(Record { event: (**event).clone(), entry }),
            Entry::TaskAssigned(task) if task.data.agent_id.is_some() => {
                encode_task(task, agent::TASK_DIRECTED)?
            }
            Entry::TaskAssigned(task) => encode_task(task, agent::TASK_ASSIGNED)?,
            Entry::TaskCompleted(task) => encode_task(task, agent::TASK_COMPLETED)?,
            Entry::TaskFailed(task) => encode_task(task, agent::TASK_FAILED)?,
            Entry::TaskCancelled(task) => encode_task(task, agent::TASK_CANCELLED)?,
            own => self.encode_own(own)?,
        };
        let event = Event {
            id: EventId::generate(),
            event_type,
            timestamp: now,
            source: Arc::clone(&self.source),
            payload,
            metadata,
        };
        Ok(Record { entry, event })
    }

    /// The type and data of an entry of the workflow itself.
    fn encode_own(&self, entry: &Entry) -> Result<(EventType, Payload), EventError> {
        let unnamed = || EventError::InvalidType { text: format!("{entry:?}") };
        let (action, payload) = encode_own(entry).ok_or_else(unnamed)??;
        let named = self.types.iter().find(|(name, _)| *name == action).ok_or_else(unnamed)?;
        Ok((named.1.clone(), payload))
    }
}

/// The type and data of an entry about a task.
fn encode_task<T: Serialize>(
    task: &AgentEvent<T>,
    action: &str,
) -> Result<(EventType, Payload), EventError> {
    let event_type = EventType::new(agent::DOMAIN, task.agent_type.as_str(), action)?;
    Ok((event_type, Payload::encode(&task.data)?))
}

/// Decodes an entry. An event that aios did not write to a journal itself is [`Entry::Other`].
pub(crate) fn decode(event: &Event) -> Result<Entry, EventError> {
    let entry = match event.event_type.segments() {
        (workflow::DOMAIN, _, action) => decode_own(action, &event.payload)?,
        (agent::DOMAIN, agent_type, action) => match Name::new(agent_type) {
            Ok(agent_type) => decode_task(agent_type, action, &event.payload)?,
            Err(_) => None,
        },
        _ => None,
    };
    Ok(entry.unwrap_or_else(|| Entry::Other(Box::new(event.clone()))))
}

/// Decodes an entry about a task; `None` for actions that are no entries, such as heartbeats.
fn decode_task(
    agent_type: Name,
    action: &str,
    payload: &Payload,
) -> Result<Option<Entry>, EventError> {
    Ok(Some(match action {
        agent::TASK_ASSIGNED | agent::TASK_DIRECTED => {
            Entry::TaskAssigned(AgentEvent { agent_type, data: payload.decode()? })
        }
        agent::TASK_COMPLETED => {
            Entry::TaskCompleted(AgentEvent { agent_type, data: payload.decode()? })
        }
        agent::TASK_FAILED => Entry::TaskFailed(AgentEvent { agent_type, data: payload.decode()? }),
        agent::TASK_CANCELLED => {
            Entry::TaskCancelled(AgentEvent { agent_type, data: payload.decode()? })
        }
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::{Completed, StepCompleted};
    use super::*;

    #[test]
    fn should_read_what_it_wrote() {
        let codec = Codec::new(&"deploy".parse().unwrap(), "test".into()).unwrap();
        let result = Payload::encode(&[1, 2]).unwrap();
        for entry in [
            Entry::StepCompleted(StepCompleted::new(3, "publish".into(), result.clone())),
            Entry::Completed(Completed::new(result)),
            Entry::Paused,
        ] {
            let record =
                codec.encode(entry.clone(), Timestamp::UNIX_EPOCH, Metadata::empty()).unwrap();
            assert_eq!(decode(&record.event).unwrap(), entry);
        }
    }

    #[test]
    fn should_leave_other_events_alone() {
        let event = Event::new("orders.order.placed".parse().unwrap(), "shop", &1).unwrap();
        assert_eq!(decode(&event).unwrap(), Entry::Other(Box::new(event)));
    }
}
