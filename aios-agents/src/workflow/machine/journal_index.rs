//! The operations of a journal, to compare with what the code requests.
//!
//! The index is built before the replay from the whole journal. It exists because requests come before
//! their entries: the code requests several operations in one poll, whose entries follow later. Without
//! it, a mismatch would be noticed only at the entry, when the code has already continued. It also answers
//! whether the journal has an operation after a given point, on which `context.version` depends. It is
//! dropped when the run goes live.
//!
//! Only the kind and the name of an operation are compared. Parameters, timeouts and policies may
//! change with the code: the recorded outcome counts.

use std::{collections::BTreeMap, fmt};

use aios_core::{catalog::codes, failure::Failure};
use serde_json::json;

use super::Request;
use crate::workflow::journal::Entry;

/// The code requested an operation other than the one in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mismatch {
    /// Number of the operation.
    pub operation: u64,
    /// The operation in the journal.
    pub recorded: String,
    /// The requested operation.
    pub asked: String,
}

impl Mismatch {
    /// Failure code of a mismatch.
    pub const CODE: &'static str = codes::JOURNAL_MISMATCH;

    /// The journal has an operation that the code never requested.
    pub(super) fn not_requested(operation: u64, recorded: String) -> Self {
        Self { operation, recorded, asked: "nothing".to_owned() }
    }

    /// The failure recorded in the journal for a mismatch.
    #[must_use]
    pub fn to_failure(&self) -> Failure {
        let recorded = &self.recorded;
        let asked = &self.asked;
        Failure::new(Self::CODE, self.to_string()).with_details(
            json!({"operation": self.operation, "recorded": recorded, "asked": asked}),
        )
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "operation {} is recorded as {}, but the code requested {}",
            self.operation, self.recorded, self.asked
        )
    }
}

/// The operations and pinned versions of a journal, collected before it is replayed.
#[derive(Debug, Default)]
pub(super) struct JournalIndex {
    /// The kind of each operation, by its number.
    operations: BTreeMap<u64, Recorded>,
    /// The pinned version of each change.
    versions: BTreeMap<Box<str>, u32>,
}

/// The kind of an operation, with the name that must match, if it has one: that of a step, an agent
/// type, a signal or the workflow of a child.
#[derive(Debug, PartialEq, Eq)]
enum Recorded {
    Step(Box<str>),
    Task(Box<str>),
    Timer,
    Signal(Box<str>),
    Child(Box<str>),
    Event,
    Status,
}

impl JournalIndex {
    /// Collects the operations and versions of a journal.
    pub(super) fn of<'a>(journal: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut expected = Self::default();
        for entry in journal {
            if let Entry::VersionMarked(mark) = entry {
                expected.versions.insert(mark.change.clone(), mark.version);
            }
            if let (Some(operation), Some(recorded)) = (entry.operation(), Recorded::of(entry)) {
                // The first entry of an operation tells its kind; later ones say less.
                expected.operations.entry(operation).or_insert(recorded);
            }
        }
        expected
    }

    /// Whether the journal contains an operation with a number above `operation`.
    pub(super) fn knows_later_than(&self, operation: u64) -> bool {
        self.operations.last_key_value().is_some_and(|(last, _)| *last > operation)
    }

    /// The version of a change that the journal pins.
    pub(super) fn version(&self, change: &str) -> Option<u32> {
        self.versions.get(change).copied()
    }

    pub(super) fn knows(&self, operation: u64) -> bool {
        self.operations.contains_key(&operation)
    }

    /// Checks a request against the journal, if the journal contains the operation.
    pub(super) fn check(&self, operation: u64, request: &Request) -> Result<(), Mismatch> {
        match self.operations.get(&operation) {
            Some(recorded) if !recorded.fits(request) => Err(Mismatch {
                operation,
                recorded: recorded.to_string(),
                asked: request.describe(),
            }),
            _ => Ok(()),
        }
    }

    /// The first operation in the journal for which `asked` returns `false`.
    pub(super) fn first_missing(&self, asked: impl Fn(u64) -> bool) -> Option<Mismatch> {
        let (operation, recorded) =
            self.operations.iter().find(|(operation, _)| !asked(**operation))?;
        Some(Mismatch::not_requested(*operation, recorded.to_string()))
    }
}

impl Recorded {
    /// The kind of operation that an entry is about, if the entry determines it.
    ///
    /// The failure or retry of an operation without a name is that of a task or child, whose start has
    /// come before.
    fn of(entry: &Entry) -> Option<Self> {
        Some(match entry {
            Entry::StepCompleted(entry) => Self::Step(entry.name.clone()),
            // With a name it is a step; without, its start has told the kind.
            Entry::OperationFailed(entry) => Self::Step(entry.name.clone()?),
            Entry::RetryScheduled(entry) => Self::Step(entry.name.clone()?),
            Entry::TimerStarted(_) => Self::Timer,
            Entry::SignalAwaited(entry) => Self::Signal(entry.name.clone()),
            Entry::TaskAssigned(entry) => Self::Task(entry.agent_type.as_str().into()),
            Entry::ChildStarted(entry) => Self::Child(entry.workflow.as_str().into()),
            Entry::EventEmitted(_) => Self::Event,
            Entry::StatusSet(_) => Self::Status,
            _ => return None,
        })
    }

    /// Whether a request is the recorded operation.
    fn fits(&self, request: &Request) -> bool {
        match (self, request) {
            (Self::Step(recorded), Request::Step { name, .. }) => **recorded == **name,
            (Self::Signal(recorded), Request::Signal { name, .. }) => recorded == name,
            (Self::Task(recorded), Request::Task(task)) => **recorded == *task.agent_type.as_str(),
            (Self::Child(recorded), Request::Child(child)) => {
                **recorded == *child.workflow.as_str()
            }
            (Self::Timer, Request::Sleep { .. })
            | (Self::Event, Request::Emit { .. })
            | (Self::Status, Request::Status { .. }) => true,
            _ => false,
        }
    }
}

impl fmt::Display for Recorded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(name) => write!(formatter, "step {name}"),
            Self::Task(agent) => write!(formatter, "task {agent}"),
            Self::Timer => formatter.write_str("timer"),
            Self::Signal(name) => write!(formatter, "signal {name}"),
            Self::Child(workflow) => write!(formatter, "child {workflow}"),
            Self::Event => formatter.write_str("event"),
            Self::Status => formatter.write_str("status"),
        }
    }
}
