//! The account of a run: what is reserved and spent, against its limits.
//!
//! It is calculated from recorded results only, so that a replay reaches the same sums. A call is
//! reserved before it begins, with the most that it is expected to need, and settled with what it did
//! need. The output of a request is limited to what is left. Its input is estimated (four bytes are a
//! token), and a provider may have a least output, so one call can exceed a limit; the next one then
//! fails before it begins.
//!
//! The account is pure: it knows nothing of runs, stores or time. `agent::accounting` decides when
//! it is called.

use std::time::Duration;

use aios_core::{catalog::codes, failure::Failure};

use super::{Budget, Cost, Exceeded, Limits, Price, Scope, Spent, UnknownPrice};
use crate::model::{ImageSource, ModelRequest, ModelResponse, Part, Usage};

/// Bytes of a request that count as one token when it is reserved, apart from images.
const BYTES_PER_TOKEN: usize = 4;
/// Tokens of an image when it is reserved: about the most that providers count.
const TOKENS_PER_IMAGE: usize = 2000;

/// Amounts that are set aside for calls in progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reservation {
    /// The most that the calls are expected to need.
    pub(crate) amounts: Spent,
    /// The part of it that is certain once the calls have begun.
    pub(crate) least: Spent,
}

/// The account of a run. It is calculated from recorded results only.
#[derive(Debug)]
pub(crate) struct Account {
    /// Limits, prices and behaviour of the agent. A person may raise the limits.
    budget: Budget,
    /// The part of the budget of a calling agent.
    share: Limits,
    /// Whether the budget of the subject limits the cost.
    is_subject_priced: bool,
    /// The sum of all settlements.
    spent: Spent,
}

impl Account {
    /// An account on which nothing was spent.
    pub(crate) fn new(budget: Budget) -> Self {
        Self { budget, share: Limits::default(), is_subject_priced: false, spent: Spent::default() }
    }

    /// Sets the limits of the subject that the run is charged to: if the cost is one of them, each
    /// model needs a price.
    pub(crate) fn with_subject(mut self, limits: Option<&Limits>) -> Self {
        self.is_subject_priced = limits.is_some_and(|limits| limits.cost.is_some());
        self
    }

    /// Limits the account to a part of another one.
    pub(crate) fn with_share(mut self, share: Limits) -> Self {
        self.share = share;
        self
    }

    /// The limits that apply: the lower ones of the budget and of the share.
    fn limits(&self) -> Limits {
        self.budget.limits.within(self.share)
    }

    /// Levels of child runs that are left below this run.
    pub(crate) fn depth(&self) -> u32 {
        self.limits().depth.unwrap_or(Budget::DEFAULT_DEPTH)
    }

    /// The sum so far.
    pub(crate) fn spent(&self) -> &Spent {
        &self.spent
    }

    /// Changes the limits that are set here.
    pub(crate) fn raise(&mut self, limits: Limits) {
        self.budget.limits = limits.or(self.budget.limits);
    }

    /// Reserves a request that one of the models answers. Limits its output to the tokens that are
    /// left, and to the cost unless it has to be whole.
    pub(crate) fn reserve_request(
        &self,
        models: &[&str],
        request: &mut ModelRequest,
        is_whole: bool,
    ) -> Result<Reservation, Failure> {
        let input_tokens = expected_input(request);
        let least = self.amounts(models, Usage::new(input_tokens, 0))?;
        self.limit_output(models, least.cost, request, is_whole)?;
        let output_tokens =
            request.max_output_tokens.unwrap_or(Budget::DEFAULT_MAX_OUTPUT_TOKENS).into();
        let amounts = self.amounts(models, Usage::new(input_tokens, output_tokens))?;
        self.reserve(amounts, least)
    }

    /// The amounts of a reserved request whose output is one token.
    pub(crate) fn least_of(
        &self,
        models: &[&str],
        reservation: &Reservation,
    ) -> Result<Spent, Failure> {
        let input = reservation.amounts.usage.input_tokens;
        self.amounts(models, Usage::new(input, reservation.amounts.usage.output_tokens.min(1)))
    }

