//! Agents that are written in Python.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use aios_core::{
    agent::{DynAgent, TaskContext, TaskError, TaskInfo, TaskSlot},
    event::{Event, Payload, Timestamp},
    store::Fence,
};
use async_trait::async_trait;
use pyo3::prelude::*;
use serde_json::Value;
use tokio::sync::Notify;

use crate::{
    fault::Fault,
    given::event_of,
    json,
    places::{Arguments, Function, Host, Places},
};

/// A fence as Python is told it: shard and epoch.
pub(crate) fn told(fence: Fence) -> (u16, u64) {
    (fence.shard.0, fence.epoch.0)
}

/// An agent whose code is a Python function.
pub(crate) struct PyAgent {
    pub(crate) function: Arc<Function>,
    pub(crate) parameters_schema: Value,
    pub(crate) output_schema: Value,
    pub(crate) places: Arc<Places>,
    pub(crate) source: Arc<str>,
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
        let task = Arc::new(Task::new(context, Arc::clone(&self.source)));
        let core = TaskCore(Arc::clone(&task));
        let arguments: Arguments = Box::new(move |py| {
            let parameters = json::read(py, parameters.as_str())?;
            Ok(vec![Bound::new(py, core)?.into_any(), parameters])
        });
        // A plain function can't be stopped: it occupies its thread, and the task's slot with it.
        let slot = match self.function.is_async {
            true => TaskSlot::default(),
            false => context.slot(),
        };
        let host = Host { slot, queued: context.queued() };
        let function = Arc::clone(&self.function);
        let running = self.places.run_for(host, function, TaskError::FAILED, arguments);
        let mut running = std::pin::pin!(running);
        let mut gone = Gone(Arc::clone(&task));
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut running => break outcome,
                () = task.changed.notified() => task.pass_on(context),
                () = context.cancelled(), if !task.cancelled.load(Ordering::Acquire) => {
                    gone.mark();
                }
            }
        };
        task.pass_on(context);
        outcome
    }
}

/// One task as Python sees it; it may outlive the attempt.
struct Task {
    info: TaskInfo,
    /// If it is not the task's id.
    idempotency_key: Option<Box<str>>,
    fence: Option<Fence>,
    source: Arc<str>,
    cancelled: AtomicBool,
    changed: Notify,
    told: Mutex<Told>,
}

/// What the code told since it was passed on last.
#[derive(Default)]
struct Told {
    progress: Option<Payload>,
    events: Vec<Event>,
}

impl Task {
    fn new(context: &TaskContext, source: Arc<str>) -> Self {
        let (id, key) = (context.task_id().as_str(), context.idempotency_key());
        Self {
            info: context.info().clone(),
            idempotency_key: (id != key).then(|| key.into()),
            fence: context.fence(),
            source,
            cancelled: AtomicBool::new(false),
            changed: Notify::new(),
            told: Mutex::default(),
        }
    }

    fn tell(&self, tell: impl FnOnce(&mut Told)) {
        tell(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    fn pass_on(&self, context: &TaskContext) {
        let told = std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(progress) = told.progress {
            // A payload is JSON already, so that it can't fail to be written.
            let _ = context.heartbeat(&progress);
        }
        for event in told.events {
            // Checked where the code emitted it.
            let _ = context.emit(event);
        }
    }
}

/// Tells the code that nobody waits for it, when the attempt is given up.
struct Gone(Arc<Task>);

impl Gone {
    fn mark(&mut self) {
        self.0.cancelled.store(true, Ordering::Release);
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.mark();
    }
}

/// What `aios.TaskContext` asks.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct TaskCore(Arc<Task>);

#[pymethods]
impl TaskCore {
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

    /// Shard and epoch under which the task was given.
    #[getter]
    fn fence(&self) -> Option<(u16, u64)> {
        self.0.fence.map(told)
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

    fn heartbeat(&self, progress: &Bound<'_, PyAny>) -> PyResult<()> {
        let progress = json::write(progress)?;
        self.0.tell(|told| told.progress = Some(progress));
        Ok(())
    }

    fn emit(&self, event_type: &str, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let event = event_of(data, event_type, Arc::clone(&self.0.source))?;
        let checked = event.event_type.check_unreserved();
        checked.map_err(|error| Fault::from(error).into_error(data.py()))?;
        self.0.tell(|told| told.events.push(event));
        Ok(())
    }
}
