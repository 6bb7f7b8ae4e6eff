use std::{collections::BTreeMap, fmt};

use aios_core::failure::Failure;
use serde_json::json;

use super::Request;
use crate::workflow::journal::Entry;

/// The code asks for something else than the journal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Number of the operation.
    pub operation: u64,
    /// What the journal says.
    pub recorded: String,
    /// What the code asked for.
    pub asked: String,
}

impl Mismatch {
    /// Code of the failure that a mismatch becomes.
    pub const CODE: &'static str = "JOURNAL_MISMATCH";

    pub(super) fn unasked(operation: u64, recorded: String) -> Self {
        Self { operation, recorded, asked: "nothing".to_owned() }
    }

    /// The mismatch as a journal keeps it.
    #[must_use]
    pub fn to_failure(&self) -> Failure {
        let (recorded, asked) = (&self.recorded, &self.asked);
        Failure::new(Self::CODE, self.to_string()).with_details(
            json!({"operation": self.operation, "recorded": recorded, "asked": asked}),
        )
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "operation {} is recorded as {}, the code asks for {}",
            self.operation, self.recorded, self.asked
        )
    }
}

/// What a journal says of each operation, known before it is replayed.
#[derive(Debug, Default)]
pub(super) struct Expectations {
    operations: BTreeMap<u64, Recorded>,
    versions: BTreeMap<Box<str>, u32>,
}

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

impl Expectations {
    /// Reads a journal.
    pub(super) fn of<'a>(journal: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut expected = Self::default();
        for entry in journal {
            if let Entry::VersionMarked(mark) = entry {
                expected.versions.insert(mark.change.clone(), mark.version);
            }
            if let (Some(operation), Some(recorded)) = (entry.operation(), Recorded::of(entry)) {
                expected.operations.entry(operation).or_insert(recorded);
            }
        }
        expected
    }

    /// Whether the journal knows an operation with a number above `operation`.
    pub(super) fn knows_later_than(&self, operation: u64) -> bool {
        self.operations.last_key_value().is_some_and(|(last, _)| *last > operation)
    }

    /// The version that the journal marks for a change.
    pub(super) fn version(&self, change: &str) -> Option<u32> {
        self.versions.get(change).copied()
    }

    pub(super) fn knows(&self, operation: u64) -> bool {
        self.operations.contains_key(&operation)
    }

    /// Checks that the code asks for what the journal says, if it says anything.
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

    /// The first operation of the journal for which `asked` is false.
    pub(super) fn first_unless(&self, asked: impl Fn(u64) -> bool) -> Option<Mismatch> {
        let (operation, recorded) =
            self.operations.iter().find(|(operation, _)| !asked(**operation))?;
        Some(Mismatch::unasked(*operation, recorded.to_string()))
    }
}

impl Recorded {
    /// What an entry tells of its operation's kind; not every entry does.
    fn of(entry: &Entry) -> Option<Self> {
        Some(match entry {
            Entry::StepCompleted(entry) => Self::Step(entry.name.clone()),
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

    fn fits(&self, request: &Request) -> bool {
        match (self, request) {
            (Self::Step(recorded), Request::Step { name, .. })
            | (Self::Signal(recorded), Request::Signal { name, .. }) => recorded == name,
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
