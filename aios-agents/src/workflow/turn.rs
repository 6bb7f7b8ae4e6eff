//! The current activity of the thread: polling or waking the code of a run, or something else.

use std::cell::Cell;

thread_local! {
    static TURN: Cell<Turn> = const { Cell::new(Turn::External) };
}

/// The current activity of a thread. A run is identified by the address of its shared state.
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
    pub(super) fn current() -> Self {
        TURN.with(Cell::get)
    }

    /// Begins this turn on this thread. It ends when the guard is dropped.
    #[must_use]
    pub(super) fn begin(self) -> TurnGuard {
        TurnGuard(TURN.with(|turn| turn.replace(self)))
    }
}

/// Restores the previous turn when dropped, also while unwinding.
pub(super) struct TurnGuard(Turn);

impl Drop for TurnGuard {
    fn drop(&mut self) {
        TURN.with(|turn| turn.set(self.0));
    }
}
