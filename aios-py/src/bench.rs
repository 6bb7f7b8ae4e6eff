//! Measures Rust agents while Python runs in the same process; for `benches/bench.py`.

use std::{sync::Arc, time::Duration};

use aios_agents::{Runtime, agent::TaskClient};
use aios_core::{
    agent::{Agent, TaskContext, TaskError},
    clock::{Clock, SystemClock},
    event::{Payload, Timestamp},
};
use pyo3::prelude::*;
use tokio::task::JoinSet;

use crate::{
    calls::Answer,
    client::NativeClient,
    convert::{errors::ErrorInfo, seconds},
};

/// How long running tasks may take to end afterwards.
const DRAIN: Duration = Duration::from_secs(10);

/// An agent that returns its parameter.
struct Echo;

impl Agent for Echo {
    type Parameters = u64;
    type Output = u64;

    async fn process_task(&self, _: &TaskContext, number: u64) -> Result<u64, TaskError> {
        Ok(number)
    }
}

/// Calls a Rust agent from Rust on the threads of a client, with `concurrent` calls in flight. Returns
/// the number of tasks per second.
#[pyfunction]
pub(crate) fn rust_tasks_per_second<'py>(
    py: Python<'py>,
    client: &NativeClient,
    duration: f64,
    concurrent: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let duration = seconds(py, "duration", duration)?;
    client.calls().call(py, async move {
        let rate = measure(duration, concurrent).await?;
        Ok(Answer::Json(Payload::encode(&rate)?))
    })
}

/// Hosts the agent with a broker in memory, calls it until the time is over, and counts the
/// answers.
async fn measure(duration: Duration, concurrent: usize) -> Result<f64, ErrorInfo> {
    let broker = aios_broker::connect("memory://").await?;
    let host = Runtime::builder().broker(Arc::clone(&broker)).agent("echo", Echo);
    let host = host.start().await?;
    let caller = TaskClient::new(Arc::clone(&broker), Arc::new(SystemClock), "bench").await?;

    let began = SystemClock.now();
    let mut callers = JoinSet::new();
    for _ in 0..concurrent {
        callers.spawn(call_until(began + duration, caller.clone()));
    }
    let mut count = 0;
    while let Some(called) = callers.join_next().await {
        count += called.unwrap_or(Ok(0))?;
    }
    let taken = SystemClock.now().duration_since(began);

    drop(caller);
    host.shutdown(DRAIN).await?;
    broker.close(DRAIN).await?;
    Ok(f64::from(count) / taken.as_secs_f64())
}

/// Makes one call after the other. Returns how many were answered.
async fn call_until(end: Timestamp, caller: TaskClient) -> Result<u32, ErrorInfo> {
    let mut count = 0;
    while SystemClock.now() < end {
        caller.task("echo", &u64::from(count)).await?;
        count += 1;
    }
    Ok(count)
}
