//! The account of one run: reservations before calls, settlements after them.
//!
//! The order around each call:
//!
//! 1. The account checks its limits and reserves, in memory (`Account`).
//! 2. If there is a budget of the subject, a step reserves there too, in the store. It may grant
//!    less.
//! 3. `llm.budget.reserved` is emitted.
//! 4. The call runs.
//! 5. The account is settled with the real amounts, and `llm.budget.settled` is emitted.
//! 6. A step settles what was reserved of the subject.
//!
//! The account is calculated from recorded results, so a replay reaches the same sums. The steps
//! are recorded; they are idempotent by key in the store, in case the process dies after the store
//! has answered. If the run fails, `settle_rest` counts what is certain. If it is cancelled, a
//! compensation does so, because the code that would settle is dropped.
//!
//! The state is behind a lock only because concurrent branches of one run share it. No lock is held
//! across an await.

mod at_limit;
mod children;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use aios_agents::workflow::{WorkflowContext, WorkflowError};
use aios_core::{agent::TaskError, catalog::codes, failure::Failure};
use parking_lot::Mutex;
use serde::Serialize;

use self::children::Children;
use super::{
    calls::emit,
    compiled::Compiled,
    delegation::{SPENT, Sums, UNCHARGED},
    host::{Meters, interrupted},
};
use crate::{
    budget::{Account, Answer, AtLimit, Held, Limits, Reservation, Spent, SubjectBudget},
    model::{ModelRequest, ModelResponse, Usage},
};

/// Timeout of one access to the sums of a subject.
const STORE_TIMEOUT: Duration = Duration::from_secs(30);

/// The account of a run, and the calls in progress that it is charged for.
pub(super) struct Accounting {
    /// The run, for its time, steps, signals and events.
    context: WorkflowContext,
    /// The age of the run when its code began. Wall time counts from here.
    started: Duration,
    /// The behaviour at a limit.
    at_limit: AtLimit,
    /// The percentage of a limit at which the model is warned.
    soft_percent: u8,
    /// The subject that is charged, if the agent has a budget for subjects.
    subject: Option<Subject>,
    /// Shared with the compensation.
    state: Arc<Mutex<State>>,
}

/// The subject of a run, with its budget.
#[derive(Clone)]
struct Subject {
    /// Access to its sums.
    budget: SubjectBudget,
    /// The name from the prompt.
    name: String,
}

/// The content of the lock.
struct State {
    /// The sums of the run, against its limits.
    account: Account,
    /// The reservation of the calls that run now; `None` between calls.
    in_progress: Option<Reservation>,
    /// Where the request in progress is made, if it is one.
    asked: Option<Asked>,
    /// Called agents that have not ended.
    children: Children,
    /// The part of the budget of the subject that is reserved.
    open: Option<Open>,
    /// The amounts that the subject was not charged for: spent by called agents without a budget for subjects,
    /// and by this run if it has none itself.
    uncharged: Spent,
    /// The latest known sum of the subject, without what this run has reserved.
    subject_sum: Spent,
    /// The limits of the subject that are known to be raised.
    subject_raised: Limits,
    /// Whether the cheaper model of the agent answers.
    is_cheaper: bool,
}

/// A request in progress.
#[derive(Clone)]
struct Asked {
    /// Those of the agent.
    meters: Arc<Meters>,
    /// The models that may answer it.
    models: Vec<String>,
}

/// A reservation of the subject that is being made, or is not settled.
struct Open {
    /// By which it is settled.
    held: Held,
    /// The amounts to settle it with.
    amounts: Spent,
    /// The key of the settlement, once the calls have ended.
    settlement: Option<String>,
}

impl Open {
    /// A reservation for which nothing was called.
    fn new(held: Held) -> Self {
        Self { held, amounts: Spent::default(), settlement: None }
    }

    /// The key of the settlement. It is drawn after the calls, so that a fork which repeats them draws
    /// another one, and one that has copied them the same.
    fn settlement(&mut self, context: &WorkflowContext) -> String {
        self.settlement.get_or_insert_with(|| context.uuid().to_string()).clone()
    }
}

/// A request that may begin.
pub(super) struct Granted {
    /// The rest of the wall time.
    pub(super) left: Option<Duration>,
    /// Whether the cheaper model of the agent answers.
    pub(super) is_cheaper: bool,
}

/// Data of the event `llm.budget.reserved`.
#[derive(Serialize)]
struct Reserved<'a> {
    amounts: &'a Spent,
}

/// Data of the event `llm.budget.settled`.
#[derive(Serialize)]
struct Settled<'a> {
    amounts: &'a Spent,
    /// The sum of the run after this.
    spent: &'a Spent,
    /// Whether the amounts are an estimate: nothing says what the call cost.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_estimate: bool,
}

