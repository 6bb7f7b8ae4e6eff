//! Replays a saved journal.
//!
//! The entries are fed to the code as an engine does after a crash, and the code is polled in
//! between. Nothing is performed: what the code requests beyond the journal is left open. The code
//! does not match if it requests something else than what is recorded.

use std::{future::poll_fn, sync::Arc};

use aios_core::{
    clock::VirtualClock,
    event::{Event, EventError},
    failure::Failure,
};

use super::scheduled::scheduled;
use crate::workflow::{
    Execution, RunInfo, Workflow,
    journal::{Entry, decode, seed_of},
};

/// Errors of replaying a saved journal.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// An event cannot be decoded as an entry of a journal.
    #[error("the events are not a journal")]
    Unreadable(#[from] EventError),
    /// The first event is not the start of a run.
    #[error("the journal does not begin with the start of a run")]
    NoStart,
    /// The code does not match the journal, or panics.
    #[error("the code does not match the journal")]
    Blocked(#[source] Failure),
}

/// Replays a saved journal against a workflow. An error means that the current code would block the
/// run. No step or task is executed.
///
/// # Errors
///
/// See [`ReplayError`].
///
/// # Cancel safety
///
/// Cancel safe.
///
/// # Examples
///
/// A test that keeps the journals of released versions, as JSON, finds a change that would block the
/// runs of users:
///
/// ```
/// use std::sync::Arc;
///
/// use aios_agents::{prelude::*, testing::{WorkflowTest, replay}, workflow::{FnWorkflow, Workflow}};
///
/// async fn released(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
///     context.run("charge", || async { 1 }).await
/// }
///
/// async fn changed(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
///     context.run("reserve", || async { 1 }).await
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let journal = WorkflowTest::new("pay", released)?.run(&()).await.events()?;
/// replay(Arc::new(FnWorkflow::new("pay", released)?), &journal).await?;
/// assert!(replay(Arc::new(FnWorkflow::new("pay", changed)?), &journal).await.is_err());
/// # Ok(())
/// # }
/// ```
pub async fn replay(workflow: Arc<dyn Workflow>, journal: &[Event]) -> Result<(), ReplayError> {
    let entries: Vec<Entry> = journal.iter().map(decode).collect::<Result<_, _>>()?;
    let (Some(Entry::Started(started)), Some(first)) = (entries.first(), journal.first()) else {
        return Err(ReplayError::NoStart);
    };
    let run_id = run_id(&entries, journal);
    // Times come from the journal; the clock never advances.
    let clock = Arc::new(VirtualClock::default());
    let incarnation = first.id.clone();
    let seed = seed_of(first, &run_id);
    let mut execution = Execution::new(Arc::clone(&run_id), incarnation, seed, &entries, clock);
    let name = workflow.name().clone();
    let version = started.version;
    let info = RunInfo {
        run_id,
        workflow: name,
        version,
        correlation_id: first.metadata.correlation_id.clone(),
        traceparent: first.metadata.traceparent.clone(),
        fence: None,
    };
    execution.attach_code(&*workflow, info, started.input.clone());
    let mut entries: Vec<_> = entries.into_iter().zip(journal).collect();
    // The engine replays in this order, too.
    Entry::sort_for_replay(&mut entries, |(entry, _)| entry);
    for (entry, event) in entries {
        execution.feed(entry, event.timestamp);
    }
    scheduled(finish(execution)).await.map_err(ReplayError::Blocked)
}

/// Polls the code until it is idle, and returns whether it matched. A panic of a step that ended
/// meanwhile is passed on.
async fn finish(mut execution: Execution) -> Result<(), Failure> {
    poll_fn(|context| execution.poll(context)).await;
    let replayed = execution.go_live();
    if let Err(panic) = execution.shared.close() {
        std::panic::resume_unwind(panic);
    }
    replayed
}

/// The id of the run. If nothing in the journal names the run, nothing depends on its id.
fn run_id(entries: &[Entry], journal: &[Event]) -> Arc<str> {
    let named = journal.first().and_then(|event| event.metadata.run_id.clone());
    let of_task = |entry: &Entry| match entry {
        Entry::TaskAssigned(task) => task.data.task_id.run().map(|(run_id, _)| run_id.into()),
        _ => None,
    };
    let named = named.or_else(|| entries.iter().find_map(of_task));
    named.unwrap_or_else(|| "replay".into())
}