    /// A reserved request that gets less than that, which limits its output.
    pub(crate) fn granted(
        &self,
        models: &[&str],
        request: &mut ModelRequest,
        reservation: Reservation,
        granted: Spent,
    ) -> Result<Reservation, Failure> {
        if granted == reservation.amounts {
            return Ok(reservation);
        }
        let tokens = u32::try_from(granted.usage.output_tokens).unwrap_or(u32::MAX);
        let paid = if granted.cost < reservation.amounts.cost {
            self.paid_output(models, granted.cost - reservation.least.cost)?
        } else {
            // The cost was granted in full.
            u32::MAX
        };
        request.max_output_tokens = Some(tokens.min(paid).max(1));
        Ok(Reservation { amounts: granted, ..reservation })
    }

    /// Limits the output of a request to the tokens and the cost that are left.
    fn limit_output(
        &self,
        models: &[&str],
        input: Cost,
        request: &mut ModelRequest,
        is_whole: bool,
    ) -> Result<(), Failure> {
        let limits = self.limits();
        let tokens = limits
            .output_tokens
            .map(|limit| limit.saturating_sub(self.spent.usage.output_tokens))
            .map(|left| u32::try_from(left).unwrap_or(u32::MAX));
        let paid = match limits.cost {
            // Not `None`: the default maximum is then part of the request, so that the output stays
            // within the reservation.
            Some(_) if is_whole => Some(u32::MAX),
            Some(limit) => Some(self.paid_output(models, limit - self.spent.cost - input)?),
            None => None,
        };
        let Some(left) = tokens.into_iter().chain(paid).min() else { return Ok(()) };
        let wanted = request.max_output_tokens.unwrap_or(Budget::DEFAULT_MAX_OUTPUT_TOKENS);
        // A request for no token at all would be invalid; the reservation fails instead.
        request.max_output_tokens = Some(wanted.min(left).max(1));
        Ok(())
    }

    /// The output tokens that an amount pays for, whichever of the models answers.
    fn paid_output(&self, models: &[&str], amount: Cost) -> Result<u32, Failure> {
        let mut least = u32::MAX;
        for model in models {
            if let Some(price) = self.price(model)? {
                least = least.min(price.output_for(amount));
            }
        }
        Ok(least)
    }

    /// Reserves tool calls, of which some call agents with these limits. Returns the share of each
    /// agent: its limit, but at most an equal part of what is left. Without a limit, the run itself
    /// keeps such a part too.
    pub(crate) fn reserve_calls(
        &self,
        calls: u64,
        wanted: &[Limits],
        elapsed: Duration,
    ) -> Result<(Reservation, Vec<Limits>), Failure> {
        let certain = Spent { tool_calls: calls, ..Spent::default() };
        let spent = self.spent.plus(&certain);
        let depth = Some(self.depth().saturating_sub(1));
        let limits = Limits { wall_time: self.time_left(elapsed)?, depth, ..self.limits() };
        let children = u64::try_from(wanted.len()).unwrap_or(u64::MAX);
        let shares: Vec<_> =
            wanted.iter().map(|wanted| share_of(limits, &spent, wanted, children)).collect();
        let one_request = Spent { requests: 1, ..certain };
        // An agent without a single request could do nothing, so the call is not made at all.
        let least = if shares.iter().any(|share| share.requests == Some(0)) {
            one_request
        } else {
            certain
        };
        self.reserve(least, certain)?;
        let amounts = shares.iter().fold(certain, |sum, share| sum.plus(&share.amounts()));
        Ok((Reservation { amounts, least: certain }, shares))
    }

    /// Checks the sum with the amounts. Nothing is changed: the caller keeps the reservation.
    fn reserve(&self, amounts: Spent, least: Spent) -> Result<Reservation, Failure> {
        match self.exceeded(&self.spent.plus(&amounts)) {
            Some(exceeded) => Err(exceeded.to_failure()),
            None => Ok(Reservation { amounts, least }),
        }
    }

    /// Replaces a reservation with the real amounts.
    pub(crate) fn settle(&mut self, amounts: Spent) {
        self.spent = self.spent.plus(&amounts);
    }

