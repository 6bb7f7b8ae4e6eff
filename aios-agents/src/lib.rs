//! Durable, event-driven AI agents: the runtime that hosts them and the engine that runs their
//! workflows.

pub mod agent;
mod counted;
pub mod middleware;
mod panic;
pub mod prelude;
pub mod runtime;
#[cfg(feature = "testing")]
pub mod testing;
pub mod workflow;

/// What macros expand to.
#[doc(hidden)]
pub mod __private {
    pub use tokio::select;
}

pub use self::runtime::{RunError, RunHandle, Runtime, RuntimeBuilder, RuntimeError};