impl Accounting {
    /// The account of a run that begins, with this part of the budget of a calling agent. If the run
    /// is cancelled, the calls in progress are settled: called agents report what they have spent, and
    /// of requests and tools, whose cost nothing reports, only what is certain counts.
    pub(super) fn new(
        agent: &Compiled,
        context: &WorkflowContext,
        share: Option<Limits>,
        subject: Option<&str>,
    ) -> Result<Self, WorkflowError> {
        let subject = match (&agent.subject_budget, subject) {
            (None, _) => None,
            (Some(budget), Some(name)) => {
                Some(Subject { budget: budget.clone(), name: name.to_owned() })
            }
            (Some(_), None) => {
                let reason = "the agent has a budget for each subject, and the prompt names none; \
                              call `Prompt::with_subject`";
                return Err(WorkflowError::failed(Failure::new(codes::INVALID_PARAMETERS, reason)));
            }
        };
        let limits = subject.as_ref().map(|subject| subject.budget.limits());
        let account = Account::new(agent.budget.clone())
            .with_share(share.unwrap_or_default())
            .with_subject(limits);
        let state = Arc::new(Mutex::new(State {
            account,
            in_progress: None,
            asked: None,
            children: Children::default(),
            open: None,
            uncharged: Spent::default(),
            subject_sum: Spent::default(),
            subject_raised: Limits::default(),
            is_cheaper: false,
        }));
        let accounting = Self {
            context: context.clone(),
            started: context.age(),
            at_limit: agent.budget.at_limit,
            soft_percent: agent.budget.soft_percent,
            subject,
            state,
        };
        accounting.settle_when_cancelled(share.is_some());
        Ok(accounting)
    }

    /// Registers the compensation. A called agent also reports what it has spent in the details of
    /// its cancellation.
    fn settle_when_cancelled(&self, is_delegated: bool) {
        let Self { started, at_limit, soft_percent, .. } = *self;
        let subject = self.subject.clone();
        let state = Arc::clone(&self.state);
        // A context of this run in here would keep the run in memory.
        self.context.compensate("settle", move |context| async move {
            let accounting = Self { context, started, at_limit, soft_percent, subject, state };
            accounting.settle_children().await?;
            let settled = accounting.settle_rest().await;
            // The sum of the run is complete even if the subject could not be charged.
            if is_delegated {
                let Sums { spent, uncharged } = accounting.sums();
                accounting.context.set_failure_detail(SPENT, &spent)?;
                accounting.context.set_failure_detail(UNCHARGED, &uncharged)?;
            }
            settled
        });
    }

    /// A sentence for the model about limits that are nearly reached.
    pub(super) fn soft_notice(&self) -> Option<String> {
        let elapsed = self.context.age().saturating_sub(self.started);
        let state = self.state.lock();
        let of_subject = self.subject.as_ref().and_then(|subject| {
            let limits = state.subject_raised.or(*subject.budget.limits());
            // Wall time is that of one run.
            let limits = Limits { wall_time: None, ..limits };
            limits.soft_notice(&state.subject_sum, elapsed, self.soft_percent)
        });
        state.account.soft_notice(elapsed).or(of_subject)
    }

    /// Levels of child runs that are left.
    pub(super) fn depth(&self) -> u32 {
        self.state.lock().account.depth()
    }

    /// The rest of the wall time. Fails if nothing is left.
    pub(super) fn time_left(&self) -> Result<Option<Duration>, Failure> {
        let elapsed = self.context.age().saturating_sub(self.started);
        self.state.lock().account.time_left(elapsed)
    }

    /// The sums so far.
    pub(super) fn sums(&self) -> Sums {
        let state = self.state.lock();
        Sums { spent: *state.account.spent(), uncharged: state.uncharged }
    }

    /// Begins with the first model of an agent that continues the conversation.
    pub(super) fn handed_over(&self) {
        self.state.lock().is_cheaper = false;
    }

