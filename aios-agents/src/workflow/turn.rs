//! The current activity of the thread: polling or waking the code of a run, or something else.
//!
//! It answers two questions that have no other answer, because neither wakers nor the methods of a
//! context get an argument that says who calls:
//!
//! - Is this call of a `WorkflowContext` made by the code of its own run? (`SharedRun::check`)
//! - Who wakes the code: an entry, a step, the code itself, or something foreign? (`wake_flag`)
//!
//! Turns nest: the code of a step is polled within a poll of its workflow. Each turn restores the
//! previous one when it ends, even while a panic unwinds. No turn is held across an await.

use std::cell::Cell;

thread_local! {
    /// One cell for each thread: a run is polled by one thread at a time, and a turn ends before its
    /// poll returns.
    static TURN: Cell<Turn> = const { Cell::new(Turn::External) };
}

/// The current activity of a thread. A run is identified by the address of its shared state, which is
/// unique for as long as the run is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing related to a run.
    External,
    /// Polls the code of a run.
    Code(usize),
    /// Polls the code of a step of a run.
    Step(usize),
    /// Wakes the code of a step of a run.
    Waking(usize),
    /// Wakes the code of a run because of an entry.
    Engine(usize),
    /// Drops the code of a run that leaves memory.
    Leaving(usize),
}

impl Turn {
    /// The activity of this thread.
    pub(super) fn current() -> Self {
        TURN.with(Cell::get)
    }

    /// Begins this turn on this thread. It ends when the guard is dropped.
    #[must_use]
    pub(super) fn begin(self) -> TurnGuard {
        TurnGuard(TURN.with(|turn| turn.replace(self)))
    }
}

/// Restores the previous turn when dropped, even while unwinding.
///
/// It holds the previous turn.
pub(super) struct TurnGuard(Turn);

impl Drop for TurnGuard {
    fn drop(&mut self) {
        TURN.with(|turn| turn.set(self.0));
    }
}
