//! Projections: application-defined views of the log.
//!
//! [`Runtime::projection`](crate::Runtime::projection) reads the log in order, in batches, from the
//! position of the projection, and passes the events that match its patterns to a [`Projection`].
//! For each name, one process at a time does so, under a lease. Other processes that start the same
//! projection take over if it dies.
//!
//! # Guarantees
//!
//! - Every event is delivered at least once, in the order of the log. After a crash, delivery
//!   resumes from the last saved position. A projection that keeps its position in the same
//!   transaction as its view, and checks it there (see [`StartProjection::position_from`]), applies every
//!   event exactly once to that view.
//! - A failed batch is retried event by event. An event that exhausts the retry policy, or fails
//!   with a terminal error, becomes a dead letter with its reason, and is skipped. It is
//!   [listed](ProjectionHandle::dead_letters) until it is [redriven](ProjectionHandle::redrive). An
//!   event that the store can't read becomes a dead letter as well, with the store's code. The record
//!   of a dead letter does not: it is an event of the log, and a projection that fails on every event
//!   would write records without end. That it could not be applied is logged.
//! - Transient errors of the store are retried. A permanent one ends the projection, and so does a
//!   terminal error of [`StartProjection::position_from`]: an error is logged, and
//!   [`Runtime::failed`](crate::Runtime::failed) returns the reason. The next start continues from
//!   where it ended.
//! - Retention keeps what a projection has not applied, even while no process runs it. A projection
//!   that is removed from the application, or renamed, is [retired](ProjectionHandle::retire).
//!
//! # Metrics
//!
//! - `aios_projection_lag` is a gauge of how many positions a projection is behind the log, by
//!   `projection`,
//! - `aios_projection_events_total` counts applied events,
//! - `aios_projection_dead_letters_total` counts events that became dead letters.
//!
//! # Examples
//!
//! ```
//! use aios_agents::{prelude::*, projection::Batch};
//!
//! async fn apply(batch: Batch) -> Result<(), TaskError> {
//!     for recorded in batch.events() {
//!         let order: serde_json::Value = recorded.event.data()?;
//!         println!("order {order} at {}", recorded.position);
//!     }
//!     Ok(())
//! }
//!
//! # async fn example(runtime: &Runtime) -> Result<(), aios_agents::RuntimeError> {
//! let orders = runtime
//!     .projection("orders", apply)
//!     .patterns(["orders.#".parse::<Pattern>()?])
//!     .await?;
//! println!("behind by {}", orders.lag().await?);
//! # Ok(())
//! # }
//! ```
//!
//! | module | contents |
//! |---|---|
//! | `start`, `settings`, `lease` | options, checks, and the lease of a name |
//! | `running` | the projections of a runtime, and how they stop |
//! | `runner` | reads the log while this process holds the lease |
//! | `apply`, `batch` | divides pages into batches, and applies them with retries |
//! | `skip`, `letters` | dead letters, and redriving them |
//! | `handle` | progress and dead letters, for callers |

mod apply;
mod batch;
mod error;
mod handle;
mod lease;
mod letters;
mod runner;
mod running;
mod settings;
mod skip;
mod start;

use std::{future::Future, time::Duration};

use aios_core::agent::TaskError;

/// Default number of events that a projection applies together; see
/// [`StartProjection::batch_size`].
pub const DEFAULT_BATCH_SIZE: usize = 100;

/// Default lease time of a projection; see [`StartProjection::lease_time`].
pub const DEFAULT_LEASE_TIME: Duration = Duration::from_secs(10);

pub(crate) use self::running::Running;
pub use aios_core::catalog::system::ProjectionDeadLetter;

pub use self::{batch::Batch, handle::ProjectionHandle, start::StartProjection};

/// Applies events of the log to a view. Implemented for async functions and closures that take a
/// [`Batch`] and return a `Result<(), TaskError>`.
///
/// # Examples
///
/// ```
/// use aios_agents::{prelude::*, projection::{Batch, Projection}};
///
/// struct Printer {
///     prefix: &'static str,
/// }
///
/// impl Projection for Printer {
///     async fn apply(&self, batch: Batch) -> Result<(), TaskError> {
///         for recorded in batch.events() {
///             println!("{} {}", self.prefix, recorded.event.event_type);
///         }
///         Ok(())
///     }
/// }
/// # let _ = Printer { prefix: "seen" };
/// ```
pub trait Projection: Send + Sync + 'static {
    /// Applies a batch atomically.
    ///
    /// # Errors
    ///
    /// An error from `?` is retried according to the retry policy;
    /// [`terminal`](aios_core::agent::ResultExt::terminal) makes it permanent.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped if the process loses the projection's lease, or if it is still running
    /// at the shutdown deadline.
    fn apply(&self, batch: Batch) -> impl Future<Output = Result<(), TaskError>> + Send;
}

impl<F, Fut> Projection for F
where
    F: Fn(Batch) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), TaskError>> + Send,
{
    fn apply(&self, batch: Batch) -> impl Future<Output = Result<(), TaskError>> + Send {
        self(batch)
    }
}
