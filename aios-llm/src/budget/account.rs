use std::{fmt, time::Duration};

use aios_core::failure::Failure;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Budget, Cost, Limits, UnknownPrice};
use crate::model::{ModelRequest, Usage};

/// Bytes of a request that count as one token when it is reserved.
const BYTES_PER_TOKEN: usize = 4;

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
    pub(crate) fn plus(self, other: &Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            usage: self.usage + other.usage,
            cost: self.cost + other.cost,
            tool_calls: self.tool_calls.saturating_add(other.tool_calls),
        }
    }
}

/// A limit that a call would exceed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exceeded {
    /// Name of the limit, as in [`Limits`].
    pub limit: String,
    /// The limit.
    pub allowed: String,
    /// The sum that the call could reach.
    pub needed: String,
}

impl Exceeded {
    /// Code of the failure of a run that exceeds its budget.
    pub const CODE: &'static str = "BUDGET_EXCEEDED";

    fn new(limit: &str, allowed: impl fmt::Display, needed: impl fmt::Display) -> Self {
        Self { limit: limit.to_owned(), allowed: allowed.to_string(), needed: needed.to_string() }
    }

    pub(crate) fn to_failure(&self) -> Failure {
        Failure::new(Self::CODE, self.to_string()).with_details(json!(self))
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, allowed, needed } = self;
        write!(
            formatter,
            "the budget allows {limit} of {allowed}, and the next call needs {needed}"
        )
    }
}

/// Amounts that are set aside for a call in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Reservation(pub(crate) Spent);

/// The account of a run. It is calculated from recorded results only.
#[derive(Debug)]
pub(crate) struct Account {
    budget: Budget,
    spent: Spent,
}

impl Account {
    pub(crate) fn new(budget: Budget) -> Self {
        Self { budget, spent: Spent::default() }
    }

    pub(crate) fn spent(&self) -> &Spent {
        &self.spent
    }

    pub(crate) fn raise(&mut self, limits: Limits) {
        self.budget.limits = limits;
    }

    /// Reserves a request. Limits its output to what is left.
    pub(crate) fn reserve_request(
        &self,
        model: &str,
        request: &mut ModelRequest,
    ) -> Result<Reservation, Failure> {
        if let Some(limit) = self.budget.limits.output_tokens {
            let left = limit.saturating_sub(self.spent.usage.output_tokens);
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            let wanted = request.max_output_tokens.unwrap_or(u32::MAX);
            // A request for no token at all would be invalid; the reservation below fails instead.
            request.max_output_tokens = Some(wanted.min(left).max(1));
        }
        let bytes = serde_json::to_string(request).map_or(0, |text| text.len());
        let input_tokens = u64::try_from(bytes.div_ceil(BYTES_PER_TOKEN)).unwrap_or(u64::MAX);
        let output_tokens = request.max_output_tokens.map_or(1, u64::from);
        let usage = Usage::new(input_tokens, output_tokens);
        let cost = self.cost(model, &usage)?;
        self.reserve(Spent { requests: 1, usage, cost, tool_calls: 0 })
    }

    pub(crate) fn reserve_tool_calls(&self, calls: u64) -> Result<Reservation, Failure> {
        self.reserve(Spent { tool_calls: calls, ..Spent::default() })
    }

    fn reserve(&self, amounts: Spent) -> Result<Reservation, Failure> {
        match self.exceeded(&self.spent.plus(&amounts)) {
            Some(exceeded) => Err(exceeded.to_failure()),
            None => Ok(Reservation(amounts)),
        }
    }

    /// Replaces a reservation with the real amounts.
    pub(crate) fn settle(&mut self, amounts: Spent) {
        self.spent = self.spent.plus(&amounts);
    }

    /// The amounts of one request that ended.
    pub(crate) fn amounts(&self, model: &str, usage: Usage) -> Spent {
        let cost = self.cost(model, &usage).unwrap_or_default();
        Spent { requests: 1, usage, cost, tool_calls: 0 }
    }

    fn cost(&self, model: &str, usage: &Usage) -> Result<Cost, Failure> {
        let price = match (self.budget.prices.price(model), self.budget.unknown_price) {
            (Some(price), _) | (None, UnknownPrice::Assume(price)) => price,
            (None, UnknownPrice::Free) => return Ok(Cost::ZERO),
            (None, UnknownPrice::Fail) if self.budget.limits.cost.is_none() => {
                return Ok(Cost::ZERO);
            }
            (None, UnknownPrice::Fail) => {
                let reason = format!(
                    "the cost is limited, and model {model:?} has no price; add it to the price \
                     table, or choose `UnknownPrice::Free` or `Assume`"
                );
                return Err(Failure::new("UNKNOWN_PRICE", reason));
            }
        };
        Ok(price.cost(usage))
    }

