//! Decisions of persons, and the events of agents.
//!
//! A pending decision is shown in the progress of the run, and awaited as a signal with a name of
//! its own. Both survive a crash: the progress is recorded, and the code awaits the same signal
//! after a replay. A signal that is not valid is refused with the reason in the progress, and
//! awaited again.

use std::collections::BTreeMap;

use aios_agents::workflow::{WorkflowContext, WorkflowError};
use aios_core::{
    event::{Event, EventError, EventType, Payload},
    store::RunRecord,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::tool::PendingDecision;

/// The decisions that a run waits for. They are the progress of the run.
#[derive(Debug, Default)]
pub(in crate::agent) struct Decisions(Mutex<BTreeMap<String, PendingDecision>>);

/// The progress of a run of an agent, as it is recorded.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Progress {
    /// By the names of their signals.
    pending_decisions: Vec<PendingDecision>,
}

impl Decisions {
    /// Waits for a decision that `accept` accepts. One that it does not accept is asked for again.
    pub(in crate::agent) async fn decide<T: DeserializeOwned, D>(
        &self,
        context: &WorkflowContext,
        mut pending: PendingDecision,
        accept: impl Fn(T) -> Result<D, String>,
    ) -> Result<D, WorkflowError> {
        // Emitted once; the progress changes with every refused signal.
        if pending.refused.is_none() {
            let action = if pending.in_doubt.is_some() { "in_doubt" } else { "approval_requested" };
            emit(context, "tool", action, &pending)?;
        }
        loop {
            let signal = pending.signal.clone();
            self.change(context, |all| all.insert(signal.clone(), pending.clone()))?;
            let payload: Payload = context.signal(signal.clone()).await?;
            let decision = serde_json::from_str::<T>(payload.as_str());
            let decision = decision.map_err(|error| error.to_string());
            match decision.and_then(&accept) {
                Ok(decision) => {
                    self.change(context, |all| all.remove(&signal))?;
                    return Ok(decision);
                }
                Err(reason) => pending.refused = Some(reason),
            }
        }
    }

    /// Removes a decision that is not needed any more, if it was asked for.
    pub(in crate::agent) fn withdraw(
        &self,
        context: &WorkflowContext,
        signal: &str,
    ) -> Result<(), WorkflowError> {
        if !self.0.lock().contains_key(signal) {
            return Ok(());
        }
        self.change(context, |all| all.remove(signal))
    }

    /// Changes the pending decisions, and records them as the progress.
    fn change(
        &self,
        context: &WorkflowContext,
        change: impl FnOnce(&mut BTreeMap<String, PendingDecision>) -> Option<PendingDecision>,
    ) -> Result<(), WorkflowError> {
        let mut all = self.0.lock();
        change(&mut all);
        let pending_decisions: Vec<_> = all.values().cloned().collect();
        drop(all);
        let text = match pending_decisions.len() {
            0 => "working".to_owned(),
            1 => "waits for a decision".to_owned(),
            count => format!("waits for {count} decisions"),
        };
        context.set_progress(text, &Progress { pending_decisions })
    }
}

/// The decisions that a run waits for, from [`RunHandle::status`](aios_agents::RunHandle::status).
/// Send each as a signal with the name [`PendingDecision::signal`].
///
/// # Errors
///
/// [`EventError`] if the progress is not that of a run of an [`LlmAgent`](crate::LlmAgent).
///
/// # Examples
///
/// ```
/// use aios_agents::RunHandle;
/// use aios_llm::{pending_decisions, tool::Decision};
///
/// /// Approves the searches of a run, and leaves everything else to an operator.
/// async fn approve_searches(run: &RunHandle) -> Result<usize, Box<dyn std::error::Error>> {
///     let mut approved = 0;
///     for pending in pending_decisions(&run.status().await?)? {
///         if pending.tool == "search" && pending.in_doubt.is_none() {
///             run.signal(&pending.signal, &Decision::Approve).await?;
///             approved += 1;
///         }
///     }
///     Ok(approved)
/// }
/// # let _ = approve_searches;
/// ```
pub fn pending_decisions(status: &RunRecord) -> Result<Vec<PendingDecision>, EventError> {
    let Some(progress) = &status.progress else { return Ok(Vec::new()) };
    Ok(progress.decode::<Progress>()?.pending_decisions)
}

/// Emits an event of the domain `llm`.
pub(in crate::agent) fn emit<T: Serialize>(
    context: &WorkflowContext,
    entity: &str,
    action: &str,
    data: &T,
) -> Result<(), WorkflowError> {
    let event_type = EventType::new("llm", entity, action)?;
    context.emit(Event::new(event_type, context.info().workflow.as_str(), data)?)
}
