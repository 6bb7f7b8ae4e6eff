//! The external observations, and whether they are allowed.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aios_core::store::{Epoch, Shard};

use self::{excuse::Excuse, relayed::Relayed};
use crate::{
    effect::{Effect, Kind, now},
    fault::{Fault, FaultKind},
};

mod excuse;
mod relayed;
#[cfg(test)]
mod tests;

/// How long a run that has completed is remembered: its steps and tasks have to stay done.
const MEMORY: Duration = Duration::from_secs(600);

/// The number of recent faults that can be a cause of the present state.
const RECENT: usize = 200;

/// All observations.
#[derive(Debug)]
pub(crate) struct History {
    begun: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    runs: HashMap<String, Run>,
    /// The highest epoch of each shard that a step has proved.
    epochs: HashMap<Shard, Epoch>,
    hits: Vec<Hit>,
    timeline: Vec<String>,
    violations: Vec<Violation>,
    counts: Counts,
    relayed: Relayed,
}

/// The observed state of a run, its successors and its children.
#[derive(Debug, Default)]
struct Run {
    begun: Option<Duration>,
    events: Vec<String>,
    operations: BTreeMap<String, Operation>,
    ended: Option<Duration>,
}

/// The observed state of a step or a task.
#[derive(Debug, Default)]
struct Operation {
    /// When the assignment of the task was seen in the journal.
    assigned: Option<Duration>,
    begun: Vec<Effect>,
    /// Its results in the journal, in their order there. The first one counts.
    results: Vec<Recorded>,
}

/// A result in the journal.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    /// When it was seen.
    pub(crate) at: Duration,
    /// The event.
    pub(crate) event: String,
    /// The event that it is the result of: the assignment of an attempt, if it is that of a task.
    pub(crate) cause: Option<String>,
}

/// A fault that affected a target for some time.
#[derive(Debug)]
struct Hit {
    target: String,
    /// None if the machine itself was suspended.
    kind: Option<FaultKind>,
    from: Duration,
    until: Option<Duration>,
}

#[derive(Debug)]
struct Violation {
    run: Option<String>,
    text: String,
}

/// How often something happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// Runs that clients started.
    pub(crate) started: u64,
    /// Runs that ended with the right result.
    pub(crate) completed: u64,
    /// Effects of steps and tasks.
    pub(crate) effects: u64,
    /// Steps and tasks whose results are in the journal.
    pub(crate) recorded: u64,
    /// Effects of a former owner that were refused because of their epoch.
    pub(crate) refused: u64,
    /// Steps and tasks that ran again before a result was recorded.
    pub(crate) again: u64,
    /// Tasks that ran again shortly after their result was recorded, because a fault of the broker or
    /// of the agent service that did them lost an acknowledgement.
    pub(crate) unacknowledged: u64,
    /// Tasks that ran again shortly after their result was recorded, because a fault of an engine or
    /// of the store made an engine assign them again.
    pub(crate) given_twice: u64,
    /// Tasks that ran again shortly after their result was recorded, because they had been assigned
    /// again before any agent began them.
    pub(crate) slow: u64,
    /// Results of further attempts at a task that came after the one that counts.
    pub(crate) late_results: u64,
    /// Appends of a former owner that the store refused because of their fence.
    pub(crate) fenced: u64,
    /// Lifecycle events in the log.
    pub(crate) relayed: u64,
    /// Lifecycle events that the subscriber received more than once.
    pub(crate) relayed_again: u64,
    /// Lifecycle events that were lost with the data of a RabbitMQ that was replaced.
    pub(crate) lost_with_broker: u64,
    /// Faults.
    pub(crate) faults: BTreeMap<FaultKind, u64>,
}

/// Identifies a fault in progress, to record its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HitNumber(usize);

