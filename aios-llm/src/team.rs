//! Teams: a workflow runs several agents as child runs, and joins or races them.
//!
//! ```
//! use aios_agents::prelude::*;
//! use aios_llm::team;
//!
//! async fn compare(context: WorkflowContext, question: String) -> Result<String, WorkflowError> {
//!     let members = ["optimist", "pessimist"].map(|agent| (agent, question.as_str()));
//!     let answers = team::join::<String>(&context, members).await;
//!     let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
//!     Ok(answers.join("\n"))
//! }
//! ```
//!
//! [`join`] and [`race`] are plain code of a workflow, so a team can be anything that code can
//! express. For an agent that decides itself whom to ask, use
//! [`Tool::agent`](crate::tool::Tool::agent) or [`LlmAgent::handover`](crate::LlmAgent::handover).

use aios_agents::workflow::{Answer, WorkflowContext, WorkflowError, race as first};
use aios_core::{catalog::codes, failure::Failure};
use futures_util::future::join_all;

use crate::Prompt;

/// Runs agents as child runs, each with a prompt, and waits for all. The results have the order of
/// the agents.
///
/// Each agent has its own budget. A child is cancelled with the run.
///
/// # Cancel safety
///
/// Dropping the future leaves the children running: they remain children of the run.
pub async fn join<T: Answer>(
    context: &WorkflowContext,
    agents: impl IntoIterator<Item = (impl AsRef<str>, impl Into<Prompt>)>,
) -> Vec<Result<T, WorkflowError>> {
    let children = agents.into_iter().map(|(agent, prompt)| {
        let prompt: Prompt = prompt.into();
        context.child::<T>(agent, &prompt)
    });
    join_all(children.collect::<Vec<_>>()).await
}

/// Runs agents as child runs, each with a prompt, and waits for the first result: the one that comes
/// first in the journal. Returns the number of the agent, from 0, and its result.
///
/// The others are cancelled. What they have spent until then is in their own journals.
///
/// # Errors
///
/// The failure of the last agent if all fail; a failure with the code `INVALID_PARAMETERS` if there
/// are none.
///
/// # Cancel safety
///
/// Dropping the future cancels the children.
///
/// # Examples
///
/// ```
/// use aios_agents::prelude::*;
/// use aios_llm::team;
///
/// async fn fastest(context: WorkflowContext, question: String) -> Result<String, WorkflowError> {
///     let members = ["fast", "careful"].map(|agent| (agent, question.as_str()));
///     let (number, answer) = team::race::<String>(&context, members).await?;
///     Ok(format!("{number}: {answer}"))
/// }
/// # let _ = fastest;
/// ```
pub async fn race<T: Answer>(
    context: &WorkflowContext,
    agents: impl IntoIterator<Item = (impl AsRef<str>, impl Into<Prompt>)>,
) -> Result<(usize, T), WorkflowError> {
    let mut running: Vec<_> = agents
        .into_iter()
        .map(|(agent, prompt)| {
            let prompt: Prompt = prompt.into();
            context.child::<T>(agent, &prompt).cancel_when_dropped()
        })
        .enumerate()
        .collect();
    let none = Failure::new(codes::INVALID_PARAMETERS, "a race needs at least one agent");
    let mut last = WorkflowError::failed(none);
    while !running.is_empty() {
        // Failures are awaited one by one: the race is lost only when all have failed.
        let (place, ended) = first(running.iter_mut().map(|(_, child)| child)).await;
        let (number, _) = running.remove(place);
        match ended {
            Ok(result) => return Ok((number, result)),
            Err(error) => last = error,
        }
    }
    Err(last)
}
