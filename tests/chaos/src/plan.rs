//! The operations of a run, and their expected results.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::random::{Random, mix};

/// Name of the workflow.
pub(crate) const WORKFLOW: &str = "chaos";
/// Name of the workflow whose runs are measured.
pub(crate) const CHAIN: &str = "chaos_chain";
/// Name of the workflow of children.
pub(crate) const CHILD: &str = "chaos_child";
/// Type of the agents.
pub(crate) const AGENT: &str = "chaos_worker";
/// Name of the signal that a run waits for in each round.
pub(crate) const SIGNAL: &str = "go";
/// Tasks of each round.
const TASKS: u64 = 10;

/// Input of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The seed of its results.
    pub(crate) number: u64,
    /// Rounds that follow this one; each is a run that continues the previous one.
    pub(crate) rounds: u64,
    /// The sum of the previous rounds.
    pub(crate) sum: u64,
    /// How long its timer runs, in milliseconds.
    pub(crate) timer: u64,
    /// Whether it has a child.
    pub(crate) child: bool,
}

impl Plan {
    /// The plan of a run.
    pub(crate) fn new(seed: u64, number: u64) -> Self {
        let mut random = Random::new(seed, number);
        Self {
            number: random.bits() >> 1,
            rounds: u64::from(random.between(0, 4) == 0),
            sum: 0,
            timer: random.between(50, 3_000),
            child: random.between(0, 3) == 0,
        }
    }

    /// The timer.
    pub(crate) fn timer(&self) -> Duration {
        Duration::from_millis(self.timer)
    }

    /// The tasks of this round.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = Work> {
        (0..TASKS).map(|index| Work { number: self.number, index })
    }

    /// The input of this round's child, and of its steps.
    pub(crate) fn part(&self, index: u64) -> Work {
        Work { number: self.number, index: TASKS + index }
    }

    /// The next round, including the result of this one.
    pub(crate) fn next(&self, sum: u64) -> Self {
        Self { rounds: self.rounds - 1, number: mix(self.number) >> 1, sum, ..self.clone() }
    }

    /// The contribution of this round.
    fn of_round(&self) -> u64 {
        let works = self.tasks().chain([self.part(0), self.part(1)]);
        let child = self.child.then(|| self.part(2));
        works.chain(child).fold(self.sum, |sum, work| sum.wrapping_add(work.result()) >> 1)
    }

    /// The result of the run.
    pub(crate) fn result(&self) -> u64 {
        let sum = self.of_round();
        if self.rounds == 0 { sum } else { self.next(sum).result() }
    }
}

/// The input of a task, a step or a child.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub(crate) struct Work {
    /// The seed of its round.
    pub(crate) number: u64,
    /// Its number in the round.
    pub(crate) index: u64,
}

impl Work {
    /// Its expected result.
    pub(crate) fn result(self) -> u64 {
        mix(self.number.wrapping_add(self.index)) >> 1
    }

    /// How long it takes.
    pub(crate) fn time(self) -> Duration {
        Duration::from_millis(self.result() % 40)
    }
}