impl History {
    /// A history without observations.
    pub(crate) fn new() -> Self {
        Self { begun: now(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn time(&self, at: Duration) -> String {
        format!("{:>9.3} s", at.saturating_sub(self.begun).as_secs_f64())
    }

    /// Stores an entry for the timeline of the processes and servers.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        let line = format!("{}  {}", self.time(now()), text.as_ref());
        println!("{line}");
        self.state().timeline.push(line);
    }

    /// Records a violation.
    pub(crate) fn violation(&self, run: Option<&str>, text: impl Into<String>) {
        let text = text.into();
        self.note(format!("VIOLATION: {text}"));
        self.state().violations.push(Violation { run: run.map(str::to_owned), text });
    }

    /// A client has received an update about a run.
    pub(crate) fn client(&self, run: &str, text: impl AsRef<str>) {
        let line = format!("{}  client: {}", self.time(now()), text.as_ref());
        self.state().runs.entry(run.to_owned()).or_default().events.push(line);
    }

    /// A client starts a run.
    pub(crate) fn started(&self, run: &str) {
        self.client(run, "starts it");
        let mut state = self.state();
        state.counts.started += 1;
        state.runs.entry(run.to_owned()).or_default().begun = Some(now());
    }

    /// A run has ended with the right result.
    pub(crate) fn completed(&self, run: &str) {
        self.client(run, "has the right result");
        let mut state = self.state();
        state.counts.completed += 1;
        let at = now();
        if let Some(found) = state.runs.get_mut(run) {
            found.ended = Some(at);
        }
        state.runs.retain(|_, run| run.ended.is_none_or(|ended| at < ended + MEMORY));
    }

    /// The remembered run that took longest.
    pub(crate) fn slowest(&self) -> String {
        let (state, at) = (self.state(), now());
        let time = |run: &Run| run.ended.unwrap_or(at).saturating_sub(run.begun.unwrap_or(at));
        let slowest = state.runs.iter().max_by_key(|(_, run)| time(run));
        slowest.map(|(id, _)| id.clone()).unwrap_or_default()
    }

    /// Runs that have not completed.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        let state = self.state();
        let runs = state.runs.iter().filter(|(_, run)| run.ended.is_none());
        runs.map(|(id, _)| id.clone()).collect()
    }

    /// A fault begins to affect a target.
    pub(crate) fn hit(&self, target: &str, fault: &Fault) -> HitNumber {
        self.note(format!("{target}: {} for {:.1} s", fault.kind, fault.time.as_secs_f64()));
        let (target, from) = (target.to_owned(), now());
        let mut state = self.state();
        *state.counts.faults.entry(fault.kind).or_default() += 1;
        state.hits.push(Hit { target, kind: Some(fault.kind), from, until: None });
        HitNumber(state.hits.len() - 1)
    }

    /// The machine was suspended for some time: connections and leases of all processes may have
    /// ended.
    pub(crate) fn stalled(&self, time: Duration) {
        self.note(format!("the machine was suspended for {:.1} s", time.as_secs_f64()));
        let (target, at) = ("the machine".to_owned(), now());
        let hit = Hit { target, kind: None, from: at.saturating_sub(time), until: Some(at) };
        self.state().hits.push(hit);
    }

    /// Whether a fault is in progress that can keep this process from being ready.
    pub(crate) fn is_hit(&self, process: &str) -> bool {
        let of_servers = ["postgresql", "rabbitmq"];
        let hits = |hit: &Hit| hit.target == process || of_servers.contains(&hit.target.as_str());
        self.state().hits.iter().rev().take(RECENT).any(|hit| hit.until.is_none() && hits(hit))
    }

    /// The fault is over.
    pub(crate) fn healed(&self, hit: HitNumber) {
        let mut state = self.state();
        if let Some(hit) = state.hits.get_mut(hit.0) {
            hit.until = Some(now());
        }
    }

    /// The assignment of a task was seen in the journal. It must not follow the task's result.
    pub(crate) fn assigned(&self, operation: &str) {
        let at = now();
        let mut state = self.state();
        let Some(run) = state.runs.get_mut(run_of(operation)) else { return };
        let found = run.operations.entry(operation.to_owned()).or_default();
        found.assigned.get_or_insert(at);
        let is_over = !found.results.is_empty();
        drop(state);
        if is_over {
            let text = format!("{operation} is assigned again after its result was recorded");
            self.violation(Some(run_of(operation)), text);
        }
    }

    /// The result of a step or a task was seen in the journal. Each attempt at a task may have one:
    /// an engine that does not own the run records the answers that it receives, and the first one
    /// counts.
    pub(crate) fn recorded(&self, operation: &str, result: Recorded) {
        let mut state = self.state();
        let Some(run) = state.runs.get_mut(run_of(operation)) else { return };
        let found = run.operations.entry(operation.to_owned()).or_default();
        let is_second = !found.results.is_empty();
        let same = found.results.iter().find(|known| known.cause == result.cause);
        let text = same.map(|known| {
            let (first, second, cause) = (&known.event, &result.event, &result.cause);
            format!("{operation} has two results, {first} and {second}, of {cause:?}")
        });
        found.results.push(result);
        state.counts.recorded += u64::from(!is_second);
        state.counts.late_results += u64::from(is_second && text.is_none());
        drop(state);
        if let Some(text) = text {
            self.violation(Some(run_of(operation)), text);
        }
    }

    /// A step or a task reports an effect. Returns whether the effect is allowed: it is not for a
    /// former owner of the run.
    pub(crate) fn effect(&self, effect: Effect) -> bool {
        let mut state = self.state();
        if let (Kind::Step, Some(fence)) = (effect.kind, effect.fence) {
            let highest = state.epochs.entry(fence.shard).or_insert(fence.epoch);
            if fence.epoch < *highest {
                state.counts.refused += 1;
                drop(state);
                self.note(format!("refused {} of {}", effect.operation, effect.process));
                return false;
            }
            *highest = fence.epoch;
        }
        let fault = state.judge(&effect);
        let operation = effect.operation.clone();
        let run = state.runs.entry(run_of(&operation).to_owned()).or_default();
        run.operations.entry(operation.clone()).or_default().begun.push(effect);
        state.counts.effects += 1;
        drop(state);
        if let Some(fault) = fault {
            self.violation(Some(run_of(&operation)), fault);
        }
        true
    }

    /// The number of occurrences of each kind.
    pub(crate) fn counts(&self) -> Counts {
        let state = self.state();
        let mut counts = state.counts.clone();
        state.relayed.count(&mut counts);
        counts
    }

    /// The store refused appends of a process.
    pub(crate) fn fenced(&self, process: &str, appends: u64) {
        self.note(format!("{process}: the store refused {appends} appends because of their fence"));
        self.state().counts.fenced += appends;
    }

    /// A lifecycle event was seen in the log, and has to be relayed.
    pub(crate) fn logged(&self, stream: &str, event: &str) {
        self.state().relayed.logged(stream, event, now());
    }

    /// A subscriber received a lifecycle event.
    pub(crate) fn arrived(&self, event: &str) {
        self.state().relayed.arrived(event);
    }

    /// The faults of the relay: lifecycle events that did not arrive, or in another order than that
    /// of their stream. Those of the time at which RabbitMQ lost its data are counted instead.
    pub(crate) fn relay_faults(&self) -> Vec<String> {
        let mut state = self.state();
        let replaced = state.hits.iter().filter(|hit| hit.kind == Some(FaultKind::RabbitmqReplace));
        let replaced: Vec<_> =
            replaced.map(|hit| (hit.from, hit.until.unwrap_or(Duration::MAX))).collect();
        let (faults, lost) = state.relayed.faults(&replaced);
        state.counts.lost_with_broker = lost;
        faults
    }

    /// The violations.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.state().violations.iter().map(|violation| violation.text.clone()).collect()
    }

