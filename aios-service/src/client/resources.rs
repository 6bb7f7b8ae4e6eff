//! Resources of the service. Serialised, each is an object with its id and its attributes.

use aios_core::{
    event::{self, EventId, EventType, Metadata, Payload, Timestamp},
    failure::Failure,
    store::{AgentStatus, RecordedEvent, RunStatus, StreamId, TaskStatus},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// One page of a list.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Page<T> {
    /// The items, in the order of the list.
    pub items: Vec<T>,
    /// The value of `after` for the next page; `None` on the last one.
    pub next: Option<String>,
    /// Ids of resources of this page that the service cannot read.
    pub unreadable: Vec<String>,
}

impl<T> Page<T> {
    /// Converts the items.
    pub(super) fn map<U>(self, convert: impl FnMut(T) -> U) -> Page<U> {
        let Self { items, next, unreadable } = self;
        Page { items: items.into_iter().map(convert).collect(), next, unreadable }
    }
}

/// The attributes of a resource, which get its id.
pub(super) trait Attributes: DeserializeOwned {
    /// Sets the id, which is beside the attributes in an answer.
    fn identify(&mut self, id: String);
}

/// Sets the field `id`.
macro_rules! resources {
    ($($name:ident)+) => {
        $(impl Attributes for $name {
            fn identify(&mut self, id: String) {
                self.id = id;
            }
        })+
    };
}

resources!(Run Task Agent AgentType Workflow Event Engine Shard Projection SkippedEvent Letter Caller RunResult TaskResult Handled);

/// A run of a workflow.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Run {
    /// Id of the run.
    #[serde(skip_deserializing)]
    pub id: String,
    /// Name of its workflow.
    pub workflow: String,
    /// Version of its workflow.
    pub workflow_version: u32,
    /// Its status.
    pub status: RunStatus,
    /// The run that started it as a child.
    pub parent_run_id: Option<String>,
    /// The first run of the chain of continue-as-new to which it belongs, if that is another one.
    pub first_run_id: Option<String>,
    /// Its result, once completed; a result of `null` is `None`, too.
    pub result: Option<Payload>,
    /// The failure, once failed, cancelled or blocked.
    pub failure: Option<Failure>,
    /// The status text that the workflow set.
    pub status_text: Option<String>,
    /// Something it waits for that does not progress: a task that no agent has begun, or a child that is
    /// blocked or paused. Only read by [`RunHandle::status`](super::RunHandle::status); `None` in lists.
    pub waits_for: Option<String>,
    /// The progress that the workflow set.
    pub progress: Option<Payload>,
    /// Position of the last event that changed the run.
    pub position: u64,
    /// When it was started.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
    /// When it was deleted.
    pub deleted_at: Option<Timestamp>,
}

/// A task of a run.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Task {
    /// Id of the task.
    #[serde(skip_deserializing)]
    pub id: String,
    /// The run that assigned it.
    pub run_id: Option<String>,
    /// Type of the agent that does it.
    pub agent_type: String,
    /// The one agent that was asked for.
    pub agent_id: Option<String>,
    /// Its status.
    pub status: TaskStatus,
    /// Number of the latest attempt, from 1.
    pub attempt: u32,
    /// The latest failure.
    pub failure: Option<Failure>,
    /// When it was assigned first.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
    /// When it was deleted.
    pub deleted_at: Option<Timestamp>,
}

/// An agent that some process hosts or has hosted.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Agent {
    /// Id of the agent.
    #[serde(skip_deserializing)]
    pub id: String,
    /// Its type.
    pub agent_type: String,
    /// Its name.
    pub name: String,
    /// The configuration of its factory.
    #[serde(default)]
    pub config: Payload,
    /// Its status.
    pub status: AgentStatus,
    /// When its process last reported it.
    pub last_seen_at: Option<Timestamp>,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
    /// When it was deregistered.
    pub deleted_at: Option<Timestamp>,
}

/// A type of agents that processes host or have hosted.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct AgentType {
    /// Name of the type.
    #[serde(skip_deserializing)]
    pub id: String,
    /// JSON Schema of the configuration, if agents of this type can be created over the API.
    #[serde(default)]
    pub config_schema: Option<Payload>,
    /// JSON Schema of the parameters of tasks, if it is known.
    #[serde(default)]
    pub parameters_schema: Option<Payload>,
    /// JSON Schema of the output of tasks, if it is known.
    #[serde(default)]
    pub output_schema: Option<Payload>,
}

/// A version of a workflow that some process has registered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Workflow {
    /// Name and version, as `name@version`.
    #[serde(skip_deserializing)]
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// When it was registered first.
    pub created_at: Timestamp,
    /// When it was registered last.
    pub updated_at: Timestamp,
}