    /// The amounts of one request that a model answered: the cost is what each model is billed for.
    pub(crate) fn amounts_of(
        &self,
        model: &str,
        response: &ModelResponse,
    ) -> Result<Spent, Failure> {
        let failed = response.billed.iter().map(|failed| (failed.model.as_str(), failed.usage));
        let mut cost = Cost::ZERO;
        for (model, usage) in failed.chain([(model, response.own_usage())]) {
            cost += self.amounts(&[model], usage)?.cost;
        }
        Ok(Spent { requests: 1, usage: response.usage, cost, tool_calls: 0 })
    }

    /// The amounts of one request to one of the models: the cost is that of the most expensive one.
    pub(crate) fn amounts(&self, models: &[&str], usage: Usage) -> Result<Spent, Failure> {
        let mut cost = Cost::ZERO;
        for model in models {
            cost = cost.max(self.price(model)?.map_or(Cost::ZERO, |price| price.cost(&usage)));
        }
        Ok(Spent { requests: 1, usage, cost, tool_calls: 0 })
    }

    /// The price of a model; `None` if it costs nothing.
    fn price(&self, model: &str) -> Result<Option<Price>, Failure> {
        match (self.budget.prices.price(model), self.budget.unknown_price) {
            (Some(price), _) | (None, UnknownPrice::Assume(price)) => Ok(Some(price)),
            (None, UnknownPrice::Free) => Ok(None),
            (None, UnknownPrice::Fail)
                if self.limits().cost.is_none() && !self.is_subject_priced =>
            {
                Ok(None)
            }
            (None, UnknownPrice::Fail) => {
                let reason = format!(
                    "the cost is limited, and model {model:?} has no price; add it to the price \
                     table, or choose `UnknownPrice::Free` or `Assume`"
                );
                Err(Failure::new(codes::UNKNOWN_PRICE, reason))
            }
        }
    }

    /// The first limit that a sum exceeds. That of a share comes first, because raising the run's own
    /// limit would not help.
    fn exceeded(&self, sum: &Spent) -> Option<Exceeded> {
        let of_share = self.share.exceeded_by(sum);
        let of_share = of_share.map(|exceeded| Exceeded { scope: Scope::Share, ..exceeded });
        of_share.or_else(|| self.budget.limits.exceeded_by(sum))
    }

    /// The rest of the wall time.
    pub(crate) fn time_left(&self, elapsed: Duration) -> Result<Option<Duration>, Failure> {
        let Some(limit) = self.limits().wall_time else { return Ok(None) };
        match limit.checked_sub(elapsed).filter(|left| !left.is_zero()) {
            Some(left) => Ok(Some(left)),
            None => {
                let is_share = self.share.wall_time == Some(limit);
                let scope = if is_share { Scope::Share } else { Scope::Run };
                let limit = format!("{limit:?}");
                let elapsed = format!("{elapsed:?}");
                let exceeded = Exceeded::new("wall_time", limit, elapsed);
                Err(Exceeded { scope, ..exceeded }.to_failure())
            }
        }
    }

    /// A sentence for the model about limits that are nearly reached.
    pub(crate) fn soft_notice(&self, elapsed: Duration) -> Option<String> {
        self.limits().soft_notice(&self.spent, elapsed, self.budget.soft_percent)
    }
}

/// About how many input tokens a request has.
fn expected_input(request: &ModelRequest) -> u64 {
    let parts = request.messages.iter().flat_map(|message| &message.content);
    let images = parts.filter_map(|part| match part {
        Part::Image { source: ImageSource::Base64 { data, .. } } => Some(data.len()),
        Part::Image { .. } => Some(0),
        _ => None,
    });
    // The price of an image depends on its pixels. The length of its base64 would be an estimate
    // that is many times too high.
    let (count, data) = images.fold((0, 0), |(count, data), bytes| (count + 1, data + bytes));
    let bytes = serde_json::to_string(request).map_or(0, |text| text.len()).saturating_sub(data);
    let tokens = bytes.div_ceil(BYTES_PER_TOKEN) + count * TOKENS_PER_IMAGE;
    u64::try_from(tokens).unwrap_or(u64::MAX)
}

