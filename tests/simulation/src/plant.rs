//! Planted faults, which show that the invariants detect them.

use crate::{invariant::Invariant, scenario::Scenario};

/// A mutant of the engine, or of a component that it relies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plant {
    /// The store does not check fences.
    NoFenceCheck,
    /// The store checks a fence, and commits later.
    FenceOutsideTransaction,
    /// A lease can be renewed after another engine has taken it.
    RenewedAfterExpiry,
    /// An answer is acknowledged when it is read.
    AcknowledgedBeforeCommit,
    /// An append is reported as done, and committed later.
    VisibleBeforeCommit,
    /// A task is assigned twice.
    DuplicateDispatch,
    /// A sleeper is not woken.
    LostWakeUp,
    /// A mailbox admits several readers.
    TwoReaders,
    /// The relay's checkpoint is saved when events are read.
    EarlyCheckpoint,
    /// Timers follow the clock of a machine whose clock is wrong.
    LocalClock,
    /// The number of an attempt is not recorded.
    LostRetryCounter,
    /// Compensations run in the order in which they were registered.
    CompensationOrder,
    /// The store serves reads from a replica that is behind.
    StaleRead,
    /// The relay continues before the broker has confirmed an event.
    RelayOutOfOrder,
    /// An agent begins a redelivered attempt without asking the engine.
    BegunUnasked,
    /// An engine that takes a run over dispatches its tasks again.
    DispatchedAgain,
    /// A run continues although its lookahead was refuted.
    RefutedLookahead,
    /// An engine assigns a task again long after its first assignment.
    GivenAgain,
    /// A result is recorded twice.
    ResultRecordedTwice,
    /// An answer changes on its way.
    ChangedAnswer,
}

impl Plant {
    /// All planted faults, with the invariant that finds each.
    pub const ALL: [(Self, Invariant); 20] = [
        (Self::NoFenceCheck, Invariant::OneWriter),
        (Self::FenceOutsideTransaction, Invariant::OneWriter),
        (Self::RenewedAfterExpiry, Invariant::OneOwner),
        (Self::AcknowledgedBeforeCommit, Invariant::AcknowledgedAfterCommit),
        (Self::VisibleBeforeCommit, Invariant::VisibleAfterCommit),
        (Self::DuplicateDispatch, Invariant::OneDispatch),
        (Self::LostWakeUp, Invariant::EveryRunEnds),
        (Self::TwoReaders, Invariant::OneReader),
        (Self::EarlyCheckpoint, Invariant::RelayLosesNothing),
        (Self::LocalClock, Invariant::TimersNotEarly),
        (Self::LostRetryCounter, Invariant::AttemptsCounted),
        (Self::CompensationOrder, Invariant::CompensationsReversed),
        (Self::StaleRead, Invariant::RecordedStepsRunOnce),
        (Self::RelayOutOfOrder, Invariant::RelayKeepsOrder),
        (Self::BegunUnasked, Invariant::EndedAttemptsStayEnded),
        (Self::DispatchedAgain, Invariant::MovesRepeatNoTask),
        (Self::RefutedLookahead, Invariant::JournalsReplay),
        (Self::GivenAgain, Invariant::RecordedTasksGivenOnce),
        (Self::ResultRecordedTwice, Invariant::ResultsRecordedOnce),
        (Self::ChangedAnswer, Invariant::ResultAsExpected),
    ];

    /// The scenario of a seed in which it can be found.
    pub fn scenario(self, seed: u64) -> Scenario {
        match self {
            Self::DispatchedAgain => Scenario::calm(seed),
            Self::RefutedLookahead => {
                Scenario { looks_ahead: true, ..Scenario::with_zombies(seed, true) }
            }
            _ => Scenario { looks_ahead: false, ..Scenario::with_zombies(seed, true) },
        }
    }

    /// Its name in the crates that support it.
    pub fn name(self) -> &'static str {
        match self {
            Self::LocalClock => "time of the machine",
            Self::TwoReaders => "two readers of a mailbox",
            Self::CompensationOrder => "compensation out of order",
            Self::BegunUnasked => "an attempt begins unasked",
            Self::DispatchedAgain => "a takeover dispatches again",
            Self::RefutedLookahead => "a refuted lookahead continues",
            _ => "",
        }
    }
}
