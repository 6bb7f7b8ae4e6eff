//! Conversions between Rust and Python.
//!
//! JSON text is the form in which values cross the border: native threads handle
//! [`Payload`](aios_core::event::Payload)s without the interpreter, and the Python values are built
//! or read on a thread that has it.
//!
//! | module | contents |
//! |---|---|
//! | `json` | JSON text from and to Python values |
//! | `errors` | Rust errors as exceptions, and exceptions as failures |
//! | `arguments` | agents, workflows and retry policies as Python passes them |
//! | `records` | table rows and events as JSON for Python |
//! | `event` | events from Python data |

pub(crate) mod arguments;
pub(crate) mod errors;
pub(crate) mod event;
pub(crate) mod json;
pub(crate) mod records;

use std::time::Duration;

use aios_core::{catalog::codes, store::Fence};
use pyo3::prelude::*;

use self::errors::ErrorInfo;

/// A duration from Python's seconds. `name` is that of the argument, for the error.
pub(crate) fn seconds(py: Python<'_>, name: &str, seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        let message = format!("{name} must be a number of seconds from 0 on, not {seconds:?}");
        ErrorInfo::new("event", codes::INVALID_DURATION, message).into_error(py)
    })
}

/// A duration from Python's seconds, if there are any.
pub(crate) fn optional_seconds(
    py: Python<'_>,
    name: &str,
    value: Option<f64>,
) -> PyResult<Option<Duration>> {
    value.map(|value| seconds(py, name, value)).transpose()
}

/// A fence as Python takes it: shard and epoch.
pub(crate) fn fence_pair(fence: Fence) -> (u16, u64) {
    (fence.shard.number(), fence.epoch.0)
}

/// A collector: its URL, the name of the service, the headers of requests, and the protocol.
pub(crate) type CollectorArg = (String, String, Vec<(String, String)>, String);
/// A collector of metrics, and the interval in seconds.
pub(crate) type MetricsCollectorArg = (CollectorArg, f64);
/// The collectors of a runtime: of traces, and of metrics.
pub(crate) type CollectorsArg = (Option<CollectorArg>, Option<MetricsCollectorArg>);
