//! Values that are the same in every replay.
//! None of them is recorded: each follows from the journal, or from the incarnation of the run. Only a
//! pinned version has an entry of its own.

use std::time::Duration;

use aios_core::event::Timestamp;

use super::{
    WorkflowContext,
    shared_run::{OPERATION, VALUE},
};
use crate::{options::refused, workflow::WorkflowError};

impl WorkflowContext {
    /// The time of the event that resumed the workflow. It is the same in every replay.
    ///
    /// # Panics
    ///
    /// Unwinds outside of the code of the workflow: in the code of a step, in a spawned task, or in
    /// the code of another run. A step then fails with the code `OPERATION_OUTSIDE_WORKFLOW`.
    ///
    /// Destructors also run when the code leaves memory because the run is idle or the engine stops,
    /// and while a panic unwinds. Methods that would unwind have no effect there, and their results mean
    /// nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use aios_agents::prelude::*;
    /// # #[cfg(feature = "testing")]
    /// use aios_agents::testing::WorkflowTest;
    ///
    /// async fn due(context: WorkflowContext, (): ()) -> Result<bool, WorkflowError> {
    ///     let begun = context.now();
    ///     context.task::<()>("slow", &()).timeout(Duration::from_secs(60)).await?;
    ///     Ok(context.now().duration_since(begun) > Duration::from_secs(30))
    /// }
    ///
    /// # #[cfg(not(feature = "testing"))] fn main() {}
    /// # #[cfg(feature = "testing")] #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let run = WorkflowTest::new("due", due)?.agent("slow", |(): ()| Ok(())).run(&()).await;
    /// assert!(!run.result::<bool>().unwrap());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.shared.assert_current(VALUE);
        self.shared.machine().now()
    }

    /// Time since the run began, measured with [`now`](Self::now). A fork starts from the age at the fork
    /// point; the time between that point and the fork is excluded.
    ///
    /// # Panics
    ///
    /// See [`now`](Self::now).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use aios_agents::prelude::*;
    ///
    /// async fn poll(context: WorkflowContext, agent: String) -> Result<bool, WorkflowError> {
    ///     // A fork of tomorrow polls for the rest of the hour, too.
    ///     while context.age() < Duration::from_secs(3600) {
    ///         if context.task::<bool>(&agent, &()).await? {
    ///             return Ok(true);
    ///         }
    ///         context.sleep(Duration::from_secs(60)).await?;
    ///     }
    ///     Ok(false)
    /// }
    /// # let _ = poll;
    /// ```
    #[must_use]
    pub fn age(&self) -> Duration {
        self.shared.assert_current(VALUE);
        self.shared.machine().age()
    }

    /// A UUID that is the same in every replay and different in every call.
    ///
    /// # Panics
    ///
    /// See [`now`](Self::now).
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::prelude::*;
    ///
    /// async fn order(context: WorkflowContext, item: String) -> Result<String, WorkflowError> {
    ///     // A replay draws the same value, so the invoice and the result agree.
    ///     let number = context.uuid().to_string();
    ///     context.task::<()>("invoice", &(&number, item)).await?;
    ///     Ok(number)
    /// }
    /// # let _ = order;
    /// ```
    #[must_use]
    pub fn uuid(&self) -> uuid::Uuid {
        if self.shared.assert_current(VALUE) {
            self.shared.machine().draw()
        } else {
            uuid::Uuid::nil()
        }
    }

    /// A number from 0 (included) to 1 (excluded) that is the same in every replay and different in
    /// every call.
    ///
    /// # Panics
    ///
    /// See [`now`](Self::now).
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::prelude::*;
    ///
    /// async fn audit(context: WorkflowContext, rows: Vec<String>) -> Result<(), WorkflowError> {
    ///     for row in &rows {
    ///         if context.random() < 0.01 {
    ///             context.task::<()>("auditor", row).await?;
    ///         }
    ///     }
    ///     Ok(())
    /// }
    /// # let _ = audit;
    /// ```
    #[must_use]
    pub fn random(&self) -> f64 {
        let bits = u32::try_from(self.uuid().as_u128() & 0xffff_ffff).unwrap_or_default();
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }

    /// The version of a change that this run follows, so that old and new code can coexist. New runs
    /// follow the newest version. Runs that executed this point before the change was made follow the
    /// oldest; a later operation in their journal shows that.
    ///
    /// # Errors
    ///
    /// Code `UNKNOWN_VERSION` if the run follows a version outside the range. Whatever the code does with
    /// the error, the run moves to an engine whose code supports that version, or is blocked until there
    /// is one. `INVALID_OPTIONS` if the range is empty. `OPERATION_OUTSIDE_WORKFLOW` outside of the code
    /// of the workflow.
    ///
    /// # Examples
    ///
    /// The workflow asked one agent before the change, and asks another one since:
    ///
    /// ```
    /// use aios_agents::prelude::*;
    /// # #[cfg(feature = "testing")]
    /// use aios_agents::testing::WorkflowTest;
    ///
    /// async fn quote(context: WorkflowContext, item: String) -> Result<u32, WorkflowError> {
    ///     match context.version("new prices", 1..=2)? {
    ///         1 => context.task("prices", &item).await,
    ///         _ => context.task("prices_with_tax", &item).await,
    ///     }
    /// }
    ///
    /// # #[cfg(not(feature = "testing"))] fn main() {}
    /// # #[cfg(feature = "testing")] #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let run = WorkflowTest::new("quote", quote)?
    ///     .agent("prices_with_tax", |_: String| Ok(5))
    ///     .run("tea")
    ///     .await;
    /// assert_eq!(run.result::<u32>().unwrap(), 5); // a new run follows the newest version
    /// # Ok(())
    /// # }
    /// ```
    pub fn version(
        &self,
        change: impl AsRef<str>,
        versions: std::ops::RangeInclusive<u32>,
    ) -> Result<u32, WorkflowError> {
        self.shared.check_request(OPERATION)?;
        let (oldest, newest) = versions.into_inner();
        if oldest > newest {
            let change = change.as_ref();
            let reason = format!("the versions of {change:?} range from {oldest} to {newest}");
            return Err(WorkflowError::failed(refused(reason)));
        }
        let version = self.shared.machine().version(change.as_ref(), oldest, newest);
        version.map_err(|failure| {
            self.shared.set_unknown_version(failure.clone());
            WorkflowError::failed(failure)
        })
    }
}