/// The share of one of several agents: what it wants, but at most an equal part of what is left of the
/// limits. Without a wish, the run itself keeps such a part too.
fn share_of(limits: Limits, spent: &Spent, wanted: &Limits, children: u64) -> Limits {
    let part = |limit: Option<u64>, spent: u64, wanted: Option<u64>| match (limit, wanted) {
        (None, wanted) => wanted,
        (Some(limit), None) => Some(limit.saturating_sub(spent) / children.saturating_add(1)),
        (Some(limit), Some(wanted)) => {
            Some(wanted.min(limit.saturating_sub(spent) / children.max(1)))
        }
    };
    let cost = |cost: Option<Cost>| cost.map(Cost::as_nanodollars);
    let usage = &spent.usage;
    let share = Limits {
        requests: part(limits.requests, spent.requests, wanted.requests),
        input_tokens: part(limits.input_tokens, usage.input_tokens, wanted.input_tokens),
        output_tokens: part(limits.output_tokens, usage.output_tokens, wanted.output_tokens),
        cost: part(cost(limits.cost), spent.cost.as_nanodollars(), cost(wanted.cost))
            .map(Cost::nanodollars),
        tool_calls: part(limits.tool_calls, spent.tool_calls, wanted.tool_calls),
        // The time and the depth are what is left; the wanted ones below can only lower them.
        ..limits
    };
    share.within(Limits { wall_time: wanted.wall_time, depth: wanted.depth, ..share })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{budget::PriceTable, model::ModelUsage};

    #[test]
    fn should_refuse_what_would_exceed_a_limit() {
        let mut account = Account::new(Budget::new().with_requests(2).with_output_tokens(100));
        let mut request = ModelRequest::new("hello");
        account.reserve_request(&["m"], &mut request, false).unwrap();
        assert_eq!(request.max_output_tokens, Some(100));
        account.settle(account.amounts(&["m"], Usage::new(10, 60)).unwrap());
        let mut second = ModelRequest::new("hello");
        account.reserve_request(&["m"], &mut second, false).unwrap();
        assert_eq!(second.max_output_tokens, Some(40));
        account.settle(account.amounts(&["m"], Usage::new(10, 40)).unwrap());
        let failure = account.reserve_request(&["m"], &mut second, false).unwrap_err();
        assert_eq!(
            (failure.code.as_str(), &failure.details.to_value()["limit"]),
            (Exceeded::CODE, &json!("requests"))
        );
        account.raise(Limits { requests: Some(5), ..Limits::default() });
        let failure = account.reserve_request(&["m"], &mut second, false).unwrap_err();
        assert_eq!(failure.details.to_value()["limit"], json!("output_tokens"));
    }

    #[test]
    fn should_not_count_the_bytes_of_an_image_as_text() {
        let account = Account::new(Budget::new().with_input_tokens(3000));
        let image = |bytes: usize| Part::Image {
            source: ImageSource::Base64 {
                media_type: "image/png".to_owned(),
                data: "A".repeat(bytes),
            },
        };
        let reserve = |images: usize| {
            let mut request = ModelRequest::new("What is this?");
            for _ in 0..images {
                request.messages[0].content.push(image(1024 * 1024));
            }
            account.reserve_request(&["m"], &mut request, false)
        };
        let tokens = reserve(1).unwrap().amounts.usage.input_tokens;
        assert!((2000..2100).contains(&tokens), "{tokens}");
        assert_eq!(reserve(2).unwrap_err().details.to_value()["limit"], json!("input_tokens"));
    }

    #[test]
    fn should_treat_unknown_prices_as_configured() {
        let limited = Budget::new().with_cost(Cost::dollars(1.0));
        let reserve = |budget: Budget| {
            Account::new(budget).reserve_request(&["acme:new"], &mut ModelRequest::new("hi"), false)
        };
        assert_eq!(reserve(limited.clone()).unwrap_err().code, "UNKNOWN_PRICE");
        assert!(reserve(limited.clone().with_unknown_price(UnknownPrice::Free)).is_ok());
        let dear = UnknownPrice::Assume(Price::per_million_dollars(1e6, 1e6));
        assert_eq!(
            reserve(limited.clone().with_unknown_price(dear)).unwrap_err().code,
            Exceeded::CODE
        );
        let prices = PriceTable::new().with_price("acme:new", Price::per_million_dollars(1.0, 1.0));
        assert!(reserve(limited.with_prices(prices)).is_ok());
        assert!(reserve(Budget::new()).is_ok());
    }

    #[test]
    fn should_reserve_the_most_expensive_model_that_may_answer() {
        let prices = PriceTable::new()
            .with_price("cheap", Price::per_million_dollars(1.0, 1.0))
            .with_price("dear", Price::per_million_dollars(1.0, 10.0));
        let account = Account::new(Budget::new().with_cost(Cost::dollars(1.0)).with_prices(prices));
        let mut request = ModelRequest::new("hi");
        request.max_output_tokens = Some(1000);
        let cost = |models: &[&str]| {
            account.reserve_request(models, &mut request.clone(), false).map(|it| it.amounts.cost)
        };
        let (cheap, both) = (cost(&["cheap"]).unwrap(), cost(&["cheap", "dear"]).unwrap());
        assert_eq!(both - cheap, Cost::nanodollars(9000 * 1000));
        assert_eq!(cost(&["cheap", "new"]).unwrap_err().code, "UNKNOWN_PRICE");
        let failure = account.amounts(&["new"], Usage::new(1, 1)).unwrap_err();
        assert_eq!(failure.code, "UNKNOWN_PRICE");
    }

    #[test]
    fn should_bill_each_model_at_its_own_price() {
        let prices = PriceTable::new()
            .with_price("cheap", Price::per_million_dollars(1.0, 1.0))
            .with_price("dear", Price::per_million_dollars(10.0, 10.0));
        let account = Account::new(Budget::new().with_prices(prices));
        let mut response = ModelResponse::text("hi").with_usage(Usage::new(30, 10));
        response.billed = vec![ModelUsage { model: "dear".into(), usage: Usage::new(20, 5) }];
        let amounts = account.amounts_of("cheap", &response).unwrap();
        assert_eq!(amounts.cost, Cost::nanodollars(25 * 10_000 + 15 * 1_000));
        assert_eq!((amounts.requests, amounts.usage), (1, response.usage));
    }

    #[test]
    fn should_limit_the_output_to_what_the_rest_of_the_cost_pays_for() {
        let prices = PriceTable::new().with_price("m", Price::per_million_dollars(0.0, 10.0));
        let mut account =
            Account::new(Budget::new().with_cost(Cost::dollars(1.0)).with_prices(prices));
        let most = |account: &Account| {
            let mut request = ModelRequest::new("hi");
            let reserved = account.reserve_request(&["m"], &mut request, false)?;
            assert!(reserved.amounts.cost >= reserved.least.cost);
            Ok::<_, Failure>(request.max_output_tokens.unwrap())
        };
        assert_eq!(most(&account).unwrap(), Budget::DEFAULT_MAX_OUTPUT_TOKENS);
        account.settle(account.amounts(&["m"], Usage::new(0, 99_500)).unwrap());
        assert_eq!(most(&account).unwrap(), 500, "half a cent");
        account.settle(account.amounts(&["m"], Usage::new(0, 500)).unwrap());
        let failure = most(&account).unwrap_err();
        assert_eq!(failure.details.to_value()["limit"], json!("cost"));
    }

    #[test]
    fn should_tell_the_model_about_the_soft_limit() {
        let prices = PriceTable::new().with_price("m", Price::per_million_dollars(0.0, 10.0));
        let budget = || Budget::new().with_prices(prices.clone());
        for (budget, notice) in [
            (budget().with_requests(5), "requests (4 of 5 used)"),
            (budget().with_input_tokens(50), "input tokens (40 of 50 used)"),
            (budget().with_output_tokens(100), "output tokens (80 of 100 used)"),
            (budget().with_tool_calls(15), "tool calls (12 of 15 used)"),
            (budget().with_cost(Cost::nanodollars(1_000_000)), "cost"),
            (budget().with_wall_time(Duration::from_secs(5)), "time"),
        ] {
            let mut account = Account::new(budget);
            let mut elapsed = Duration::ZERO;
            for round in 1..=4 {
                let amounts = account.amounts(&["m"], Usage::new(10, 20)).unwrap();
                account.settle(Spent { tool_calls: 3, ..amounts });
                elapsed += Duration::from_secs(1);
                let all = format!("The budget of this task is nearly used: {notice}. Finish soon.");
                let expected = (round == 4).then_some(all);
                assert_eq!(account.soft_notice(elapsed), expected, "{notice} {round}");
            }
        }
    }
}
