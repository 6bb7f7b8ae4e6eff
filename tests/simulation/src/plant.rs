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
    /// An entry is recorded after the end of a run.
    EntryAfterEnd,
    /// The rows of runs are those of a replica that is behind.
    RowBehind,
    /// A task wakes itself whenever it is polled.
    SpinningTask,
    /// A shard moves before its steps have ended.
    InterruptedSteps,
    /// An engine keeps what it has beyond its share.
    SurplusKept,
    /// An engine waits too long before it hands over what it has beyond its share.
    SurplusLate,
    /// The number of shards that move per minute is not bounded.
    UnboundedMoves,
    /// An engine hands over more than what it has beyond its share.
    UnneededMoves,
    /// Shards move as soon as an engine has joined.
    HastyMoves,
    /// The mailboxes of engines are not opened in the broker that replaces another.
    MailboxForgotten,
}

impl Plant {
    /// All planted faults, with the invariant that finds each.
    pub const ALL: &[(Self, Invariant)] = &[
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
        (Self::EntryAfterEnd, Invariant::NothingAfterEnd),
        (Self::RowBehind, Invariant::RowsFollowJournals),
        (Self::SpinningTask, Invariant::NothingSpins),
        (Self::InterruptedSteps, Invariant::MovesRepeatNoStep),
        (Self::SurplusKept, Invariant::SharesAreEven),
        (Self::SurplusLate, Invariant::SharesInTime),
        (Self::UnboundedMoves, Invariant::MovesAreBounded),
        (Self::UnneededMoves, Invariant::MovesAreNeeded),
        (Self::HastyMoves, Invariant::BriefEnginesMoveNothing),
        (Self::MailboxForgotten, Invariant::BrokerReplaced),
    ];

    /// The scenario of a seed in which it can be found.
    pub fn scenario(self, seed: u64) -> Scenario {
        match self {
            Self::DispatchedAgain | Self::InterruptedSteps => Scenario::calm(seed),
            Self::SurplusKept
            | Self::SurplusLate
            | Self::UnboundedMoves
            | Self::UnneededMoves
            | Self::HastyMoves => Scenario::fleet(seed),
            Self::MailboxForgotten => Scenario::replaced(seed),
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
            Self::InterruptedSteps => "a shard moves before its steps have ended",
            Self::SurplusKept => "a surplus is kept",
            Self::SurplusLate => "a surplus is handed over late",
            Self::UnboundedMoves => "moves are not bounded",
            Self::UnneededMoves => "more than the surplus is handed over",
            Self::HastyMoves => "shards move at once",
            _ => "",
        }
    }
}
