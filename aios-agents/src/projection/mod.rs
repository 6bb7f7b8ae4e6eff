//! Projections: views of the log that a program keeps for itself, event by event.
//!
//! [`Runtime::projection`](crate::Runtime::projection) reads the log in order, in batches, from where
//! the projection is, and hands what its patterns match to a [`Projection`]. One process at a time
//! does so for each name, under a lease; others that start the same projection take over if it dies.
//!
//! # Guarantees
//!
//! - Every event is handed over at least once, in the order of the log, and after a crash again from
//!   the last saved position on. A projection that keeps its position in the same transaction as its
//!   view (see [`StartProjection::position_from`]) applies every event exactly once to that view.
//! - A batch that fails is divided into its events. An event that fails as often as the retry policy
//!   says, or with a terminal error, becomes a dead letter with its reason, and is skipped. It is
//!   [listed](ProjectionHandle::dead_letters) until it was [redriven](ProjectionHandle::redrive). An
//!   event that the store can't read becomes a dead letter as well, with the store's code.
//! - An error of the store that may pass is waited for. One that will not pass ends the projection, and
//!   so does a terminal error of [`StartProjection::position_from`]: the log says so as an error, and
//!   [`Runtime::failed`](crate::Runtime::failed) says why. The next start begins where it ended.
//!
//! # Metrics
//!
//! - `aios_projection_lag` is by how many positions a projection is behind the log, by `projection`,
//! - `aios_projection_events_total` counts the events that were applied,
//! - `aios_projection_dead_letters_total` counts those that became dead letters.
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

mod batch;
mod handle;
mod letters;
mod runner;
mod running;
mod start;

use std::{future::Future, time::Duration};

use aios_core::agent::TaskError;

/// Default number of events that a projection applies together; see [`StartProjection::batch_size`].
pub const DEFAULT_BATCH_SIZE: usize = 100;

/// Default lease time of a projection; see [`StartProjection::lease_time`].
pub const DEFAULT_LEASE_TIME: Duration = Duration::from_secs(10);

pub(crate) use self::running::Running;
pub use aios_core::catalog::system::ProjectionDeadLetter;

pub use self::{batch::Batch, handle::ProjectionHandle, start::StartProjection};

/// Applies events of the log to a view. Every async function that takes a [`Batch`] and returns a
/// `Result<(), TaskError>` is one, and so is a closure that returns such a future.
pub trait Projection: Send + Sync + 'static {
    /// Applies a batch, all of it or nothing.
    ///
    /// # Errors
    ///
    /// An error from `?` is tried again as the retry policy says;
    /// [`terminal`](aios_core::agent::ResultExt::terminal) makes it final.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped if the process loses the projection's lease, or if it still runs when
    /// the time to shut down is over.
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
