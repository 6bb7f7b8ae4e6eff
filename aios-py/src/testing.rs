//! Workflow tests with virtual time; see `aios.testing`.
//!
//! The harness is that of `aios-agents`, which simulates the store, the broker, the agents and the
//! clock for one run. It runs on the native threads of a client, and so does the workflow code:
//! there is no [`LoopExecutor`](crate::python::LoopExecutor) here, and a poll attaches a native
//! thread to the interpreter. The test waits in an `await` on the event loop meanwhile, so the lock
//! is free.
//!
//! Agents and children are Python functions, called scripts, which run in place.

use std::sync::Arc;

use aios_agents::{
    testing::{ReplayError, TestedRun, WorkflowTest},
    workflow::WorkflowError,
};
use aios_core::{
    agent::TaskError,
    catalog::codes,
    event::{Event, Payload},
    failure::Failure,
};
use pyo3::prelude::*;

use crate::{
    calls::Answer,
    client::NativeClient,
    convert::{
        arguments::WorkflowArg,
        errors::{ErrorInfo, task_error},
        json, seconds,
    },
};

/// An external event: seconds after the start, kind, name or reason, payload.
type ExternalEvent<'py> = (f64, String, String, Bound<'py, PyAny>);

/// Runs a workflow in virtual time. Returns `[result or None, failure or None, seconds, events]`.
#[pyfunction]
pub(crate) fn run_test<'py>(
    py: Python<'py>,
    client: &NativeClient,
    workflow: WorkflowArg,
    input: &Bound<'py, PyAny>,
    agents: Vec<(String, Py<PyAny>)>,
    children: Vec<(String, Py<PyAny>)>,
    external: Vec<ExternalEvent<'py>>,
) -> PyResult<Bound<'py, PyAny>> {
    let mut test = WorkflowTest::of(workflow.into_workflow(py, client.executors())?);
    for (agent_type, script) in agents {
        test = test.agent(agent_type, move |payload: Payload| call_script(&script, &payload));
    }
    for (name, script) in children {
        test = test.child(name, move |payload: Payload| call_script(&script, &payload));
    }
    for (after, kind, name, payload) in external {
        let after = seconds(py, "after", after)?;
        test = match kind.as_str() {
            "signal" => test.signal(after, &name, &json::write(&payload)?),
            "cancel" => test.cancel(after, name),
            "pause" => test.pause(after),
            _ => test.resume(after),
        };
    }
    let input = json::write(input)?;
    client.calls().call(py, async move { Ok(Answer::Json(encode_run(&test.run(&input).await)?)) })
}

/// Calls a Python function `script(payload)`.
fn call_script(script: &Py<PyAny>, payload: &Payload) -> Result<Payload, TaskError> {
    tokio::task::block_in_place(|| {
        Python::attach(|py| {
            let answer = json::read(py, payload.as_str())
                .and_then(|value| script.bind(py).call1((value,)))
                .and_then(|answer| json::write(&answer));
            answer.map_err(|error| task_error(py, &error, TaskError::FAILED))
        })
    })
}

/// The end of a run that continues as a new one, which the test does not run.
fn continued(error: &WorkflowError) -> Failure {
    Failure::new(codes::CONTINUED_AS_NEW, error.to_string())
}

/// The outcome of a tested run as Python takes it.
fn encode_run(run: &TestedRun) -> Result<Payload, ErrorInfo> {
    let (result, failure) = match run.result::<Payload>() {
        Ok(result) => (Some(result), None),
        Err(error) => (None, Some(error.failure().cloned().unwrap_or_else(|| continued(&error)))),
    };
    let events = run.events()?;
    Ok(Payload::encode(&(result, failure, run.elapsed().as_secs_f64(), events))?)
}

/// Replays a saved journal, a list of JSON envelopes, with a workflow.
#[pyfunction]
pub(crate) fn replay<'py>(
    py: Python<'py>,
    client: &NativeClient,
    workflow: WorkflowArg,
    journal: Vec<String>,
) -> PyResult<Bound<'py, PyAny>> {
    let workflow = workflow.into_workflow(py, client.executors())?;
    let events =
        journal.into_iter().map(|text| Event::from_json(&text)).collect::<Result<Vec<_>, _>>();
    let events = events.map_err(|error| ErrorInfo::from(error).into_error(py))?;
    client.calls().call(py, async move {
        match aios_agents::testing::replay(Arc::clone(&workflow), &events).await {
            Ok(()) => Ok(Answer::Nothing),
            Err(ReplayError::Blocked(failure)) => Err(ErrorInfo::from_replay(failure)),
            Err(error) => Err(ErrorInfo::new("event", codes::NO_JOURNAL, error.to_string())),
        }
    })
}
