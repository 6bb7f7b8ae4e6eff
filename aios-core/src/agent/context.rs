use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use serde::Serialize;

use super::{TaskControl, TaskId, TaskQueued, TaskSlot};
use crate::{
    event::{Event, EventError, Metadata, Payload, Timestamp},
    output::{OutputError, OutputStream, Outputs},
    store::{Fence, Store},
};

/// Metadata field of the answer to a task: the attributes of the attempt's span, see
/// [`TaskContext::set_attribute`].
pub const SPAN_ATTRIBUTES: &str = "span_attributes";

/// Information about a task while it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskInfo {
    /// The task.
    pub task_id: TaskId,
    /// Type of the agent that performs it.
    pub agent_type: Arc<str>,
    /// Id of the agent that performs it.
    pub agent_id: Arc<str>,
    /// Number of this attempt, from 1.
    pub attempt: u32,
    /// When the attempt times out.
    pub deadline: Option<Timestamp>,
    /// Correlation, user and trace of the caller that assigned the task.
    pub metadata: Arc<Metadata>,
}

/// The context of an agent while it works on one task.
///
/// # Examples
///
/// ```
/// use aios_core::{
///     agent::{Agent, TaskContext, TaskError},
///     event::Event,
/// };
///
/// struct Importer;
///
/// impl Agent for Importer {
///     type Parameters = Vec<String>;
///     type Output = usize;
///
///     async fn process_task(
///         &self,
///         context: &TaskContext,
///         files: Vec<String>,
///     ) -> Result<usize, TaskError> {
///         for (done, file) in files.iter().enumerate() {
///             // The engine sees that the task is alive, and people see how far it is.
///             context.heartbeat(&serde_json::json!({"done": done, "of": files.len()}))?;
///             // A repeated attempt sends the same key, so that nothing is imported twice.
///             import(file, context.idempotency_key()).await?;
///         }
///         context.emit(Event::new("shop.catalog.imported".parse()?, "importer", &files.len())?)?;
///         Ok(files.len())
///     }
/// }
/// # async fn import(_file: &str, _key: &str) -> Result<(), std::io::Error> { Ok(()) }
/// ```
pub struct TaskContext {
    info: TaskInfo,
    host: Arc<dyn TaskControl>,
    idempotency_key: OnceLock<Box<str>>,
    emitted: Mutex<Vec<Event>>,
    attributes: Mutex<BTreeMap<String, Payload>>,
    store: Option<Arc<dyn Store>>,
    streams: TaskStreams,
}

/// The output streams of a task, see [`TaskContext::stream`]. Clones share them.
#[derive(Clone, Default)]
pub struct TaskStreams(Arc<Streams>);

#[derive(Default)]
struct Streams {
    outputs: Option<Arc<dyn Outputs>>,
    run_id: Option<Arc<str>>,
    writer: Option<TaskId>,
    /// Those that were opened, by name.
    opened: Mutex<Vec<(Box<str>, OutputStream)>>,
}

impl TaskStreams {
    /// A stream; see [`TaskContext::stream`].
    ///
    /// # Errors
    ///
    /// See [`TaskContext::stream`].
    pub fn open(&self, name: &str) -> Result<OutputStream, OutputError> {
        let Streams { outputs, run_id, writer, opened } = &*self.0;
        let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, stream)) = opened.iter().find(|(known, _)| **known == *name) {
            return Ok(stream.clone());
        }
        let unavailable = |reason| OutputError::Unavailable { reason };
        let outputs = outputs.as_ref().ok_or_else(|| unavailable("the process has no store"))?;
        let (Some(run_id), Some(writer)) = (run_id, writer) else {
            return Err(unavailable("the task does not belong to a run"));
        };
        let stream = outputs.open(run_id, name, writer.as_str())?;
        opened.push((name.into(), stream.clone()));
        Ok(stream)
    }
}

impl fmt::Debug for TaskStreams {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TaskStreams")
            .field("run_id", &self.0.run_id)
            .finish_non_exhaustive()
    }
}

