//! The error with which the code of a workflow ends, and the one that its operations return.
//!
//! One type serves three ends of a run, which the engine tells apart by `Kind`: a failure, a
//! cancellation, and the request to continue as a new run. Code sees only the first two, as codes and
//! messages; the third passes through `?` like an error, so that no helper function of the user has to
//! know about it.

use std::{collections::BTreeMap, error::Error, fmt};

use aios_core::{
    agent::TaskError,
    catalog::codes,
    event::Payload,
    failure::{Details, Failure},
};
use serde::Serialize;

/// Why a workflow ended without a result.
///
/// `?` converts any error into it. It does not implement [`Error`] itself, which allows the conversion
/// from all errors.
///
/// # Examples
///
/// ```
/// use aios_agents::prelude::*;
/// # #[cfg(feature = "testing")]
/// use aios_agents::testing::WorkflowTest;
///
/// async fn quote(context: WorkflowContext, item: String) -> Result<u32, WorkflowError> {
///     match context.task("prices", &item).await {
///         // Decide by the code, which is stable; the message is for humans.
///         Err(error) if error.code() == "UNKNOWN_ITEM" => Ok(0),
///         Err(error) => Err(error),
///         Ok(0) => Err(WorkflowError::failed(Failure::new("NOT_FOR_SALE", item))),
///         Ok(price) => Ok(price),
///     }
/// }
///
/// # #[cfg(not(feature = "testing"))] fn main() {}
/// # #[cfg(feature = "testing")] #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let test = WorkflowTest::new("quote", quote)?.agent("prices", |_: String| Ok(0));
/// let error = test.run("tea").await.result::<u32>().unwrap_err();
/// assert_eq!(error.code(), "NOT_FOR_SALE");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct WorkflowError {
    kind: Kind,
    /// The operation that failed; `None` if the code itself did.
    operation: Option<Box<FailedOperation>>,
}

/// The operation with which code failed.
#[derive(Clone, Debug)]
struct FailedOperation {
    /// Its number.
    number: u64,
    /// Its name, as the failure of the run contains it.
    label: String,
}

/// A compensation that failed while a run was undone.
#[derive(Debug)]
pub(crate) struct FailedCompensation {
    /// Its name.
    pub(crate) name: Box<str>,
    /// With what it failed; `None` if it wanted to continue as a new run.
    pub(crate) failure: Option<Failure>,
}

impl FailedCompensation {
    fn to_details(&self) -> Details {
        let failure = self.failure.as_ref().map(Details::from).unwrap_or_default();
        let details = Details::from(serde_json::json!({ "compensation": self.name }));
        details.with_field("failure", failure)
    }
}

/// How a run ends that has no result.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// The code returned an error. The run ends with `failed`.
    Failed(Failure),
    /// A client requested the cancellation. Only the engine creates this. The run ends with
    /// `cancelled`.
    Cancelled(Failure),
    /// The run ends with `continued`, and a successor begins with this input.
    ContinueAsNew(Payload),
}

impl WorkflowError {
    /// Failure code of errors without a code of their own.
    pub const FAILED: &'static str = codes::WORKFLOW_FAILED;
    /// Failure code of a cancelled run.
    pub const CANCELLED: &'static str = codes::RUN_CANCELLED;

    /// Failure code of code that never lets the engine continue: it wakes itself, makes requests or computes
    /// without end.
    pub const BUSY: &'static str = codes::WORKFLOW_BUSY;
    /// Failure code of operations requested outside of the code of their own run.
    pub const OUTSIDE: &'static str = codes::OPERATION_OUTSIDE_WORKFLOW;

    /// The workflow failed.
    #[must_use]
    pub fn failed(failure: Failure) -> Self {
        Kind::Failed(failure).into()
    }

    /// An operation failed. `label` names it for people.
    pub(crate) fn of_operation(failure: Failure, number: u64, label: String) -> Self {
        let operation = Some(Box::new(FailedOperation { number, label }));
        Self { kind: Kind::Failed(failure), operation }
    }

    /// Number of the operation that failed; `None` if the code itself did, or changed the error.
    pub(crate) fn operation(&self) -> Option<u64> {
        self.operation.as_ref().map(|operation| operation.number)
    }

