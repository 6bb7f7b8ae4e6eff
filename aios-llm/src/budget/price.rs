//! Prices, and amounts of money.
//!
//! Amounts are whole numbers of billionths of a dollar, so sums are exact and the same in every
//! replay. A price is an amount per million tokens, so the price of one token can be a fraction of
//! a billionth. Arithmetic saturates: a cost can't overflow into a small one.

use std::{
    collections::BTreeMap,
    fmt,
    ops::{Add, AddAssign, Sub},
};

use serde::{Deserialize, Serialize};

use crate::model::Usage;

/// For conversions from dollars.
const NANOS_PER_DOLLAR: f64 = 1e9;

/// An amount of money, in billionths of a US dollar.
///
/// # Examples
///
/// ```
/// use aios_llm::budget::Cost;
///
/// let cost = Cost::dollars(0.25) + Cost::nanodollars(1);
/// assert_eq!(cost.to_string(), "$0.250000001");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cost(u64);

/// The price of a model, in billionths of a US dollar per million tokens.
///
/// # Examples
///
/// ```
/// use aios_llm::{budget::{Cost, Price}, model::Usage};
///
/// let price = Price::per_million_dollars(3.0, 15.0); // input and output
/// assert_eq!(price.cost(&Usage::new(1_000, 200)), Cost::dollars(0.006));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Price {
    /// Price of a million input tokens.
    pub input: Cost,
    /// Price of a million input tokens that the provider has cached.
    pub cached_input: Cost,
    /// Price of a million output tokens, including reasoning.
    pub output: Cost,
}

/// Prices by the name of the model. It is data: read it from JSON, or build it.
///
/// # Examples
///
/// A table in a file of configuration, and what a response costs:
///
/// ```
/// use aios_llm::{budget::{Cost, PriceTable}, model::Usage};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // $3 for a million input tokens, a tenth of that for cached ones, and $15 for output.
/// let text = r#"{"anthropic:claude-sonnet-4-5": {
///     "input": 3000000000, "cached_input": 300000000, "output": 15000000000
/// }}"#;
/// let table: PriceTable = serde_json::from_str(text)?;
/// let price = table.price("anthropic:claude-sonnet-4-5").ok_or("no price")?;
/// assert_eq!(price.cost(&Usage::new(1_000, 200)), Cost::dollars(0.006));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PriceTable(BTreeMap<String, Price>);

/// The behaviour for a model that is not in the price table. Applies only if the cost of the run or of
/// its subject is limited.
///
/// # Examples
///
/// ```
/// use aios_llm::budget::{Budget, Cost, Price, UnknownPrice};
///
/// // New models of the provider are counted as if they were expensive.
/// let budget = Budget::new()
///     .with_cost(Cost::dollars(1.0))
///     .with_unknown_price(UnknownPrice::Assume(Price::per_million_dollars(15.0, 75.0)));
/// # drop(budget);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnknownPrice {
    /// The run fails with `UNKNOWN_PRICE` before the request.
    #[default]
    Fail,
    /// The model costs nothing.
    Free,
    /// The model has this price.
    Assume(Price),
}

impl Cost {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// An amount in billionths of a dollar.
    #[must_use]
    pub const fn nanodollars(amount: u64) -> Self {
        Self(amount)
    }

    /// An amount in dollars, rounded to a billionth. A negative amount, or one that is not a number,
    /// is 0.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, as documented"
    )]
    pub fn dollars(amount: f64) -> Self {
        Self((amount * NANOS_PER_DOLLAR).round() as u64)
    }

    /// The amount in billionths of a dollar.
    #[must_use]
    pub const fn as_nanodollars(self) -> u64 {
        self.0
    }
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Cost {
    type Output = Self;

    /// The difference; 0 if `other` is larger.
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "${}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

impl Price {
    /// A price in dollars per million input and output tokens. Cached tokens cost as much as others.
    #[must_use]
    pub fn per_million_dollars(input: f64, output: f64) -> Self {
        let input = Cost::dollars(input);
        let output = Cost::dollars(output);
        Self { input, cached_input: input, output }
    }

    /// Sets the price in dollars per million cached input tokens.
    #[must_use]
    pub fn with_cached_input(mut self, dollars: f64) -> Self {
        self.cached_input = Cost::dollars(dollars);
        self
    }

    /// The cost of these tokens, rounded up to a billionth of a dollar.
    #[must_use]
    pub fn cost(&self, usage: &Usage) -> Cost {
        // A provider that reports more cached tokens than input tokens does not make the rest
        // negative.
        let cached = usage.cached_input_tokens.min(usage.input_tokens);
        let of = |tokens: u64, price: Cost| u128::from(tokens) * u128::from(price.0);
        let sum = of(usage.input_tokens - cached, self.input)
            .saturating_add(of(cached, self.cached_input))
            .saturating_add(of(usage.output_tokens, self.output));
        // Rounded up, so that many small requests are not free.
        Cost(u64::try_from(sum.div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }

    /// The number of output tokens that an amount pays for.
    pub(crate) fn output_for(&self, amount: Cost) -> u32 {
        let tokens = (u128::from(amount.0) * 1_000_000).checked_div(self.output.0.into());
        tokens.map_or(u32::MAX, |tokens| u32::try_from(tokens).unwrap_or(u32::MAX))
    }
}

impl PriceTable {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the price of a model, by its [name](crate::LanguageModel::name).
    #[must_use]
    pub fn with_price(mut self, model: impl Into<String>, price: Price) -> Self {
        self.0.insert(model.into(), price);
        self
    }

    /// The price of a model.
    #[must_use]
    pub fn price(&self, model: &str) -> Option<Price> {
        self.0.get(model).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_calculate_the_cost_to_a_billionth() {
        let price = Price::per_million_dollars(3.0, 15.0).with_cached_input(0.3);
        let usage = Usage {
            input_tokens: 1000,
            cached_input_tokens: 400,
            output_tokens: 10,
            ..Usage::default()
        };
        // 600 × 3000 + 400 × 300 + 10 × 15000 billionths.
        assert_eq!(price.cost(&usage), Cost::nanodollars(2_070_000));
        assert_eq!(price.cost(&usage).to_string(), "$0.002070000");
        let cheap = Price::per_million_dollars(0.000_000_001, 0.0);
        assert_eq!(cheap.cost(&Usage::new(1, 0)), Cost::nanodollars(1));
    }

    #[test]
    fn should_read_prices_from_json() {
        let text =
            r#"{"acme:large":{"input":3000000000,"cached_input":300000000,"output":15000000000}}"#;
        let table: PriceTable = serde_json::from_str(text).unwrap();
        let price = Price::per_million_dollars(3.0, 15.0).with_cached_input(0.3);
        assert_eq!(table.price("acme:large"), Some(price));
        assert_eq!(table.price("acme:small"), None);
    }
}
