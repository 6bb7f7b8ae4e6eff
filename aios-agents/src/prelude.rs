//! Common imports for services that use agents and workflows.

pub use aios_core::{
    agent::{Agent, DynAgent, ResultExt, TaskContext, TaskError},
    broker::{Broker, BrokerExt},
    event::{Event, EventType, Pattern, Payload, Timestamp},
    failure::Failure,
    retry::RetryPolicy,
    store::{EventStoreExt, Store},
};

pub use crate::{
    declared::{AgentRef, TypedRun, WorkflowRef},
    runtime::{RunError, RunHandle, Runtime, RuntimeError},
    select,
    workflow::{Target, WorkflowContext, WorkflowError, race},
};