    fn exceeded(&self, sum: &Spent) -> Option<Exceeded> {
        let limits = &self.budget.limits;
        let counts = [
            ("requests", limits.requests, sum.requests),
            ("input_tokens", limits.input_tokens, sum.usage.input_tokens),
            ("output_tokens", limits.output_tokens, sum.usage.output_tokens),
            ("tool_calls", limits.tool_calls, sum.tool_calls),
        ];
        for (name, limit, sum) in counts {
            if let Some(limit) = limit.filter(|limit| sum > *limit) {
                return Some(Exceeded::new(name, limit, sum));
            }
        }
        let limit = limits.cost.filter(|limit| sum.cost > *limit)?;
        Some(Exceeded::new("cost", limit, sum.cost))
    }

    /// The rest of the wall time.
    pub(crate) fn time_left(&self, elapsed: Duration) -> Result<Option<Duration>, Failure> {
        let Some(limit) = self.budget.limits.wall_time else { return Ok(None) };
        match limit.checked_sub(elapsed).filter(|left| !left.is_zero()) {
            Some(left) => Ok(Some(left)),
            None => {
                let (limit, elapsed) = (format!("{limit:?}"), format!("{elapsed:?}"));
                Err(Exceeded::new("wall_time", limit, elapsed).to_failure())
            }
        }
    }

    /// A sentence for the model about limits that are nearly reached.
    pub(crate) fn soft_notice(&self) -> Option<String> {
        let (limits, spent) = (&self.budget.limits, &self.spent);
        let cost = limits.cost.map(Cost::as_nanodollars);
        let shares = [
            ("requests", limits.requests, spent.requests),
            ("input tokens", limits.input_tokens, spent.usage.input_tokens),
            ("output tokens", limits.output_tokens, spent.usage.output_tokens),
            ("tool calls", limits.tool_calls, spent.tool_calls),
            ("cost", cost, spent.cost.as_nanodollars()),
        ];
        let soft = u128::from(self.budget.soft_percent);
        let near = shares.into_iter().filter_map(|(name, limit, sum)| {
            let limit = limit?;
            let is_near = u128::from(sum) * 100 >= u128::from(limit) * soft;
            (soft < 100 && is_near).then(|| match name {
                "cost" => "cost".to_owned(),
                _ => format!("{name} ({sum} of {limit} used)"),
            })
        });
        let near: Vec<_> = near.collect();
        let names = near.join(", ");
        (!near.is_empty())
            .then(|| format!("The budget of this task is nearly used: {names}. Finish soon."))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Price, *};
    use crate::budget::PriceTable;

    #[test]
    fn should_refuse_what_would_exceed_a_limit() {
        let mut account = Account::new(Budget::new().requests(2).output_tokens(100));
        let mut request = ModelRequest::new("hello");
        account.reserve_request("m", &mut request).unwrap();
        assert_eq!(request.max_output_tokens, Some(100));
        account.settle(account.amounts("m", Usage::new(10, 60)));
        let mut second = ModelRequest::new("hello");
        account.reserve_request("m", &mut second).unwrap();
        assert_eq!(second.max_output_tokens, Some(40));
        account.settle(account.amounts("m", Usage::new(10, 40)));
        let failure = account.reserve_request("m", &mut second).unwrap_err();
        assert_eq!(
            (failure.code.as_str(), &failure.details["limit"]),
            (Exceeded::CODE, &json!("requests"))
        );
        account.raise(Limits { requests: Some(5), output_tokens: Some(100), ..Limits::default() });
        let failure = account.reserve_request("m", &mut second).unwrap_err();
        assert_eq!(failure.details["limit"], json!("output_tokens"));
    }

    #[test]
    fn should_let_the_user_decide_about_unknown_prices() {
        let limited = Budget::new().cost(Cost::dollars(1.0));
        let reserve = |budget: Budget| {
            Account::new(budget).reserve_request("acme:new", &mut ModelRequest::new("hi"))
        };
        assert_eq!(reserve(limited.clone()).unwrap_err().code, "UNKNOWN_PRICE");
        assert!(reserve(limited.clone().unknown_price(UnknownPrice::Free)).is_ok());
        let dear = UnknownPrice::Assume(Price::per_million_dollars(1e6, 1e6));
        assert_eq!(reserve(limited.clone().unknown_price(dear)).unwrap_err().code, Exceeded::CODE);
        let prices = PriceTable::new().with_price("acme:new", Price::per_million_dollars(1.0, 1.0));
        assert!(reserve(limited.prices(prices)).is_ok());
        assert!(reserve(Budget::new()).is_ok());
    }

    #[test]
    fn should_tell_the_model_about_the_soft_limit() {
        let mut account = Account::new(Budget::new().requests(5));
        for _ in 0..3 {
            account.settle(account.amounts("m", Usage::default()));
        }
        assert_eq!(account.soft_notice(), None);
        account.settle(account.amounts("m", Usage::default()));
        assert!(account.soft_notice().unwrap().contains("requests (4 of 5 used)"));
    }
}
