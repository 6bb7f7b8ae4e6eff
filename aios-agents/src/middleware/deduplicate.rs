use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use aios_core::{
    agent::{DynAgent, TaskContext, TaskError, TaskId},
    event::Payload,
};
use tokio::sync::OnceCell;

use super::Middleware;
use crate::agent::AgentError;

/// Does each task once, and answers a repetition, also a later attempt, with the first success.
///
/// A repetition that comes while the task is done waits for it. Failures are not kept. It knows the
/// latest tasks of this process only, and what the first success emitted is not emitted again.
#[derive(Clone, Debug)]
pub struct Deduplicate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    capacity: usize,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    tasks: HashMap<TaskId, Arc<OnceCell<Payload>>>,
    order: VecDeque<TaskId>,
}

impl Deduplicate {
    /// Knows so many tasks; then the oldest is forgotten for each new one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(Inner { capacity, known: Mutex::default() }))
    }

    fn cell(&self, task_id: &TaskId) -> Arc<OnceCell<Payload>> {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = known.tasks.get(task_id) {
            return Arc::clone(cell);
        }
        let cell = Arc::new(OnceCell::new());
        known.tasks.insert(task_id.clone(), Arc::clone(&cell));
        known.order.push_back(task_id.clone());
        if known.order.len() > self.0.capacity
            && let Some(oldest) = known.order.pop_front()
        {
            known.tasks.remove(&oldest);
        }
        cell
    }
}

impl Middleware for Deduplicate {
    async fn call(
        &self,
        agent: &dyn DynAgent,
        context: &TaskContext,
        parameters: Payload,
    ) -> Result<Payload, TaskError> {
        let cell = self.cell(context.task_id());
        let output = cell.get_or_try_init(|| agent.process_task(context, parameters)).await?;
        Ok(output.clone())
    }

    fn check(&self) -> Result<(), AgentError> {
        if self.0.capacity == 0 {
            let reason = "a de-duplication that knows no task does nothing".to_owned();
            return Err(AgentError::InvalidConfiguration { reason });
        }
        Ok(())
    }
}