/// An event, as the service shows it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Event {
    /// Id of the event.
    #[serde(skip_deserializing)]
    pub id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// When it happened.
    pub timestamp: Timestamp,
    /// The service or agent that reports it.
    pub source: String,
    /// Its data.
    pub data: Payload,
    /// How it relates to other events.
    #[serde(default)]
    pub metadata: Metadata,
    /// Its place in the log; `None` for an event that was published to the broker.
    pub position: Option<u64>,
    /// The stream to which it belongs.
    pub stream: Option<String>,
    /// Its place in the stream.
    pub version: Option<u64>,
}

impl Event {
    /// The event with its place in the log; an error names what is missing or wrong.
    pub(super) fn recorded(self) -> Result<RecordedEvent, String> {
        let (Some(position), Some(stream), Some(version)) =
            (self.position, self.stream, self.version)
        else {
            return Err("an event of the log has no position, stream or version".to_owned());
        };
        let stream = StreamId::new(stream).map_err(|error| error.to_string())?;
        let id = self.id.parse::<EventId>().map_err(|error| error.to_string())?;
        let event = event::Event {
            id,
            event_type: self.event_type,
            timestamp: self.timestamp,
            source: self.source.into(),
            payload: self.data,
            metadata: self.metadata.into(),
        };
        Ok(RecordedEvent { position, stream, version, event })
    }
}

/// An engine that is alive.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Engine {
    /// Id of the engine.
    #[serde(skip_deserializing)]
    pub id: String,
    /// Its number, which no other living engine has.
    pub slot: u16,
    /// Numbers of the shards that it owns.
    pub shards: Vec<u16>,
    /// Whether it relays the log to the broker.
    pub is_relay: bool,
    /// When it counts as dead unless it renews its lease.
    pub expires_at: Timestamp,
}

/// A fixed share of the runs, owned by one engine at a time.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Shard {
    /// Number of the shard.
    #[serde(skip_deserializing)]
    pub id: String,
    /// Id of the engine that owns it; `None` if none does.
    pub engine_id: Option<String>,
    /// How many owners it has had, if it is owned.
    pub epoch: Option<u64>,
    /// When it is free unless its owner renews its lease.
    pub expires_at: Option<Timestamp>,
}

/// A read model of a program, with its place in the log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Projection {
    /// Name of the projection.
    #[serde(skip_deserializing)]
    pub id: String,
    /// Everything up to this position of the log is applied.
    pub position: u64,
    /// How many positions of the log come after it.
    pub lag: u64,
    /// Whether a process runs it.
    pub is_running: bool,
}

/// An event that a projection could not apply, and skipped.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct SkippedEvent {
    /// Position of the event, as a text.
    #[serde(skip_deserializing)]
    pub id: String,
    /// Position of the event.
    pub position: u64,
    /// Id of the event.
    pub event_id: String,
    /// Type of the event.
    pub event_type: String,
    /// Why it could not be applied.
    pub failure: Failure,
    /// How often it was tried.
    pub attempts: u32,
}

/// The attributes of a dead letter, as the service shows it.
#[derive(Debug, Deserialize)]
pub(super) struct Letter {
    #[serde(skip)]
    id: String,
    event_type: String,
    data: Payload,
    #[serde(default)]
    metadata: Metadata,
    reason: String,
    attempts: u32,
    first_failure: Timestamp,
}

/// An event whose delivery was given up.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Id of the event.
    pub event_id: String,
    /// Type of the event.
    pub event_type: String,
    /// Data of the event.
    pub data: Payload,
    /// Metadata of the event.
    pub metadata: Metadata,
    /// Why it was given up.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it failed for the first time.
    pub first_failure: Timestamp,
}

impl From<Letter> for DeadLetter {
    fn from(letter: Letter) -> Self {
        Self {
            event_id: letter.id,
            event_type: letter.event_type,
            data: letter.data,
            metadata: letter.metadata,
            reason: letter.reason,
            attempts: letter.attempts,
            first_failure: letter.first_failure,
        }
    }
}

/// The caller, as the service knows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Caller {
    /// Subject of the caller.
    #[serde(skip_deserializing)]
    pub id: String,
    /// The caller's permissions, for example `runs:read` or `tasks:*`.
    pub permissions: Vec<String>,
    /// When the credentials end.
    pub expires_at: Option<Timestamp>,
}

/// How a run ended.
#[derive(Debug, Deserialize)]
pub(super) struct RunResult {
    #[serde(skip)]
    pub(super) id: String,
    pub(super) status: RunStatus,
    pub(super) result: Option<Payload>,
    pub(super) failure: Option<Failure>,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct TaskResult {
    /// Id of the task.
    #[serde(skip_deserializing)]
    pub id: String,
    /// Status of the task.
    pub status: TaskStatus,
    /// The output of the agent, if it completed the task.
    pub output: Option<Payload>,
    /// The failure, if all attempts have failed.
    pub failure: Option<Failure>,
}

/// How many dead letters an action has handled.
#[derive(Debug, Deserialize)]
pub(super) struct Handled {
    #[serde(skip)]
    id: String,
    pub(super) count: u64,
}
