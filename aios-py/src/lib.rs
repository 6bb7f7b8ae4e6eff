//! Python bindings of aios: the extension module `aios._aios`.
//!
//! Native parts only; the public API is in `python/aios`, and so is what combines operations: `gather` and
//! `race` resume in `_workflows/combinators.py`. Native threads hand work to the
//! event loop instead of waiting for the interpreter's lock, except to execute code of workflows and tests.
//!
//! | module | contents |
//! |---|---|
//! | `client` | open and close a runtime or client; start runs, assign tasks, read, maintain |
//! | `session` | what is open between `open` and `shutdown` |
//! | `calls` | Rust futures as `asyncio` futures; run handles and event streams |
//! | `python` | execution of Python code: event loop, threads, workflow runs |
//! | `llm` | agents over language models with Python tools and models |
//! | `workflow`, `agent`, `projection` | workflows, agents and projections written in Python |
//! | `convert` | JSON, errors, arguments and table rows |
//! | `logging` | log lines of the native parts, as records of Python's `logging` |
//! | `terminator` | the end of a process that has received a stop signal and does not end |
//! | `testing` | the harness and the models for tests |
//! | `service` | the HTTP API, for ASGI servers and on a socket; clients of a service |
//! | `program` | the program of operators, `aios` |
//! | `defaults` | default values and limits, which Python reads |

mod agent;
#[cfg(feature = "bench")]
mod bench;
mod calls;
mod client;
mod convert;
mod defaults;
mod llm;
mod logging;
#[cfg(feature = "program")]
mod program;
mod projection;
mod python;
#[cfg(feature = "service")]
mod service;
mod session;
mod terminator;
mod testing;
mod workflow;

use pyo3::prelude::*;

/// The native part of the package `aios`; see `_aios.pyi`.
#[pymodule]
mod _aios {
    #[pymodule_export]
    use crate::{
        agent::{Creation, NativeTaskContext},
        calls::{NativeEventStream, NativeOutputStream, NativeRunHandle, OutputWriter},
        client::{
            NativeClient,
            maintenance::{compact, expire_runs, expire_streams, release_inherited_locks},
            subject::subject_spent,
        },
        convert::json::{dumps, loads},
        defaults::Defaults,
        llm::{
            NativeFakeProvider, NativePieces, NativeResponseEvents, NativeToolContext,
            check_real_requests, forbid_real_requests, model_request, model_response,
            model_status_error, read_conversation,
        },
        logging::{CallScope, LogRecords, capture_logs, set_log_level, wake_log},
        projection::{NativeProjectionHandle, projection, start_projection},
        python::{LoopBridge, Reply, ThreadPool},
        terminator::Terminator,
        testing::{replay, run_test},
        workflow::{NativeStepContext, NativeWorkflowContext, Operation, Pending, RunScope},
    };

    #[cfg(feature = "service")]
    #[pymodule_export]
    use crate::service::{
        NativeApi, NativeExchange, NativeRemoteClient, RemoteEventStream, RemoteOutputStream,
        RemoteRunHandle, hash_api_key, is_redacted, load_settings, record_metrics, remote_agent,
        remote_agent_types, remote_create_agent, remote_dead_letters, remote_delete_agent,
        remote_handle_dead_letters, remote_replace_agent, remote_restart_agent,
    };

    #[cfg(feature = "program")]
    #[pymodule_export]
    use crate::program::run_program;

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("DEFAULTS", crate::defaults::Defaults::new())?;
        module.add("PENDING", crate::workflow::Pending::instance(module.py())?)?;
        // Not in `__all__`, because released wheels don't have it.
        #[cfg(feature = "bench")]
        module.setattr(
            "rust_tasks_per_second",
            wrap_pyfunction!(crate::bench::rust_tasks_per_second, module)?,
        )?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
