//! Budgets: limits of requests, tokens, cost, tool calls and time.
//!
//! A budget is reserved before each call and settled after it. Both are events of the run's log
//! (`llm.budget.reserved`, `llm.budget.settled`), and the sums follow from recorded results only, so
//! they are the same after any crash and replay. The sum of a run includes those of the agents that it
//! has called.
//!
//! | module | contents |
//! |---|---|
//! | `account` | the account of one run, calculated from recorded results |
//! | `subject` | the sums of a subject across runs, in a stream of the store |
//! | `limits`, `spent` | limits, sums, and which limit a sum exceeds |
//! | `price` | prices of models, in exact amounts |

mod account;
mod limits;
mod price;
mod spent;
mod subject;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) use self::{
    account::{Account, Reservation},
    subject::{Answer, Held},
};
pub use self::{
    limits::Limits,
    price::{Cost, Price, PriceTable, UnknownPrice},
    spent::{Exceeded, Scope, Spent},
    subject::SubjectBudget,
};

/// The behaviour of an agent that reaches a limit.
///
/// # Examples
///
/// ```
/// use aios_llm::{LlmAgent, budget::{AtLimit, Budget}, testing::SchemaModel};
///
/// // The run waits for a decision instead of failing.
/// let budget = Budget::new().with_requests(20).with_at_limit(AtLimit::Ask);
/// let agent = LlmAgent::new(SchemaModel::new()).budget(budget);
/// # drop(agent);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AtLimit {
    /// The run fails with `BUDGET_EXCEEDED`.
    #[default]
    Fail,
    /// The run waits for the signal [`BUDGET_SIGNAL`] with a [`BudgetDecision`].
    Ask,
    /// The run continues with the [cheaper model](crate::LlmAgent::cheaper_model) of the agent when
    /// the cost does not allow another whole response of its model. It fails like [`Fail`](Self::Fail)
    /// at other limits, and when the cheaper model costs too much as well.
    CheaperModel,
}

/// Name of the signal that carries a [`BudgetDecision`].
pub const BUDGET_SIGNAL: &str = "budget";

/// The decision of an operator about a run that has reached a limit.
///
/// # Examples
///
/// ```no_run
/// use aios_agents::{RunHandle, RuntimeError};
/// use aios_llm::budget::{BUDGET_SIGNAL, BudgetDecision, Limits};
///
/// /// Lets a run that has reached its limit make forty requests in all.
/// async fn raise(run: &RunHandle) -> Result<(), RuntimeError> {
///     let limits = Limits { requests: Some(40), ..Limits::default() };
///     run.signal(BUDGET_SIGNAL, &BudgetDecision::Raise { limits }).await
/// }
/// # let _ = raise;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
pub enum BudgetDecision {
    /// The run continues with these limits. Those of a subject change for the rest of the window.
    Raise {
        /// The limits that change; one that is not set remains as it is.
        limits: Limits,
    },
    /// The run fails with `BUDGET_EXCEEDED`.
    Stop,
}

/// A budget of each run of an agent.
///
/// ```
/// use aios_llm::budget::{Budget, Cost, Price, PriceTable};
///
/// let prices = PriceTable::new().with_price("anthropic:small", Price::per_million_dollars(1.0, 5.0));
/// let budget =
///     Budget::new().with_requests(20).with_cost(Cost::dollars(0.50)).with_prices(prices);
/// ```
#[derive(Clone, Debug)]
pub struct Budget {
    /// Of each run; all unset by default.
    pub(crate) limits: Limits,
    /// In percent of each limit.
    pub(crate) soft_percent: u8,
    /// The behaviour at a limit.
    pub(crate) at_limit: AtLimit,
    /// By model; without one, the cost is unknown.
    pub(crate) prices: PriceTable,
    /// The behaviour if a model has no price.
    pub(crate) unknown_price: UnknownPrice,
}

impl Budget {
    /// Default share of a limit, in percent, after which the model is informed.
    pub const DEFAULT_SOFT_PERCENT: u8 = 80;

    /// Levels of child runs if [`depth`](Self::with_depth) is not set.
    pub const DEFAULT_DEPTH: u32 = 4;
    /// Maximum number of output tokens that a response is assumed to have if
    /// [`max_output_tokens`](crate::LlmAgent::max_output_tokens) is not set.
    pub const DEFAULT_MAX_OUTPUT_TOKENS: u32 = 8192;

    /// A budget without limits.
    #[must_use]
    pub fn new() -> Self {
        Self {
            limits: Limits::default(),
            soft_percent: Self::DEFAULT_SOFT_PERCENT,
            at_limit: AtLimit::default(),
            prices: PriceTable::default(),
            unknown_price: UnknownPrice::default(),
        }
    }

    /// Sets all limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Limits the requests to models, including failed ones.
    #[must_use]
    pub fn with_requests(mut self, requests: u64) -> Self {
        self.limits.requests = Some(requests);
        self
    }

    /// Limits the input tokens, including cached ones.
    #[must_use]
    pub fn with_input_tokens(mut self, tokens: u64) -> Self {
        self.limits.input_tokens = Some(tokens);
        self
    }

    /// Limits the output tokens, including reasoning. Each response is limited to the rest, and to
    /// [`DEFAULT_MAX_OUTPUT_TOKENS`](Self::DEFAULT_MAX_OUTPUT_TOKENS) if the agent has no limit.
    #[must_use]
    pub fn with_output_tokens(mut self, tokens: u64) -> Self {
        self.limits.output_tokens = Some(tokens);
        self
    }

    /// Limits the cost. It is calculated with the [`prices`](Self::with_prices). Each response is limited
    /// to the tokens that the rest pays for, and to
    /// [`DEFAULT_MAX_OUTPUT_TOKENS`](Self::DEFAULT_MAX_OUTPUT_TOKENS) if the agent has no limit.
    #[must_use]
    pub fn with_cost(mut self, cost: Cost) -> Self {
        self.limits.cost = Some(cost);
        self
    }

    /// Limits the tool calls that run.
    #[must_use]
    pub fn with_tool_calls(mut self, calls: u64) -> Self {
        self.limits.tool_calls = Some(calls);
        self
    }

    /// Limits the time since the start of the run. It is checked before each call, and limits the
    /// call.
    #[must_use]
    pub fn with_wall_time(mut self, time: Duration) -> Self {
        self.limits.wall_time = Some(time);
        self
    }

    /// Limits the levels of child runs below the run; 0 means none. A call beyond it is a fault of
    /// the model.
    #[must_use]
    pub fn with_depth(mut self, levels: u32) -> Self {
        self.limits.depth = Some(levels);
        self
    }

    /// Sets the share of a limit, in percent from 1 to 100, after which the model is informed of
    /// the rest. 100 means never.
    #[must_use]
    pub fn with_soft_percent(mut self, percent: u8) -> Self {
        self.soft_percent = percent;
        self
    }

    /// Sets the behaviour at a limit.
    #[must_use]
    pub fn with_at_limit(mut self, at_limit: AtLimit) -> Self {
        self.at_limit = at_limit;
        self
    }

    /// Sets the price table.
    #[must_use]
    pub fn with_prices(mut self, prices: PriceTable) -> Self {
        self.prices = prices;
        self
    }

    /// Sets the behaviour for a model that is not in the price table.
    #[must_use]
    pub fn with_unknown_price(mut self, unknown_price: UnknownPrice) -> Self {
        self.unknown_price = unknown_price;
        self
    }
}

impl Default for Budget {
    /// The same as [`new`](Self::new).
    fn default() -> Self {
        Self::new()
    }
}
