//! The account of one run: reservations before calls, settlements after them.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aios_agents::workflow::{WorkflowContext, WorkflowError};
use aios_core::{event::Timestamp, failure::Failure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{compiled::Compiled, decisions::emit};
use crate::{
    budget::{
        Account, AtLimit, BUDGET_SIGNAL, BudgetDecision, Exceeded, Limits, Reservation, Spent,
    },
    model::{ModelRequest, Usage},
};

/// The account of a run, and the calls in progress that it is charged for.
pub(super) struct Accounting {
    context: WorkflowContext,
    started: Timestamp,
    at_limit: AtLimit,
    state: Arc<Mutex<State>>,
}

struct State {
    account: Account,
    in_progress: Option<Reservation>,
}

#[derive(Serialize)]
struct Reserved<'a> {
    amounts: &'a Spent,
}

#[derive(Serialize)]
struct Settled<'a> {
    amounts: &'a Spent,
    spent: &'a Spent,
    /// Whether the amounts are an estimate: nothing says what the call cost.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_estimate: bool,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Accounting {
    /// The account of a run that begins, with this part of the budget of a calling agent. If the run is cancelled, the calls in progress are settled:
    /// nothing reports what they cost, so that only what is certain counts.
    pub(super) fn new(agent: &Compiled, context: &WorkflowContext, share: Limits) -> Self {
        let account = Account::new(agent.budget.clone()).with_share(share);
        let state = State { account, in_progress: None };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        context.compensate(
            "settle",
            move |context| async move { lock(&shared).settle_rest(&context) },
        );
        let (context, started) = (context.clone(), context.now());
        Self { context, started, at_limit: agent.budget.at_limit, state }
    }

    /// A sentence for the model about limits that are nearly reached.
    pub(super) fn soft_notice(&self) -> Option<String> {
        lock(&self.state).account.soft_notice()
    }

    /// Reserves a request that one of the models answers, and limits its output to what is left. Returns
    /// the rest of the wall time.
    pub(super) async fn reserve_request(
        &self,
        models: &[&str],
        request: &mut ModelRequest,
    ) -> Result<Option<Duration>, WorkflowError> {
        let wanted = request.max_output_tokens;
        loop {
            request.max_output_tokens = wanted;
            let elapsed = self.context.now().duration_since(self.started);
            let reserved = {
                let account = &lock(&self.state).account;
                account
                    .time_left(elapsed)
                    .and_then(|left| Ok((left, account.reserve_request(models, request)?)))
            };
            match reserved {
                Ok((left, reservation)) => {
                    self.begin(reservation)?;
                    return Ok(left);
                }
                Err(failure) => self.reached(failure).await?,
            }
        }
    }

    /// Reserves tool calls, of which some call agents with these limits. Returns the part of the
    /// budget that each of those gets.
    pub(super) async fn reserve_calls(
        &self,
        calls: u64,
        agents: &[Limits],
    ) -> Result<Vec<Limits>, WorkflowError> {
        loop {
            let elapsed = self.context.now().duration_since(self.started);
            let reserved = lock(&self.state).account.reserve_calls(calls, agents, elapsed);
            match reserved {
                Ok((reservation, shares)) => {
                    self.begin(reservation)?;
                    return Ok(shares);
                }
                Err(failure) => self.reached(failure).await?,
            }
        }
    }

    /// Levels of child runs that are left.
    pub(super) fn depth(&self) -> u32 {
        lock(&self.state).account.depth()
    }

    /// The sum so far.
    pub(super) fn spent(&self) -> Spent {
        *lock(&self.state).account.spent()
    }

    fn begin(&self, reservation: Reservation) -> Result<(), WorkflowError> {
        lock(&self.state).in_progress = Some(reservation);
        emit(&self.context, "budget", "reserved", &Reserved { amounts: &reservation.amounts })
    }

    /// Settles a request that one of the models has answered. If its price is unknown, the reserved
    /// cost counts, and the run fails.
    pub(super) fn settle_request(
        &self,
        models: &[&str],
        usage: Usage,
    ) -> Result<(), WorkflowError> {
        let mut state = lock(&self.state);
        let reserved = state.in_progress.take().unwrap_or_default();
        match state.account.amounts(models, usage) {
            Ok(amounts) => state.settle(&self.context, amounts, false),
            Err(failure) => {
                let cost = reserved.amounts.cost;
                let amounts = Spent { requests: 1, usage, cost, ..Spent::default() };
                state.settle(&self.context, amounts, true)?;
                Err(WorkflowError::failed(failure))
            }
        }
    }

    /// Settles a part of the calls in progress.
    pub(super) fn settle_part(
        &self,
        amounts: Spent,
        is_estimate: bool,
    ) -> Result<(), WorkflowError> {
        lock(&self.state).settle(&self.context, amounts, is_estimate)
    }

    /// Settles the calls in progress of a run that fails with what is certain.
    pub(super) fn settle_rest(&self) -> Result<(), WorkflowError> {
        lock(&self.state).settle_rest(&self.context)
    }

    /// Settles the calls in progress with these amounts.
    pub(super) fn settle(&self, amounts: Spent) -> Result<(), WorkflowError> {
        let mut state = lock(&self.state);
        state.in_progress = None;
        state.settle(&self.context, amounts, false)
    }

    /// Handles a limit: fails, or waits until a person raises it.
    async fn reached(&self, failure: Failure) -> Result<(), WorkflowError> {
        let can_be_raised =
            Exceeded::deserialize(&failure.details).is_ok_and(|exceeded| !exceeded.is_share);
        let asks = self.at_limit == AtLimit::Ask && can_be_raised;
        if !asks {
            return Err(WorkflowError::failed(failure));
        }
        emit(&self.context, "budget", "limit_reached", &failure.details)?;
        let status = format!("waits for the signal `{BUDGET_SIGNAL}`: {}", failure.message);
        self.context.set_status(status);
        let decision: Value = self.context.signal(BUDGET_SIGNAL).await?;
        match serde_json::from_value(decision) {
            Ok(BudgetDecision::Raise { limits }) => lock(&self.state).account.raise(limits),
            Ok(BudgetDecision::Stop) => return Err(WorkflowError::failed(failure)),
            // Not a decision: the next reservation asks again.
            Err(error) => self.context.set_status(format!("the signal was not accepted: {error}")),
        }
        Ok(())
    }
}

impl State {
    fn settle_rest(&mut self, context: &WorkflowContext) -> Result<(), WorkflowError> {
        match self.in_progress.take() {
            Some(reservation) => self.settle(context, reservation.least, true),
            None => Ok(()),
        }
    }

    fn settle(
        &mut self,
        context: &WorkflowContext,
        amounts: Spent,
        is_estimate: bool,
    ) -> Result<(), WorkflowError> {
        self.account.settle(amounts);
        let spent = self.account.spent();
        emit(context, "budget", "settled", &Settled { amounts: &amounts, spent, is_estimate })
    }
}
