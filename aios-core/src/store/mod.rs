//! The store ports: the event log, which is the source of truth, and everything derived from it.
//!
//! [`EventStore`] stores events in streams and in one log, [`Leases`] decide which process may
//! write which shard, [`ReadModels`] are tables that can be rebuilt from the log, [`Checkpoints`]
//! store the positions of readers. [`Store`] combines all four. [`Waits`], which tells which runs
//! need not be read, and [`Maintenance`], which removes what is no longer needed, are optional.
//!
//! A store may lack everything that is only an optimisation: the methods of the ports that have a
//! default implementation, which is correct but slower, and the ports that a method returns as an
//! `Option`. All additions to a port are made in this way, so that an existing store, or a wrapper
//! around one, still compiles and works as before. A wrapper that has to be as fast as the wrapped
//! store forwards every method; the lint `clippy::missing_trait_methods` names the missing ones.

mod append;
mod checkpoint;
mod error;
mod event_store;
mod ext;
mod filter;
mod id;
mod lease;
mod maintenance;
mod page;
mod page_size;
mod read_model;
mod recorded;
mod row;
mod shard;
mod status;
mod subscribe;
mod wait;

use std::{fmt, str::FromStr, sync::Arc};

pub use self::{
    append::{Append, Appended, Expected},
    checkpoint::{Checkpoint, Checkpoints},
    error::StoreError,
    event_store::{EventStore, MAX_PAGE},
    ext::EventStoreExt,
    filter::{AgentFilter, RunFilter, TaskFilter},
    id::StoreId,
    lease::{Fence, Lease, Leases, OwnerId},
    maintenance::{Expirable, ExpirePage, Expired, Maintenance},
    page::{Page, PageRequest, UnreadableRow},
    page_size::PageSize,
    read_model::ReadModels,
    recorded::RecordedEvent,
    row::{AgentRecord, RunRecord, RunSummary, TaskRecord, WorkflowRecord},
    shard::{Epoch, InvalidShard, SHARDS, Shard},
    status::{AgentStatus, RunStatus, TaskStatus},
    subscribe::LogSubscription,
    wait::{DueRun, Unsettled, Wait, Waits},
};
use crate::event::MAX_NAME_BYTES;

/// The prefix of the streams of runs.
const RUNS: &str = "runs/";

/// Name of a stream, which contains the events of one thing. 1 to 255 bytes.
///
/// # Examples
///
/// ```
/// use aios_core::store::StreamId;
///
/// # fn main() -> Result<(), aios_core::store::StoreError> {
/// assert_eq!(StreamId::new("orders/7")?.run_id(), None);
/// let journal = StreamId::of_run("welcome-ada")?;
/// assert_eq!((journal.as_str(), journal.run_id()), ("runs/welcome-ada", Some("welcome-ada")));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(Arc<str>);

impl StreamId {
    /// Checks the name.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidStream`] if it is empty or longer than 255 bytes.
    pub fn new(name: impl AsRef<str>) -> Result<Self, StoreError> {
        let name = name.as_ref();
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(StoreError::InvalidStream { bytes: name.len() });
        }
        Ok(Self(name.into()))
    }

    /// The journal of a run: `runs/` and the run's id.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidStream`] if the id is empty or longer than 250 bytes.
    pub fn of_run(run_id: &str) -> Result<Self, StoreError> {
        if run_id.is_empty() {
            return Err(StoreError::InvalidStream { bytes: 0 });
        }
        Self::new(format!("{RUNS}{run_id}"))
    }

    /// The run whose journal this is, if it is one.
    #[must_use]
    pub fn run_id(&self) -> Option<&str> {
        self.0.strip_prefix(RUNS)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StreamId {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        Self::new(text)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Everything that a runtime stores. Implemented by every type that implements the four ports.
pub trait Store: EventStore + Leases + ReadModels + Checkpoints {}

impl<S: EventStore + Leases + ReadModels + Checkpoints + ?Sized> Store for S {}
