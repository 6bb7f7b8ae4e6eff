//! Durable, event-driven AI agents: the runtime that hosts them and the engine that runs their
//! workflows.

pub mod agent;
mod counted;
pub mod declared;
mod failing;
pub mod middleware;
mod options;
mod panic;
pub mod prelude;
pub mod projection;
pub mod runtime;
mod suggest;
mod task;
#[cfg(feature = "testing")]
pub mod testing;
pub mod workflow;

/// What macros expand to.
#[doc(hidden)]
pub mod __private {
    pub use tokio::{join, select, try_join};
}

pub use self::declared::{AgentRef, TypedRun, WorkflowRef};
pub use self::runtime::{RunError, RunHandle, Runtime, RuntimeBuilder, RuntimeError};