    /// The runs with violations, without duplicates; first those that have not completed.
    pub(crate) fn violating(&self) -> Vec<String> {
        let state = self.state();
        let mut runs: Vec<_> =
            state.violations.iter().filter_map(|violation| violation.run.clone()).collect();
        let has_ended = |id: &String| state.runs.get(id).is_some_and(|run| run.ended.is_some());
        runs.sort_by_cached_key(|id| (has_ended(id), id.clone()));
        runs.dedup();
        runs
    }

    /// The timeline of the processes and servers.
    pub(crate) fn timeline(&self) -> String {
        self.state().timeline.join("\n")
    }

    /// A description of the observed state of a run.
    pub(crate) fn of_run(&self, run: &str) -> String {
        let state = self.state();
        let Some(found) = state.runs.get(run) else { return "nothing is known of it".to_owned() };
        let mut text = found.events.join("\n");
        for (name, operation) in &found.operations {
            for effect in &operation.begun {
                let Effect { attempt, process, at, fence, .. } = effect;
                let at = self.time(*at);
                write!(text, "\n{at}  {process} begins {name}, attempt {attempt}, {fence:?}").ok();
            }
            for Recorded { at, event, .. } in &operation.results {
                write!(text, "\n{}  {name} is recorded by {event}", self.time(*at)).ok();
            }
        }
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    }
}

impl State {
    /// The violation by an effect, if there is one.
    fn judge(&mut self, effect: &Effect) -> Option<String> {
        let operation = &effect.operation;
        let run = self.runs.get(run_of(operation));
        let Some(run) = run else {
            return Some(format!("{operation} runs long after its run's end"));
        };
        let known = run.operations.get(operation)?;
        if known.begun.iter().any(|begun| begun.key != effect.key) {
            return Some(format!("{operation} has two idempotency keys"));
        }
        if !known.begun.is_empty() {
            self.counts.again += 1;
        }
        let recorded = known.results.first()?.at;
        if effect.at <= recorded {
            return None;
        }
        let excuse = match effect.kind {
            Kind::Step => None,
            Kind::Task => excuse::find(known, effect, recorded, &self.hits),
        };
        match excuse {
            Some(Excuse::Unacknowledged) => self.counts.unacknowledged += 1,
            Some(Excuse::GivenTwice) => self.counts.given_twice += 1,
            Some(Excuse::Slow) => self.counts.slow += 1,
            None => {
                let late = (effect.at - recorded).as_secs_f64();
                let (attempt, process) = (effect.attempt, &effect.process);
                return Some(format!(
                    "{operation} runs again in {process}, attempt {attempt}, {late:.1} s after it was \
                     recorded"
                ));
            }
        }
        None
    }
}

/// The run that a client started, derived from one of its operations: the ids of successors and
/// children begin with its id.
pub(crate) fn run_of(operation: &str) -> &str {
    operation.split(['~', '/']).next().unwrap_or(operation)
}
