//! Limits of the number of child runs that the calls of one response start at a time.

use std::collections::BTreeMap;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{agent::compiled::Compiled, tool::Tool};

/// The places of child runs, by the tool, if the number of its calls at a time is limited. They are those
/// of one response, and not of the process: what other runs do must not decide when a run starts a child.
pub(in crate::agent) struct Places(BTreeMap<String, Semaphore>);

impl Places {
    /// All places are free.
    pub(in crate::agent) fn of(agent: &Compiled) -> Self {
        let limited = agent.tools.iter().filter_map(|(name, compiled)| {
            let calls = compiled.tool.child().and(compiled.tool.concurrency())?;
            Some((name.clone(), Semaphore::new(calls.clamp(1, Semaphore::MAX_PERMITS))))
        });
        Self(limited.collect())
    }

    /// Waits until a call may start its child, and returns its place; `None` if calls are not limited.
    /// Calls wait in their order, so that a replay starts the same children.
    pub(in crate::agent) async fn take(&self, tool: &Tool) -> Option<SemaphorePermit<'_>> {
        self.0.get(&tool.name)?.acquire().await.ok()
    }
}