impl TaskContext {
    /// Creates the context of a task; for agent hosts.
    #[must_use]
    pub fn new(info: TaskInfo, host: Arc<dyn TaskControl>) -> Self {
        Self {
            info,
            host,
            idempotency_key: OnceLock::new(),
            emitted: Mutex::default(),
            attributes: Mutex::default(),
            store: None,
            streams: TaskStreams::default(),
        }
    }

    /// Sets the store of the process; for agent hosts.
    #[must_use]
    pub fn with_store(mut self, store: Option<Arc<dyn Store>>) -> Self {
        self.store = store;
        self
    }

    /// Sets where output streams are written; for agent hosts.
    #[must_use]
    pub fn with_outputs(mut self, outputs: Option<Arc<dyn Outputs>>) -> Self {
        self.streams = TaskStreams(Arc::new(Streams {
            outputs,
            run_id: self.info.metadata.run_id.clone(),
            writer: Some(self.info.task_id.clone()),
            opened: Mutex::default(),
        }));
        self
    }

    /// All information about the task.
    #[must_use]
    pub fn info(&self) -> &TaskInfo {
        &self.info
    }

    /// The task.
    #[must_use]
    pub fn task_id(&self) -> &TaskId {
        &self.info.task_id
    }

    /// Type of the agent that performs it.
    #[must_use]
    pub fn agent_type(&self) -> &str {
        &self.info.agent_type
    }

    /// Id of the agent that performs it.
    #[must_use]
    pub fn agent_id(&self) -> &str {
        &self.info.agent_id
    }

