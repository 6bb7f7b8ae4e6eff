//! The store ports: the event log, which is the only truth, and what is derived from it.
//!
//! [`EventStore`] keeps events in streams and in one log, [`Leases`] says which process may write
//! which shard, [`ReadModels`] are tables that can be rebuilt from the log, [`Checkpoints`] remember
//! how far a reader got. [`Store`] is all four. [`Waits`], which says which runs need not be read, is
//! optional.
//!
//! A store may lack what only saves time: the methods of the ports that have a body, whose bodies are
//! correct and slower, and what a method that returns an `Option` leads to. Whatever is added to a port is
//! added in this way, so that a store, or a wrapper around one, that was written before compiles and works
//! as it did. A wrapper that has to be as fast as the wrapped store forwards every method; the lint
//! `clippy::missing_trait_methods` names those that it lacks.

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

/// Everything a runtime keeps. Implemented by whatever implements the four ports.
pub trait Store: EventStore + Leases + ReadModels + Checkpoints {}

impl<S: EventStore + Leases + ReadModels + Checkpoints + ?Sized> Store for S {}
