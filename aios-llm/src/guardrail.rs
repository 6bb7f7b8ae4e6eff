//! Guardrails: checks of what goes into an agent and what comes out of it.
//!
//! A check is a task for the agent type of the tools, with a name that no tool can have. Checks run
//! one after the other, in the order of their registration, and the first one that trips ends the
//! run. Input is checked before the first request, so nothing was paid for by then.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use aios_core::{BoxFuture, agent::TaskError, catalog::codes, event::Payload, failure::Failure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::model::Message;

/// Reads its input from JSON, because tasks are JSON.
pub(crate) type Check =
    dyn Fn(Payload) -> BoxFuture<'static, Result<Verdict, TaskError>> + Send + Sync;

/// A check of the messages that an agent gets, or of its output.
///
/// It runs on the processes of the agent's tools, and its verdict is recorded: a replay checks
/// nothing again. A run whose guardrail trips fails with `GUARDRAIL_TRIPPED`, and the event
/// `llm.guardrail.tripped` says which one and why. A guardrail that fails itself fails the run.
///
/// ```
/// use aios_llm::guardrail::{Guardrail, Verdict};
///
/// let guardrail = Guardrail::output("no_keys", |output| async move {
///     let is_key = output.as_str().contains("sk-");
///     Ok::<_, std::io::Error>(if is_key { Verdict::trip("a key") } else { Verdict::Pass })
/// });
/// assert_eq!(guardrail.name(), "no_keys");
/// ```
#[derive(Clone)]
pub struct Guardrail {
    /// Names the guardrail in tasks and events.
    name: String,
    /// Which value is checked.
    pub(crate) stage: Stage,
    /// Of one attempt of the task.
    pub(crate) timeout: Duration,
    /// The function of the user.
    check: Arc<Check>,
}

/// The object of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stage {
    /// The messages of the prompt, before the first request.
    Input,
    /// The output, before the run ends with it.
    Output,
}

/// The result of a check: of a guardrail, of an [output](crate::LlmAgent::output_check), or of
/// [arguments](crate::tool::Tool::with_argument_check).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// The value is accepted.
    Pass,
    /// The value is not accepted. A guardrail fails the run; the other checks let the model or the person
    /// try again.
    Trip {
        /// The reason, human-readable. It is recorded, so it should not repeat what must not be kept.
        reason: String,
    },
}

/// An event: a guardrail has stopped a run.
#[derive(Debug, Serialize)]
pub(crate) struct Tripped<'a> {
    /// Name of the guardrail.
    guardrail: &'a str,
    /// The stage at which it tripped.
    stage: Stage,
    /// The reason that it gave.
    reason: &'a str,
}

impl Verdict {
    /// The value is not accepted for this reason.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_llm::guardrail::Verdict;
    ///
    /// assert_eq!(Verdict::trip("a key"), Verdict::Trip { reason: "a key".to_owned() });
    /// ```
    #[must_use]
    pub fn trip(reason: impl Into<String>) -> Self {
        Self::Trip { reason: reason.into() }
    }
}

impl Guardrail {
    /// Default timeout of one attempt.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

    /// A check of the messages of the prompt, before the first request. The name must be unique within
    /// the agent.
    #[must_use]
    pub fn input<E, F, Fut>(name: impl Into<String>, check: F) -> Self
    where
        E: Into<TaskError>,
        F: Fn(Vec<Message>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Verdict, E>> + Send + 'static,
    {
        let check = move |value: Payload| -> BoxFuture<'static, Result<Verdict, TaskError>> {
            let checking = value.decode().map(&check);
            Box::pin(async move { checking?.await.map_err(Into::into) })
        };
        Self::of(name.into(), Stage::Input, Arc::new(check))
    }

    /// A check of the output, before the run ends with it: a text, or structured output. It is JSON as it
    /// was written, so no number loses its precision. The name must be unique within the agent.
    #[must_use]
    pub fn output<E, F, Fut>(name: impl Into<String>, check: F) -> Self
    where
        E: Into<TaskError>,
        F: Fn(Payload) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Verdict, E>> + Send + 'static,
    {
        Self::of(name.into(), Stage::Output, boxed(check))
    }

    /// A guardrail with the default timeout.
    fn of(name: String, stage: Stage, check: Arc<Check>) -> Self {
        Self { name, stage, timeout: Self::DEFAULT_TIMEOUT, check }
    }

    /// Sets the timeout of one attempt: at least 1 ms, at most 100 years. The default is
    /// [`DEFAULT_TIMEOUT`](Self::DEFAULT_TIMEOUT), 60 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Name of the guardrail.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The check. An error fails the task, and with it the run.
    pub(crate) fn check(&self) -> &Check {
        &*self.check
    }

    /// The event and the failure of a run that this guardrail has stopped.
    pub(crate) fn tripped<'a>(&'a self, reason: &'a str) -> Tripped<'a> {
        Tripped { guardrail: &self.name, stage: self.stage, reason }
    }
}

/// A check of JSON.
pub(crate) fn boxed<E, F, Fut>(check: F) -> Arc<Check>
where
    E: Into<TaskError>,
    F: Fn(Payload) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Verdict, E>> + Send + 'static,
{
    Arc::new(move |value| -> BoxFuture<'static, _> {
        let checking = check(value);
        Box::pin(async move { checking.await.map_err(Into::into) })
    })
}

impl Tripped<'_> {
    /// Its details are the event.
    pub(crate) fn to_failure(&self) -> Failure {
        let Self { guardrail, reason, .. } = self;
        Failure::new(
            codes::GUARDRAIL_TRIPPED,
            format!("guardrail {guardrail} has stopped the run: {reason}"),
        )
        .with_details(json!(self))
    }
}

impl fmt::Debug for Guardrail {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Guardrail")
            .field("name", &self.name)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}