    /// Number of this attempt, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.info.attempt
    }

    /// When this attempt times out; `None` means never.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.info.deadline
    }

    /// Correlation, user and trace of the caller that assigned the task.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.info.metadata
    }

    /// Proof that the engine that assigned the task owned its run. A system that keeps the highest
    /// epoch of each shard can refuse requests on behalf of an engine that lost it. `None` if the
    /// task was not assigned by a run.
    #[must_use]
    pub fn fence(&self) -> Option<Fence> {
        self.info.metadata.extra.value("fence")?.decode().ok()
    }

    /// The same text in every attempt of this task and in no other task, even if a later run uses
    /// the id of this one again. Pass it to external systems, so that they recognise a repetition.
    #[must_use]
    pub fn idempotency_key(&self) -> &str {
        let task_id = &self.info.task_id;
        match &self.info.metadata.incarnation {
            None => task_id.as_str(),
            Some(incarnation) => {
                self.idempotency_key.get_or_init(|| format!("{task_id}@{incarnation}").into())
            }
        }
    }

    /// Reports progress. Cheap: call it as often as you like; only the latest progress is sent, at
    /// the heartbeat interval.
    ///
    /// # Errors
    ///
    /// [`EventError::InvalidData`] if `progress` cannot be serialised to JSON.
    pub fn heartbeat<T: Serialize + ?Sized>(&self, progress: &T) -> Result<(), EventError> {
        self.host.heartbeat(Payload::encode(progress)?);
        Ok(())
    }

    /// Publishes an event if the task succeeds, before the task counts as done. The event gets this
    /// task's run, and its correlation, cause, user and trace where they are not set.
    ///
    /// # Errors
    ///
    /// [`EventError::ReservedType`] for an event of the domains `workflows`, `agents` and `system`;
    /// [`EventError::InvalidSource`]. It is not published.
    pub fn emit(&self, mut event: Event) -> Result<(), EventError> {
        event.event_type.check_unreserved()?;
        Event::check_source(&event.source)?;
        event.metadata_mut().fill_from(&self.info.metadata);
        self.emitted.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        Ok(())
    }

    /// Takes the events emitted so far; for agent hosts.
    #[must_use]
    pub fn take_emitted(&self) -> Vec<Event> {
        std::mem::take(&mut *self.emitted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets an attribute of the span of this attempt, such as `gen_ai.request.model`. The value is a
    /// text, a number, a flag, or a list of texts. It replaces an earlier value.
    ///
    /// Attributes are recorded with the answer, whether the task succeeds or fails, in the field
    /// [`SPAN_ATTRIBUTES`] of its metadata. An attempt that does not answer has none, and neither
    /// has one that fails and is repeated, of which only the failure is recorded. Attributes are
    /// exported with the span, so keep them short, and free of content that may be secret.
    ///
    /// # Errors
    ///
    /// [`EventError::InvalidData`] if `value` cannot be serialised to JSON.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_core::{agent::TaskContext, event::EventError};
    ///
    /// fn describe(context: &TaskContext, rows: u64) -> Result<(), EventError> {
    ///     context.set_attribute("db.operation.name", "SELECT")?;
    ///     context.set_attribute("db.response.returned_rows", &rows)
    /// }
    /// ```
    pub fn set_attribute<T: Serialize + ?Sized>(
        &self,
        name: impl Into<String>,
        value: &T,
    ) -> Result<(), EventError> {
        let value = Payload::encode(value)?;
        let mut attributes = self.attributes.lock().unwrap_or_else(PoisonError::into_inner);
        attributes.insert(name.into(), value);
        Ok(())
    }

    /// Takes the attributes set so far; for agent hosts.
    #[must_use]
    pub fn take_attributes(&self) -> BTreeMap<String, Payload> {
        std::mem::take(&mut *self.attributes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The store of the process, if it has one.
    #[must_use]
    pub fn store(&self) -> Option<&Arc<dyn Store>> {
        self.store.as_ref()
    }

    /// An output stream of the run that the task belongs to, named `[a-z][a-z0-9_]*` with at most 40
    /// bytes. The task is its writer. What it writes is stored before the task is answered.
    ///
    /// # Errors
    ///
    /// [`OutputError::InvalidName`]; [`OutputError::Unavailable`] if the process has no store, or
    /// the task does not belong to a run.
    pub fn stream(&self, name: &str) -> Result<OutputStream, OutputError> {
        self.streams.open(name)
    }

    /// The output streams of the task, for code that outlives this context, such as code of another
    /// language.
    #[must_use]
    pub fn streams(&self) -> TaskStreams {
        self.streams.clone()
    }

    /// Whether output streams can be opened; see [`stream`](Self::stream).
    #[must_use]
    pub fn has_streams(&self) -> bool {
        self.streams.0.outputs.is_some() && self.streams.0.run_id.is_some()
    }

    /// Waits until everything written to the output streams of this context is stored; for agent
    /// hosts.
    ///
    /// # Errors
    ///
    /// The first error of a stream.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call does not wait for the same streams again when it is repeated. Their output
    /// is stored all the same.
    pub async fn flush_streams(&self) -> Result<(), OutputError> {
        let opened = std::mem::take(
            &mut *self.streams.0.opened.lock().unwrap_or_else(PoisonError::into_inner),
        );
        for (_, stream) in opened {
            stream.flush().await?;
        }
        Ok(())
    }

    /// Whether the task was cancelled. The future of the agent is dropped soon after; code that
    /// blocks should check this regularly.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.host.is_cancelled()
    }

    /// The slot that this task occupies among those that its host runs at the same time.
    ///
    /// Hold it in code that can't be stopped, such as a blocking call on another thread. The code
    /// may still run after the attempt timed out or was cancelled. As long as it does, the host
    /// takes fewer tasks, instead of taking tasks that no thread is left to run.
    pub fn slot(&self) -> TaskSlot {
        self.host.slot()
    }

    /// Reports that the code of this task is queued, for a thread or an event loop, and has not
    /// begun.
    ///
    /// Until it [begins](TaskQueued::begin), the host may release the task to the broker for
    /// another host: when this process stops, or when the thread or event loop is blocked. Code
    /// that is not reported as queued counts as begun.
    pub fn queued(&self) -> TaskQueued {
        self.host.queued()
    }

    /// Completes when the task is cancelled.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn cancelled(&self) {
        self.host.cancelled().await;
    }
}

impl fmt::Debug for TaskContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TaskContext").field("info", &self.info).finish_non_exhaustive()
    }
}
