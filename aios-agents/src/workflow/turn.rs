//! Whose turn it is on this thread: what tells the code of a run from everything else.

use std::cell::Cell;

thread_local! {
    static TURN: Cell<Turn> = const { Cell::new(Turn::ExternalEvent) };
}

/// What this thread does at the moment. A run is told by the address of its cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing that has to do with a run.
    ExternalEvent,
    /// It polls the code of a run.
    Code(usize),
    /// It polls the code of a step of a run.
    Step(usize),
    /// It wakes the code of a step of a run.
    Waking(usize),
    /// It wakes the code of a run because of an entry.
    Engine(usize),
}

impl Turn {
    pub(super) fn current() -> Self {
        TURN.with(Cell::get)
    }

    /// Begins this turn on this thread, until what is returned is dropped.
    #[must_use]
    pub(super) fn begin(self) -> TurnGuard {
        TurnGuard(TURN.with(|turn| turn.replace(self)))
    }
}

/// Ends a turn and goes on with the one before, also while unwinding.
pub(super) struct TurnGuard(Turn);

impl Drop for TurnGuard {
    fn drop(&mut self) {
        TURN.with(|turn| turn.set(self.0));
    }
}