    /// Ends this run and continues as a new one with an empty journal. Return it from the workflow. The new
    /// run takes over the signals that were not received, but not the compensations: these are discarded.
    ///
    /// If `input` cannot be serialised to JSON, this is a failure instead.
    ///
    /// # Examples
    ///
    /// A run that never ends keeps a short journal:
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use aios_agents::prelude::*;
    ///
    /// async fn poll(context: WorkflowContext, seen: u64) -> Result<(), WorkflowError> {
    ///     let newest: u64 = context.task("feed", &seen).await?;
    ///     context.sleep(Duration::from_secs(60)).await?;
    ///     // The next run begins with this input and an empty journal, under the same id for callers.
    ///     Err(WorkflowError::continue_as_new(&newest))
    /// }
    /// # let _ = poll;
    /// ```
    #[must_use]
    pub fn continue_as_new<T: Serialize + ?Sized>(input: &T) -> Self {
        match Payload::encode(input) {
            Ok(input) => Kind::ContinueAsNew(input).into(),
            Err(error) => error.into(),
        }
    }

    /// The error that replaces the outcome of code whose run was cancelled.
    pub(crate) fn cancelled(failure: Failure) -> Self {
        Kind::Cancelled(failure).into()
    }

    /// The failure, as the operation or the code reported it; `None` if the run continues as a new one.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match &self.kind {
            Kind::Failed(failure) | Kind::Cancelled(failure) => Some(failure),
            Kind::ContinueAsNew(_) => None,
        }
    }

    /// Code of the failure; empty if the run continues as a new one.
    #[must_use]
    pub fn code(&self) -> &str {
        self.failure().map_or("", |failure| &failure.code)
    }

    /// Adds fields to the details of the failure.
    ///
    /// Details that are not an object move to the field `cause`, so that nothing is lost.
    pub(crate) fn with_details(mut self, fields: BTreeMap<String, Details>) -> Self {
        if let Kind::Failed(failure) | Kind::Cancelled(failure) = &mut self.kind {
            let details = std::mem::take(&mut failure.details);
            let set =
                |details: Details, (field, value): (String, _)| details.with_field(&field, value);
            failure.details = fields.into_iter().fold(details, set);
        }
        self
    }

    /// Adds the failed compensations to the failure.
    ///
    /// The details become an object with the fields `cause` and `failed_compensations`.
    pub(crate) fn with_failed_compensations(mut self, failed: &[FailedCompensation]) -> Self {
        if let Kind::Failed(failure) | Kind::Cancelled(failure) = &mut self.kind {
            let cause = std::mem::take(&mut failure.details);
            let failed = failed.iter().map(FailedCompensation::to_details);
            failure.details = Details::default()
                .with_field("cause", cause)
                .with_field("failed_compensations", Details::from_iter(failed));
        }
        self
    }

    /// How the run ends; see `Execution::ending`. The message names the operation that failed.
    pub(crate) fn into_kind(self) -> Kind {
        match (self.kind, self.operation) {
            (Kind::Failed(failure), Some(operation)) => {
                let message = format!("{} failed: {}", operation.label, failure.message);
                Kind::Failed(Failure { message, ..failure })
            }
            (kind, _) => kind,
        }
    }
}

impl From<Kind> for WorkflowError {
    fn from(kind: Kind) -> Self {
        Self { kind, operation: None }
    }
}

impl fmt::Display for WorkflowError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Failed(failure) | Kind::Cancelled(failure) => {
                if let Some(operation) = &self.operation {
                    write!(formatter, "{} failed: ", operation.label)?;
                }
                failure.fmt(formatter)
            }
            Kind::ContinueAsNew(_) => formatter.write_str("the run continues as a new one"),
        }
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for WorkflowError {
    fn from(error: E) -> Self {
        let failure = TaskError::from(error).failure;
        // An error without a code of its own gets that of workflows instead of that of tasks.
        if failure.code == TaskError::FAILED {
            return Self::failed(Failure { code: Self::FAILED.to_owned(), ..failure });
        }
        Self::failed(failure)
    }
}

/// Allows `?` on a workflow error in a step or a compensation.
impl From<WorkflowError> for TaskError {
    fn from(error: WorkflowError) -> Self {
        let failure = error.failure().cloned();
        Self::terminal(failure.unwrap_or_else(|| Failure::new(Self::FAILED, error.to_string())))
    }
}
