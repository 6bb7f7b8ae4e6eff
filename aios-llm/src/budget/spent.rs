//! Sums, and the limit that a sum exceeds.

use std::fmt;

use aios_core::{catalog::codes, failure::Failure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Cost;
use crate::model::Usage;

/// The sum of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spent {
    /// Requests to models, including failed ones.
    pub requests: u64,
    /// Tokens.
    pub usage: Usage,
    /// Cost according to the price table; 0 for models without a price.
    pub cost: Cost,
    /// Tool calls that ran.
    pub tool_calls: u64,
}

impl Spent {
    /// The sum of both, in which nothing overflows.
    pub(crate) fn plus(self, other: &Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            usage: self.usage + other.usage,
            cost: self.cost + other.cost,
            tool_calls: self.tool_calls.saturating_add(other.tool_calls),
        }
    }

    /// The difference; 0 where `other` is larger.
    pub(crate) fn minus(self, other: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(other.requests),
            usage: self.usage - other.usage,
            cost: self.cost - other.cost,
            tool_calls: self.tool_calls.saturating_sub(other.tool_calls),
        }
    }
}

/// A limit that a call would exceed.
///
/// # Examples
///
/// The details of the failure of a run tell which limit it was:
///
/// ```
/// use aios_agents::{RunError, prelude::*};
/// use aios_llm::{
///     LlmAgent, RuntimeBuilderExt,
///     budget::{Budget, Exceeded},
///     testing::SchemaModel,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let budget = Budget::new().with_input_tokens(10);
/// let runtime = Runtime::builder()
///     .store(aios_store::connect("memory://").await?)
///     .broker(aios_broker::connect("memory://").await?)
///     .llm_agent("writer", LlmAgent::new(SchemaModel::new()).budget(budget))?
///     .start()
///     .await?;
/// let run = runtime.start("writer", "Write about tea, and about those who drink it.").await?;
/// match run.result::<String>().await {
///     Err(RunError::Failed { failure, .. }) if failure.code == Exceeded::CODE => {
///         let exceeded = failure.details.decode::<Exceeded>()?;
///         assert_eq!((&*exceeded.limit, &*exceeded.allowed), ("input_tokens", "10"));
///     }
///     other => panic!("{other:?}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Exceeded {
    /// Name of the limit, as in [`Limits`](super::Limits).
    pub limit: String,
    /// The limit.
    pub allowed: String,
    /// The sum that the call could reach.
    pub needed: String,
    /// Whose limit it is.
    #[serde(default, skip_serializing_if = "Scope::is_run")]
    pub scope: Scope,
}

/// Whose limit a call would exceed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Scope {
    /// That of the run.
    #[default]
    Run,
    /// That of the part which a calling agent has given. It cannot be raised.
    Share,
    /// That of the subject in a window of time, see [`SubjectBudget`](super::SubjectBudget).
    Subject,
}

impl Scope {
    /// For `skip_serializing_if`: failures of older versions have no scope.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
    fn is_run(&self) -> bool {
        *self == Self::Run
    }
}

impl Exceeded {
    /// Code of the failure of a run that exceeds its budget.
    pub const CODE: &'static str = codes::BUDGET_EXCEEDED;

    /// A limit of the run.
    pub(super) fn new(limit: &str, allowed: impl fmt::Display, needed: impl fmt::Display) -> Self {
        Self {
            limit: limit.to_owned(),
            allowed: allowed.to_string(),
            needed: needed.to_string(),
            scope: Scope::Run,
        }
    }

    /// The failure of a run. Its details are this value, so that a program can read which limit it
    /// was.
    pub(crate) fn to_failure(&self) -> Failure {
        Failure::new(Self::CODE, self.to_string()).with_details(json!(self))
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, allowed, needed, scope } = self;
        let whose = if *scope == Scope::Subject { " of the subject" } else { "" };
        write!(
            formatter,
            "the budget{whose} allows {limit} of {allowed}, and the next call needs {needed}"
        )
    }
}
