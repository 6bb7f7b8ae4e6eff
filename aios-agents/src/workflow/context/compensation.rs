//! The compensations of a run that fails or is cancelled.
//! They are kept in the order of their registration and taken from the end by `workflow_future`. A
//! replay registers them again, so nothing about them is recorded until they request operations of
//! their own.

use std::{collections::BTreeMap, future::Future};

use aios_core::failure::Details;
use serde::Serialize;

use super::{WorkflowContext, shared_run::OPERATION, waiting::Compensation};
use crate::workflow::WorkflowError;

impl WorkflowContext {
    /// Registers a compensation: `undo` runs if the run fails or is cancelled later. Compensations run
    /// in reverse order and may use all operations. If one fails, the others still run.
    ///
    /// # Panics
    ///
    /// See [`now`](Self::now).
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::prelude::*;
    /// # #[cfg(feature = "testing")]
    /// use aios_agents::testing::WorkflowTest;
    ///
    /// async fn trip(context: WorkflowContext, city: String) -> Result<(), WorkflowError> {
    ///     let seat: u32 = context.task("book_flight", &city).await?;
    ///     context.compensate("cancel the flight", move |context| async move {
    ///         context.task::<()>("cancel_flight", &seat).await
    ///     });
    ///     // If this fails, the flight is cancelled.
    ///     context.task::<()>("book_hotel", &city).await
    /// }
    ///
    /// # #[cfg(not(feature = "testing"))] fn main() {}
    /// # #[cfg(feature = "testing")] #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let run = WorkflowTest::new("trip", trip)?
    ///     .agent("book_flight", |_: String| Ok(17))
    ///     .agent("cancel_flight", |seat: u32| {
    ///         assert_eq!(seat, 17);
    ///         Ok(())
    ///     })
    ///     .agent("book_hotel", |_: String| {
    ///         Err::<(), _>(TaskError::terminal(Failure::new("FULLY_BOOKED", "no room is left")))
    ///     })
    ///     .run("Oslo")
    ///     .await;
    /// assert_eq!(run.result::<()>().unwrap_err().code(), "FULLY_BOOKED");
    /// # Ok(())
    /// # }
    /// ```
    pub fn compensate<F, Fut>(&self, name: impl Into<Box<str>>, undo: F)
    where
        F: FnOnce(Self) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), WorkflowError>> + Send + 'static,
    {
        if !self.shared.assert_current(OPERATION) {
            return;
        }
        let undo = Box::new(move |context| -> aios_core::BoxFuture<'static, _> {
            Box::pin(undo(context))
        });
        self.shared.push_compensation(Compensation { name: name.into(), undo });
    }

    /// Adds a field to the details of the failure with which the run ends, if it fails or is cancelled.
    /// Called in a compensation, it says what the run leaves behind; the parent of the run gets the
    /// failure. A later value of the same field replaces it. Details that are not an object move to
    /// the field `cause`.
    ///
    /// # Errors
    ///
    /// If `value` cannot be serialised to JSON, and with the code `OPERATION_OUTSIDE_WORKFLOW` outside
    /// of the code of the workflow.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::prelude::*;
    ///
    /// async fn trip(context: WorkflowContext, city: String) -> Result<(), WorkflowError> {
    ///     let seat: u32 = context.task("book_flight", &city).await?;
    ///     context.compensate("cancel the flight", move |context| async move {
    ///         let cancelled = context.task::<()>("cancel_flight", &seat).await;
    ///         if cancelled.is_err() {
    ///             // The failure of the run says which seat remains booked.
    ///             context.set_failure_detail("booked_seat", &seat)?;
    ///         }
    ///         cancelled
    ///     });
    ///     context.task::<()>("book_hotel", &city).await
    /// }
    /// # let _ = trip;
    /// ```
    pub fn set_failure_detail(
        &self,
        field: &str,
        value: &(impl Serialize + ?Sized),
    ) -> Result<(), WorkflowError> {
        self.shared.check()?;
        self.shared.set_failure_detail(field, Details::encode(value)?);
        Ok(())
    }

    /// The fields that were set, for the failure of the run.
    pub(crate) fn take_failure_details(&self) -> BTreeMap<String, Details> {
        self.shared.take_failure_details()
    }

    /// Notes that the compensations begin.
    pub(crate) fn begin_compensations(&self) {
        self.shared.machine().begin_compensations();
    }

    /// The compensation that was registered last, if one is left.
    pub(crate) fn take_compensation(&self) -> Option<Compensation> {
        self.shared.pop_compensation()
    }
}
