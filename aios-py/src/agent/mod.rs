//! Agents written in Python.
//!
//! A task of such an agent is a call of a Python function; see [`PythonExecutors`]. The host of
//! agents sees an ordinary agent, [`PyAgent`], whose future waits for the outcome.
//!
//! While the function runs, Python and the host exchange information without waiting for each
//! other:
//!
//! - Progress and events from Python are put into an outbox, under a lock that is held for a
//!   moment, and the future of the task is notified. It forwards them to the host from a native
//!   thread. Of progress only the latest is kept.
//! - Cancellation from the host sets a flag that Python reads with `is_cancelled`. An `async def`
//!   function is cancelled too when the future is dropped; a plain function has only the flag.
//!
//! A plain function continues after its attempt was cancelled or timed out. [`TaskState`] therefore
//! belongs to both sides: what the function reports after the end of its attempt stays in the
//! outbox and is dropped with it.

mod factory;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use aios_core::{
    agent::{DynAgent, TaskContext, TaskError, TaskInfo, TaskSlot, TaskStreams},
    event::{Event, Payload, Timestamp},
    store::Fence,
};
use async_trait::async_trait;
use parking_lot::Mutex;
use pyo3::{prelude::*, types::PyDict};
use serde_json::Value;
use tokio::sync::Notify;

pub(crate) use self::factory::{Creation, Instance, PyFactory};
use crate::{
    calls::OutputWriter,
    convert::{errors::ErrorInfo, event::build_event, fence_pair, json},
    python::{MakeArguments, PyFunction, PythonExecutors, TaskHooks},
};

/// An agent whose code is a Python function.
pub(crate) struct PyAgent {
    /// The function that executes a task.
    pub(crate) function: Arc<PyFunction>,
    /// JSON Schema of the parameters.
    pub(crate) parameters_schema: Value,
    /// JSON Schema of the result.
    pub(crate) output_schema: Value,
    /// The event loop, and the threads of a plain function.
    pub(crate) executors: Arc<PythonExecutors>,
    /// The source of events that tasks emit.
    pub(crate) source: Arc<str>,
    /// The object that a factory has created.
    pub(crate) instance: Option<Instance>,
}

#[async_trait]
impl DynAgent for PyAgent {
    fn parameters_schema(&self) -> &Value {
        &self.parameters_schema
    }

    fn output_schema(&self) -> &Value {
        &self.output_schema
    }

    async fn process_task(
        &self,
        context: &TaskContext,
        parameters: Payload,
    ) -> Result<Payload, TaskError> {
        let task = Arc::new(TaskState::new(context, Arc::clone(&self.source)));
        let native = NativeTaskContext(Arc::clone(&task));
        let key = self.instance.as_ref().map(|instance| instance.key);
        let arguments: MakeArguments = Box::new(move |py| {
            let mut arguments = vec![Bound::new(py, native)?.into_any()];
            arguments.push(json::read(py, parameters.as_str())?);
            if let Some(key) = key {
                arguments.push(key.into_pyobject(py)?.into_any());
            }
            Ok(arguments)
        });
        // A plain function can't be stopped: it occupies its thread and the task's slot until it ends.
        let slot = match self.function.is_async {
            true => TaskSlot::default(),
            false => context.slot(),
        };
        let hooks = TaskHooks { slot, queued: context.queued(), thread: None };
        let function = Arc::clone(&self.function);
        let running = self.executors.run_for(hooks, function, TaskError::FAILED, arguments);
        let mut running = std::pin::pin!(running);
        let mut cancellation = CancelOnDrop(Arc::clone(&task));
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut running => break outcome,
                () = task.changed.notified() => task.forward(context),
                () = context.cancelled(), if !task.cancelled.load(Ordering::Acquire) => {
                    cancellation.cancel();
                }
            }
        };
        task.forward(context);
        outcome
    }
}

/// The state of a task that Python code sees. May outlive the attempt.
struct TaskState {
    /// The task.
    info: TaskInfo,
    /// Set if it differs from the task's id.
    idempotency_key: Option<Box<str>>,
    /// Shard and epoch under which the task was assigned.
    fence: Option<Fence>,
    source: Arc<str>,
    /// Whether the attempt was cancelled, or has ended otherwise.
    cancelled: AtomicBool,
    /// Notified when the outbox has something.
    changed: Notify,
    /// From Python to the host.
    outbox: Mutex<Outbox>,
    /// The output streams of the run.
    streams: TaskStreams,
}

