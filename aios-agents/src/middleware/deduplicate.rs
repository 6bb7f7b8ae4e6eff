//! Recognises repeated tasks within a process.
//!
//! Each known task has a cell. The first call runs the agent within the cell, and others that
//! arrive in the meantime wait for it. A failed or cancelled call leaves the cell empty, and the
//! next one tries again. The host recognises repetitions of one attempt by itself; this layer also
//! covers later attempts.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use aios_core::{
    agent::{DynAgent, TaskContext, TaskError},
    event::Payload,
};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::{Middleware, unless_cancelled};
use crate::agent::AgentError;

/// Runs each task once, and answers repetitions, including later attempts, with the first
/// successful output.
///
/// A repetition that arrives while the task is running waits for its result. Failures are not
/// remembered. Only the latest tasks of this process are known. Events emitted by the first success
/// are not emitted again.
///
/// # Examples
///
/// For an expensive agent without side effects of its own, whose answer may get lost on its way:
///
/// ```
/// use aios_agents::{agent::AgentDefinition, middleware::Deduplicate, prelude::*};
///
/// # struct Upper;
/// # impl Agent for Upper {
/// #     type Parameters = String;
/// #     type Output = String;
/// #     async fn process_task(&self, _: &TaskContext, text: String) -> Result<String, TaskError> {
/// #         Ok(text.to_uppercase())
/// #     }
/// # }
/// let definition = AgentDefinition::instance("upper", Upper).with_layer(Deduplicate::new(1_000));
/// # drop(definition);
/// ```
#[derive(Clone, Debug)]
pub struct Deduplicate(Arc<Inner>);

/// Shared by all clones.
#[derive(Debug)]
struct Inner {
    /// The oldest task is forgotten when there are more.
    capacity: usize,
    /// Held only to find a cell, never while a task runs.
    known: Mutex<Known>,
}

/// The tasks that are known, and the order in which they became known.
#[derive(Debug, Default)]
struct Known {
    /// By idempotency key: the id of a task alone would also match one of a later run that uses the id of an
    /// earlier run again. An empty cell means that no call has succeeded yet.
    tasks: HashMap<Arc<str>, Arc<OnceCell<Payload>>>,
    /// The oldest first.
    order: VecDeque<Arc<str>>,
}

impl Deduplicate {
    /// Remembers the latest `capacity` tasks.
    ///
    /// A capacity of 0 is refused when the agent is started.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(Inner { capacity, known: Mutex::default() }))
    }

    /// The cell of a task, which becomes known by this.
    fn cell(&self, key: &str) -> Arc<OnceCell<Payload>> {
        let mut known = self.0.known.lock();
        if let Some(cell) = known.tasks.get(key) {
            return Arc::clone(cell);
        }
        let (key, cell) = (Arc::from(key), Arc::new(OnceCell::new()));
        known.tasks.insert(Arc::clone(&key), Arc::clone(&cell));
        known.order.push_back(key);
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
        let cell = self.cell(context.idempotency_key());
        // A repetition gets its turn when the call that it waits for has failed.
        let turn = || async move {
            unless_cancelled(context, std::future::ready(())).await?;
            agent.process_task(context, parameters).await
        };
        let output = cell.get_or_try_init(turn).await?;
        Ok(output.clone())
    }

    fn check(&self) -> Result<(), AgentError> {
        if self.0.capacity == 0 {
            let reason = "a deduplication needs a capacity of at least 1".to_owned();
            return Err(AgentError::InvalidConfiguration { reason });
        }
        Ok(())
    }
}
