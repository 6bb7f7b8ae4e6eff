//! The invariants of every simulation.

use std::fmt;

/// Defines the invariants, and the list of all of them.
macro_rules! invariants {
    ($($(#[$text:meta])+ $name:ident,)+) => {
        /// The invariants of every simulation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Invariant {
            $($(#[$text])+ $name,)+
        }

        impl Invariant {
            /// All invariants. Each has to be violated by at least one planted fault.
            pub const ALL: &[Self] = &[$(Self::$name,)+];
        }
    };
}

invariants! {
    /// A run's events are appended by the engine that owns its shard.
    OneWriter,
    /// A shard has one owner.
    OneOwner,
    /// A step whose outcome is recorded does not run again.
    RecordedStepsRunOnce,
    /// A task whose outcome was recorded some seconds ago is not assigned again.
    RecordedTasksGivenOnce,
    /// An attempt that ended some seconds ago does not begin when the broker redelivers it.
    EndedAttemptsStayEnded,
    /// Without a fault, an attempt begins once, even if its run moves to another engine.
    MovesRepeatNoTask,
    /// Without a fault, an attempt at a step begins once, even if its shard moves to another engine.
    MovesRepeatNoStep,
    /// An attempt at a task is assigned under one id.
    OneDispatch,
    /// The result of an attempt at a task is recorded once, whichever engine receives it.
    ResultsRecordedOnce,
    /// An answer is acknowledged after it was recorded, or if it is not needed.
    AcknowledgedAfterCommit,
    /// Code sees an outcome after it was recorded.
    VisibleAfterCommit,
    /// A mailbox has one reader.
    OneReader,
    /// Attempts are counted, and there are no more than the policy allows.
    AttemptsCounted,
    /// A timer does not fire early.
    TimersNotEarly,
    /// Compensations run in reverse order.
    CompensationsReversed,
    /// The result of a run is that of the reference model.
    ResultAsExpected,
    /// Nothing is recorded after a run's end.
    NothingAfterEnd,
    /// The row of a run matches its journal.
    RowsFollowJournals,
    /// Every prefix of a journal replays.
    JournalsReplay,
    /// Every accepted run ends once the faults are over.
    EveryRunEnds,
    /// Every accepted run ends, even if the broker was replaced by one without its data.
    BrokerReplaced,
    /// The engines own equal shares of the shards, once no engine comes or goes any more.
    SharesAreEven,
    /// A new engine owns its share within two renewals.
    SharesInTime,
    /// A bounded number of shards moves per minute to make the shares equal.
    MovesAreBounded,
    /// An engine hands over no more than what it has beyond its share.
    MovesAreNeeded,
    /// Shards are handed over only for an engine that has been there for a renewal.
    BriefEnginesMoveNothing,
    /// The relay publishes everything that it has to publish.
    RelayLosesNothing,
    /// The relay publishes the events of a stream in their order.
    RelayKeepsOrder,
    /// No task is polled without end.
    NothingSpins,
}

/// An invariant that does not hold, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: Invariant,
    pub how: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}: {}", self.invariant, self.how)
    }
}