/// Progress and events that have not been forwarded yet.
#[derive(Default)]
struct Outbox {
    /// The latest progress.
    progress: Option<Payload>,
    /// Events in the order in which they were emitted.
    events: Vec<Event>,
}

impl TaskState {
    fn new(context: &TaskContext, source: Arc<str>) -> Self {
        let id = context.task_id().as_str();
        let key = context.idempotency_key();
        Self {
            info: context.info().clone(),
            idempotency_key: (id != key).then(|| key.into()),
            fence: context.fence(),
            source,
            cancelled: AtomicBool::new(false),
            changed: Notify::new(),
            outbox: Mutex::default(),
            streams: context.streams(),
        }
    }

    /// Changes the outbox, and notifies the future of the task.
    fn update(&self, update: impl FnOnce(&mut Outbox)) {
        update(&mut self.outbox.lock());
        self.changed.notify_one();
    }

    /// Hands the outbox over to the host.
    fn forward(&self, context: &TaskContext) {
        let outbox = std::mem::take(&mut *self.outbox.lock());
        if let Some(progress) = outbox.progress {
            // Can't fail, because a payload is already JSON.
            let _ = context.heartbeat(&progress);
        }
        for event in outbox.events {
            // Can't fail, because the event was checked when it was emitted.
            let _ = context.emit(event);
        }
    }
}

/// Tells the code that its attempt was cancelled, at the latest when this is dropped.
struct CancelOnDrop(Arc<TaskState>);

impl CancelOnDrop {
    /// Sets the flag that Python reads.
    fn cancel(&mut self) {
        self.0.cancelled.store(true, Ordering::Release);
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// The native part of `aios.TaskContext`.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct NativeTaskContext(Arc<TaskState>);

#[pymethods]
impl NativeTaskContext {
    #[getter]
    fn task_id(&self) -> &str {
        self.0.info.task_id.as_str()
    }

    #[getter]
    fn idempotency_key(&self) -> &str {
        self.0.idempotency_key.as_deref().unwrap_or(self.task_id())
    }

    #[getter]
    fn agent_type(&self) -> &str {
        &self.0.info.agent_type
    }

    #[getter]
    fn agent_id(&self) -> &str {
        &self.0.info.agent_id
    }

    #[getter]
    fn attempt(&self) -> u32 {
        self.0.info.attempt
    }

    /// Shard and epoch under which the task was assigned.
    #[getter]
    fn fence(&self) -> Option<(u16, u64)> {
        self.0.fence.map(fence_pair)
    }

    /// Microseconds since the Unix epoch.
    #[getter]
    fn deadline_micros(&self) -> Option<i64> {
        self.0.info.deadline.map(Timestamp::as_micros)
    }

    #[getter]
    fn correlation_id(&self) -> Option<&str> {
        self.0.info.metadata.correlation_id.as_deref()
    }

    #[getter]
    fn traceparent(&self) -> Option<&str> {
        self.0.info.metadata.traceparent.as_deref()
    }

    #[getter]
    fn user_id(&self) -> Option<&str> {
        self.0.info.metadata.user_id.as_deref()
    }

    #[getter]
    fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }

    /// The fields of a line of the log, under the names that lines of Rust have.
    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let info = &self.0.info;
        let fields = PyDict::new(py);
        fields.set_item("task_id", info.task_id.as_str())?;
        fields.set_item("agent_type", &*info.agent_type)?;
        fields.set_item("agent_id", &*info.agent_id)?;
        fields.set_item("attempt", info.attempt)?;
        if let Some((run_id, operation)) = info.task_id.run() {
            fields.set_item("run_id", run_id)?;
            fields.set_item("operation", operation)?;
        }
        if let Some(correlation_id) = self.correlation_id() {
            fields.set_item("correlation_id", correlation_id)?;
        }
        Ok(fields)
    }

    fn heartbeat(&self, progress: &Bound<'_, PyAny>) -> PyResult<()> {
        let progress = json::write(progress)?;
        self.0.update(|outbox| outbox.progress = Some(progress));
        Ok(())
    }

    /// A writer of an output stream of the run.
    fn stream(&self, py: Python<'_>, name: &str) -> PyResult<OutputWriter> {
        let opened = self.0.streams.open(name);
        opened.map(OutputWriter).map_err(|error| ErrorInfo::from(error).into_error(py))
    }

    fn emit(&self, event_type: &str, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let event = build_event(data, event_type, Arc::clone(&self.0.source))?;
        let checked = event.event_type.check_unreserved();
        checked.map_err(|error| ErrorInfo::from(error).into_error(data.py()))?;
        self.0.update(|outbox| outbox.events.push(event));
        Ok(())
    }
}
