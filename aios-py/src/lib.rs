//! Python bindings of aios: the extension module `aios._aios`.
//!
//! What is here is what Python can't do; the rest, and everything public, is in `python/aios`.
//! Threads of aios never wait for the interpreter's lock, except to let the code of a workflow run.

mod agent;
mod bridge;
mod calls;
mod core;
mod events;
mod executor;
mod fault;
mod given;
mod json;
mod logging;
mod measure;
mod opened;
mod places;
mod projection;
mod records;
mod retention;
mod run;
mod terminate;
mod testing;
mod workflow;

use pyo3::prelude::*;

/// What the package `aios` is built on; see `_aios.pyi`.
#[pymodule]
mod _aios {
    #[pymodule_export]
    use crate::{
        agent::TaskCore,
        bridge::LoopBridge,
        core::Core,
        events::Events,
        json::{dumps, loads},
        logging::{Records, log_to, set_log_level, wake_log},
        measure::rust_tasks_per_second,
        places::{Pool, Reply},
        projection::{ProjectionCore, projection, start_projection},
        retention::{compact, expire_runs},
        run::HandleCore,
        terminate::Terminator,
        testing::{replay, run_test},
        workflow::{Operation, Pending, RunCore},
    };

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("PENDING", crate::workflow::Pending::instance(module.py())?)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