    /// Reserves a request of an agent, and limits its output to what is left.
    pub(super) async fn reserve_request(
        &self,
        agent: &Compiled,
        request: &mut ModelRequest,
    ) -> Result<Granted, WorkflowError> {
        let wanted = request.max_output_tokens;
        loop {
            // An earlier round may have limited the output.
            request.max_output_tokens = wanted;
            let elapsed = self.context.age().saturating_sub(self.started);
            let is_cheaper = self.state.lock().is_cheaper;
            let names = agent.model(is_cheaper).names();
            let has_cheaper =
                self.at_limit == AtLimit::CheaperModel && agent.cheaper.is_some() && !is_cheaper;
            // A block, so that the lock is released before the await.
            let reserved = {
                let account = &self.state.lock().account;
                account.time_left(elapsed).and_then(|left| {
                    Ok((left, account.reserve_request(&names, request, has_cheaper)?))
                })
            };
            let failure = match reserved {
                Ok((left, reservation)) => {
                    match self.hold_request(&names, request, reservation, has_cheaper).await? {
                        Ok(reservation) => {
                            self.begin(reservation)?;
                            let models = names.iter().map(|name| (*name).to_owned()).collect();
                            let meters = Arc::clone(&agent.meters);
                            self.state.lock().asked = Some(Asked { meters, models });
                            return Ok(Granted { left, is_cheaper });
                        }
                        Err(failure) => failure,
                    }
                }
                Err(failure) => failure,
            };
            if has_cheaper && failure.details.get::<String>("limit").as_deref() == Some("cost") {
                emit(&self.context, "budget", "limit_reached", &failure.details)?;
                self.state.lock().is_cheaper = true;
            } else {
                self.reached(failure).await?;
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
            let elapsed = self.context.age().saturating_sub(self.started);
            let reserved = {
                let account = &self.state.lock().account;
                account
                    .time_left(elapsed)
                    .and_then(|_| account.reserve_calls(calls, agents, elapsed))
            };
            let failure = match reserved {
                // Agents reserve what they need themselves.
                Ok((reservation, shares)) => {
                    let least = reservation.least;
                    match self.hold(least, least).await? {
                        Ok(_) => {
                            self.begin(reservation)?;
                            return Ok(shares);
                        }
                        Err(failure) => failure,
                    }
                }
                Err(failure) => failure,
            };
            self.reached(failure).await?;
        }
    }

    /// Records that calls begin. From here on, an interruption costs at least what is certain of
    /// them.
    fn begin(&self, reservation: Reservation) -> Result<(), WorkflowError> {
        let mut state = self.state.lock();
        state.in_progress = Some(reservation);
        if let Some(open) = &mut state.open {
            open.amounts = reservation.least;
        }
        emit(&self.context, "budget", "reserved", &Reserved { amounts: &reservation.amounts })
    }

    /// Reserves a request of the budget of the subject, and limits its output to the tokens that are
    /// left there, and to the cost unless it has to be whole.
    async fn hold_request(
        &self,
        models: &[&str],
        request: &mut ModelRequest,
        reservation: Reservation,
        is_whole: bool,
    ) -> Result<Result<Reservation, Failure>, WorkflowError> {
        let least = match self.state.lock().account.least_of(models, &reservation) {
            // A cheaper model is preferred to a shortened response, so all of the cost must be
            // granted.
            Ok(least) if is_whole => Spent { cost: reservation.amounts.cost, ..least },
            Ok(least) => least,
            Err(failure) => return Ok(Err(failure)),
        };
        let granted = self.hold(reservation.amounts, least).await?;
        let account = &self.state.lock().account;
        Ok(granted.and_then(|granted| account.granted(models, request, reservation, granted)))
    }

    /// Reserves amounts of the budget of the subject, if there is one. Returns what it grants, which is
    /// not less than `least`, or why it does not allow that.
    async fn hold(
        &self,
        wanted: Spent,
        least: Spent,
    ) -> Result<Result<Spent, Failure>, WorkflowError> {
        let Some(Subject { budget, name }) = &self.subject else { return Ok(Ok(wanted)) };
        let at = self.context.now();
        let key = OnceLock::new();
        let reserving = self.context.step("reserve_of_subject", || async {
            let key = key.get().map_or("", String::as_str);
            budget.reserve(name, at, key, wanted, least).await
        });
        // After the step has its number, so that a fork which repeats it draws another one.
        let key = key.get_or_init(|| self.context.uuid().to_string());
        // Kept from here until it is settled, so that the compensation finds it after any interruption:
        // the step may have reserved although its result is not recorded.
        let held = budget.prospective(name, at, key).map_err(WorkflowError::failed)?;
        self.state.lock().open = Some(Open::new(held));
        let answer = reserving.timeout(STORE_TIMEOUT).await?;
        let mut state = self.state.lock();
        match answer {
            Answer::Held(held) => {
                let granted = held.granted.unwrap_or(wanted);
                state.subject_sum = held.sum.minus(&granted);
                state.subject_raised = held.raised;
                state.open = Some(Open::new(held));
                Ok(Ok(granted))
            }
            Answer::Exceeded(exceeded) => {
                state.open = None;
                Ok(Err(exceeded.to_failure()))
            }
        }
    }

    /// Settles what is reserved of the budget of the subject.
    ///
    /// Does nothing if nothing is reserved. A repeated settlement is recognised by the store.
    async fn release(&self) -> Result<(), WorkflowError> {
        // A block, so that the lock is released before the await.
        let open = {
            let open = &mut self.state.lock().open;
            open.as_mut()
                .map(|open| (open.settlement(&self.context), open.held.clone(), open.amounts))
        };
        let (Some(subject), Some((key, held, amounts))) = (&self.subject, &open) else {
            return Ok(());
        };
        let settling = self.context.step("settle_of_subject", || async move {
            subject.budget.settle(&subject.name, held, key, *amounts).await
        });
        settling.timeout(STORE_TIMEOUT).await?;
        let mut state = self.state.lock();
        state.subject_sum = state.subject_sum.plus(amounts);
        state.open = None;
        Ok(())
    }

    /// Settles a request that a model has answered, after others that failed and are billed for.
    pub(super) async fn settle_response(
        &self,
        model: &str,
        response: &ModelResponse,
    ) -> Result<(), WorkflowError> {
        let amounts = self.state.lock().account.amounts_of(model, response);
        self.settle_amounts(amounts, response.usage).await
    }

    /// Settles a request that failed after one of the models was asked.
    pub(super) async fn settle_request(
        &self,
        models: &[&str],
        usage: Usage,
    ) -> Result<(), WorkflowError> {
        let amounts = self.state.lock().account.amounts(models, usage);
        self.settle_amounts(amounts, usage).await
    }

    /// Settles a request. If a price is unknown, the reserved cost counts, and the run fails.
    async fn settle_amounts(
        &self,
        amounts: Result<Spent, Failure>,
        usage: Usage,
    ) -> Result<(), WorkflowError> {
        let unknown = {
            let mut state = self.state.lock();
            match amounts {
                Ok(amounts) => {
                    state.settle_all(&self.context, amounts, false)?;
                    None
                }
                Err(failure) => {
                    let cost =
                        state.in_progress.map_or_else(Default::default, |it| it.amounts.cost);
                    let amounts = Spent { requests: 1, usage, cost, ..Spent::default() };
                    state.settle_all(&self.context, amounts, true)?;
                    Some(failure)
                }
            }
        };
        self.release().await?;
        unknown.map_or(Ok(()), |failure| Err(WorkflowError::failed(failure)))
    }

    /// Settles a part of the calls in progress: what a called agent has spent.
    pub(super) fn settle_part(&self, sums: Sums, is_estimate: bool) -> Result<(), WorkflowError> {
        let mut state = self.state.lock();
        state.uncharged = state.uncharged.plus(&sums.uncharged);
        state.settle(&self.context, sums.spent, is_estimate)
    }

    /// Settles the calls in progress with these amounts.
    pub(super) async fn settle(&self, amounts: Spent) -> Result<(), WorkflowError> {
        self.state.lock().settle_all(&self.context, amounts, false)?;
        self.release().await
    }

    /// Settles the calls in progress of a run that fails or is cancelled with what is certain: what the
    /// provider has reported, or else the input.
    pub(super) async fn settle_rest(&self) -> Result<(), WorkflowError> {
        let reported = self.reported().await?;
        {
            let mut state = self.state.lock();
            if let Some(reservation) = state.in_progress {
                let amounts = reported.unwrap_or(reservation.least);
                state.settle_all(&self.context, amounts, true)?;
            }
        }
        self.release().await
    }

    /// The amounts of the request in progress that its provider has reported, if it has.
    async fn reported(&self) -> Result<Option<Spent>, WorkflowError> {
        let Some(Asked { meters, models }) = self.state.lock().asked.clone() else {
            return Ok(None);
        };
        let run_id = self.context.run_id();
        // A step, because only the process that makes the request knows it.
        let reading = self.context.step_with("usage_of_request", |step| {
            let meters = Arc::clone(&meters);
            async move { Ok::<_, TaskError>(interrupted::usage(&meters, run_id, &step).await) }
        });
        let usage: Usage = reading.await?;
        let models: Vec<_> = models.iter().map(String::as_str).collect();
        let amounts = self.state.lock().account.amounts(&models, usage);
        // Without a price, nothing better than the reservation is known.
        Ok(amounts.ok().filter(|_| usage != Usage::default()))
    }
}

impl State {
    /// Settles all calls in progress.
    fn settle_all(
        &mut self,
        context: &WorkflowContext,
        amounts: Spent,
        is_estimate: bool,
    ) -> Result<(), WorkflowError> {
        self.in_progress = None;
        self.asked = None;
        self.uncharged = self.uncharged.plus(&amounts);
        if let Some(open) = &mut self.open {
            open.amounts = std::mem::take(&mut self.uncharged);
            open.settlement(context);
        }
        self.settle(context, amounts, is_estimate)
    }

    /// Adds amounts to the sum, and emits the event about it.
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
