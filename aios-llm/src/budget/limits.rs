//! Limits, and how they are combined and compared.
//!
//! `None` means "no limit" everywhere, so a lower limit is the minimum of those that are set. Sums
//! are compared after a call is added: a limit of 10 allows 10 requests.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Cost, Exceeded, Spent};
use crate::model::Usage;

/// Limits of one run and of the agents that it calls. A limit that is not set does not apply.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_llm::{budget::{Cost, Limits}, tool::Tool};
///
/// // Each call of the sub-agent gets its own share of the caller's budget.
/// let limits = Limits {
///     requests: Some(10),
///     cost: Some(Cost::dollars(0.25)),
///     wall_time: Some(Duration::from_secs(120)),
///     ..Limits::default()
/// };
/// let tool = Tool::agent("research", "Researches a question.", "researcher").with_limits(limits);
/// assert_eq!(tool.name(), "research");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Requests to models, including failed ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// Input tokens, including cached ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// Output tokens, including reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// Cost according to the price table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// Tool calls that run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<u64>,
    /// Time since the start of the run. It is checked before each call, and limits the call unless
    /// that is one of a `write` tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_time: Option<Duration>,
    /// Levels of child runs below the run; 0 means none. Without it,
    /// [`Budget::DEFAULT_DEPTH`](super::Budget::DEFAULT_DEPTH) applies. A call beyond it is a fault of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
}

impl Limits {
    /// These limits, and those of `others` that are not set here.
    #[must_use]
    pub(crate) fn or(self, others: Self) -> Self {
        Self {
            requests: self.requests.or(others.requests),
            input_tokens: self.input_tokens.or(others.input_tokens),
            output_tokens: self.output_tokens.or(others.output_tokens),
            cost: self.cost.or(others.cost),
            tool_calls: self.tool_calls.or(others.tool_calls),
            wall_time: self.wall_time.or(others.wall_time),
            depth: self.depth.or(others.depth),
        }
    }

    /// The lower one of each limit.
    #[must_use]
    pub(crate) fn within(self, others: Self) -> Self {
        Self {
            requests: least(self.requests, others.requests),
            input_tokens: least(self.input_tokens, others.input_tokens),
            output_tokens: least(self.output_tokens, others.output_tokens),
            cost: least(self.cost, others.cost),
            tool_calls: least(self.tool_calls, others.tool_calls),
            wall_time: least(self.wall_time, others.wall_time),
            depth: least(self.depth, others.depth),
        }
    }

    /// The amounts that the limits allow; 0 where there is no limit.
    pub(crate) fn amounts(&self) -> Spent {
        let tokens = |limit: Option<u64>| limit.unwrap_or_default();
        Spent {
            requests: tokens(self.requests),
            usage: Usage::new(tokens(self.input_tokens), tokens(self.output_tokens)),
            cost: self.cost.unwrap_or_default(),
            tool_calls: tokens(self.tool_calls),
        }
    }

    /// The wanted amounts with at most the output tokens and the cost that a sum leaves, but not less
    /// than `least`.
    pub(crate) fn left_of(&self, sum: &Spent, wanted: Spent, least: Spent) -> Spent {
        let mut amounts = wanted;
        if let Some(limit) = self.output_tokens {
            let left = limit.saturating_sub(sum.usage.output_tokens);
            let tokens = wanted.usage.output_tokens.min(left).max(least.usage.output_tokens);
            amounts.usage.output_tokens = tokens;
        }
        if let Some(limit) = self.cost {
            amounts.cost = wanted.cost.min(limit - sum.cost).max(least.cost);
        }
        amounts
    }

    /// The first limit that a sum exceeds.
    pub(crate) fn exceeded_by(&self, sum: &Spent) -> Option<Exceeded> {
        let counts = [
            ("requests", self.requests, sum.requests),
            ("input_tokens", self.input_tokens, sum.usage.input_tokens),
            ("output_tokens", self.output_tokens, sum.usage.output_tokens),
            ("tool_calls", self.tool_calls, sum.tool_calls),
        ];
        for (name, limit, sum) in counts {
            if let Some(limit) = limit.filter(|limit| sum > *limit) {
                return Some(Exceeded::new(name, limit, sum));
            }
        }
        let limit = self.cost.filter(|limit| sum.cost > *limit)?;
        Some(Exceeded::new("cost", limit, sum.cost))
    }

    /// A sentence for the model about limits of which a sum, or the time that has passed, has reached a
    /// share, in percent.
    ///
    /// The time and the cost are without numbers: they differ in each request, and a journal would hold the
    /// changed instructions of each.
    pub(crate) fn soft_notice(
        &self,
        spent: &Spent,
        elapsed: Duration,
        soft_percent: u8,
    ) -> Option<String> {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let cost = self.cost.map(Cost::as_nanodollars);
        let shares = [
            ("requests", self.requests, spent.requests),
            ("input tokens", self.input_tokens, spent.usage.input_tokens),
            ("output tokens", self.output_tokens, spent.usage.output_tokens),
            ("tool calls", self.tool_calls, spent.tool_calls),
            ("cost", cost, spent.cost.as_nanodollars()),
            ("time", self.wall_time.map(micros), micros(elapsed)),
        ];
        let soft = u128::from(soft_percent);
        let near = shares.into_iter().filter_map(|(name, limit, sum)| {
            let limit = limit?;
            let is_near = u128::from(sum) * 100 >= u128::from(limit) * soft;
            (soft < 100 && is_near).then(|| match name {
                "cost" | "time" => name.to_owned(),
                _ => format!("{name} ({sum} of {limit} used)"),
            })
        });
        let near: Vec<_> = near.collect();
        let names = near.join(", ");
        (!near.is_empty())
            .then(|| format!("The budget of this task is nearly used: {names}. Finish soon."))
    }
}

/// The lower one of two limits.
fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    one.into_iter().chain(other).min()
}
