//! Budgets of agents.
//!
//! Limits have the same form in JSON as in `aios-llm`, which reads them; the other types here are
//! the JSON of the Python classes.

use std::{sync::Arc, time::Duration};

use aios_core::store::Store;
use aios_llm::budget::{AtLimit, Budget, Limits, Price, PriceTable, SubjectBudget, UnknownPrice};
use pyo3::prelude::*;
use serde::Deserialize;

use crate::convert::seconds;

/// Dollars for a million input, output and cached input tokens.
#[derive(Deserialize)]
struct PriceArg(f64, f64, Option<f64>);

impl PriceArg {
    /// The price.
    fn into_price(self) -> Price {
        let Self(input, output, cached) = self;
        let price = Price::per_million_dollars(input, output);
        cached.map_or(price, |cached| price.with_cached_input(cached))
    }
}

/// The action at a limit.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum AtLimitArg {
    Fail,
    Ask,
    CheaperModel,
}

/// The price of a model that is not in the table.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum UnknownPriceArg {
    Fail,
    Free,
    Assume(PriceArg),
}

/// `aios.Budget` as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BudgetArg {
    limits: Limits,
    soft_percent: u8,
    at_limit: AtLimitArg,
    prices: Vec<(String, PriceArg)>,
    unknown_price: UnknownPriceArg,
}

impl BudgetArg {
    /// The budget.
    pub(super) fn into_budget(self) -> Budget {
        let prices = self.prices.into_iter().fold(PriceTable::new(), |table, (model, price)| {
            table.with_price(model, price.into_price())
        });
        Budget::new()
            .with_limits(self.limits)
            .with_soft_percent(self.soft_percent)
            .with_at_limit(match self.at_limit {
                AtLimitArg::Fail => AtLimit::Fail,
                AtLimitArg::Ask => AtLimit::Ask,
                AtLimitArg::CheaperModel => AtLimit::CheaperModel,
            })
            .with_prices(prices)
            .with_unknown_price(match self.unknown_price {
                UnknownPriceArg::Fail => UnknownPrice::Fail,
                UnknownPriceArg::Free => UnknownPrice::Free,
                UnknownPriceArg::Assume(price) => UnknownPrice::Assume(price.into_price()),
            })
    }
}

/// `aios.SubjectBudget` as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SubjectBudgetArg {
    window: f64,
    limits: Limits,
}

/// A budget of subjects, whose sums will be in the store of the runtime.
pub(super) struct PreparedSubjectBudget {
    window: Duration,
    limits: Limits,
}

impl SubjectBudgetArg {
    /// The budget without its store.
    pub(super) fn prepare(self, py: Python<'_>) -> PyResult<PreparedSubjectBudget> {
        Ok(PreparedSubjectBudget {
            window: seconds(py, "window", self.window)?,
            limits: self.limits,
        })
    }
}

impl PreparedSubjectBudget {
    /// The budget with the store that has its sums.
    pub(super) fn open(self, store: Arc<dyn Store>) -> SubjectBudget {
        SubjectBudget::new(store, self.window, self.limits)
    }
}
