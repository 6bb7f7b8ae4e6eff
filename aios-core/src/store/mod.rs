//! The store ports: the event log, which is the source of truth, and everything derived from it.
//!
//! [`EventStore`] stores events in streams and in one log, [`Leases`] decide which process may
//! write which shard, [`ReadModels`] are tables that can be rebuilt from the log, [`Checkpoints`]
//! store the positions of readers. [`Store`] combines all four. [`Waits`], which tells which runs
//! need not be read, is optional.
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
mod id;
mod lease;
mod read_model;
mod subscribe;
mod wait;

pub use self::{
    append::{Append, Appended, Expected, Fence, RecordedEvent, StreamId},
    checkpoint::Checkpoints,
    error::StoreError,
    event_store::{EventStore, EventStoreExt, MAX_PAGE},
    id::StoreId,
    lease::{Epoch, Lease, Leases, OwnerId, SHARDS, Shard},
    read_model::{
        AgentFilter, AgentRecord, AgentStatus, Page, PageRequest, ReadModels, RunFilter, RunRecord,
        RunStatus, RunSummary, TaskFilter, TaskRecord, TaskStatus, UnreadableRow, WorkflowRecord,
    },
    subscribe::LogSubscription,
    wait::{DueRun, Unsettled, Wait, Waits},
};

/// Everything that a runtime stores. Implemented by every type that implements the four ports.
pub trait Store: EventStore + Leases + ReadModels + Checkpoints {}

impl<S: EventStore + Leases + ReadModels + Checkpoints + ?Sized> Store for S {}
