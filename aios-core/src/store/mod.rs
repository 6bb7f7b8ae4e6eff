//! The store ports: the event log, which is the only truth, and what is derived from it.
//!
//! [`EventStore`] keeps events in streams and in one log, [`Leases`] says which process may write
//! which shard, [`ReadModels`] are tables that can be rebuilt from the log, [`Checkpoints`] remember
//! how far a reader got, [`Waits`] which runs need not be read. [`Store`] is all five.

mod append;
mod checkpoint;
mod closing;
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
    closing::{closes, ending},
    error::StoreError,
    event_store::{EventStore, EventStoreExt, MAX_PAGE},
    id::StoreId,
    lease::{Epoch, Lease, Leases, Owner, SHARDS, Shard},
    read_model::{
        AgentFilter, AgentRecord, AgentStatus, Page, PageRequest, ReadModels, RunFilter, RunRecord,
        RunStatus, RunSummary, TaskFilter, TaskRecord, TaskStatus, UnreadableRow, WorkflowRecord,
    },
    subscribe::LogSubscription,
    wait::{DueRun, Unsettled, Wait, Waits},
};

/// Everything a runtime keeps. Implemented by whatever implements the five ports.
pub trait Store: EventStore + Leases + ReadModels + Checkpoints + Waits {}

impl<S: EventStore + Leases + ReadModels + Checkpoints + Waits + ?Sized> Store for S {}
