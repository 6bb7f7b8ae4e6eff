//! Tests of workflows without a store, a broker or waiting; see `aios.testing`.

use std::sync::Arc;

use aios_agents::testing::{ReplayError, TestedRun, WorkflowTest};
use aios_core::{
    agent::TaskError,
    event::{Event, Payload},
};
use pyo3::prelude::*;

use crate::{
    calls::Answer,
    core::Core,
    fault::{Fault, task_error},
    given::WorkflowGiven,
    json,
    workflow::seconds,
};

/// What comes from outside: seconds after the start, what, name, payload or reason.
type Outside<'py> = (f64, String, String, Bound<'py, PyAny>);

/// Runs a workflow in virtual time: `[result or None, failure or None, seconds, events]`.
#[pyfunction]
pub(crate) fn run_test<'py>(
    py: Python<'py>,
    core: &Core,
    workflow: WorkflowGiven,
    input: &Bound<'py, PyAny>,
    agents: Vec<(String, Py<PyAny>)>,
    children: Vec<(String, Py<PyAny>)>,
    outside: Vec<Outside<'py>>,
) -> PyResult<Bound<'py, PyAny>> {
    let mut test = WorkflowTest::of(workflow.into_workflow(py, core.places())?);
    for (agent_type, script) in agents {
        test = test.agent(agent_type, move |payload: Payload| call(&script, &payload));
    }
    for (name, script) in children {
        test = test.child(name, move |payload: Payload| call(&script, &payload));
    }
    for (after, what, name, payload) in outside {
        let after = seconds(py, after)?;
        test = match what.as_str() {
            "signal" => test.signal(after, &name, &json::write(&payload)?),
            "cancel" => test.cancel(after, name),
            "pause" => test.pause(after),
            _ => test.resume(after),
        };
    }
    let input = json::write(input)?;
    core.calls().call(py, async move { Ok(Answer::Json(told(&test.run(&input).await)?)) })
}

/// Has a Python function `script(payload)` answer.
fn call(script: &Py<PyAny>, payload: &Payload) -> Result<Payload, TaskError> {
    tokio::task::block_in_place(|| {
        Python::attach(|py| {
            let answer = json::read(py, payload.as_str())
                .and_then(|value| script.bind(py).call1((value,)))
                .and_then(|answer| json::write(&answer));
            answer.map_err(|error| task_error(py, &error, TaskError::FAILED))
        })
    })
}

fn told(run: &TestedRun) -> Result<Payload, Fault> {
    let (result, failure) = match run.result::<Payload>() {
        Ok(result) => (Some(result), None),
        Err(error) => (None, error.failure().cloned()),
    };
    let events = run.events()?;
    Ok(Payload::encode(&(result, failure, run.elapsed().as_secs_f64(), events))?)
}

/// Replays a saved journal, envelopes as JSON text, against a workflow.
#[pyfunction]
pub(crate) fn replay<'py>(
    py: Python<'py>,
    core: &Core,
    workflow: WorkflowGiven,
    journal: Vec<String>,
) -> PyResult<Bound<'py, PyAny>> {
    let workflow = workflow.into_workflow(py, core.places())?;
    let events =
        journal.into_iter().map(|text| Event::from_json(&text)).collect::<Result<Vec<_>, _>>();
    let events = events.map_err(|error| Fault::from(error).into_error(py))?;
    core.calls().call(py, async move {
        match aios_agents::testing::replay(Arc::clone(&workflow), &events).await {
            Ok(()) => Ok(Answer::Nothing),
            Err(ReplayError::Blocked(failure)) => Err(Fault::of_replay(failure)),
            Err(error) => Err(Fault::new("event", "NO_JOURNAL", error.to_string())),
        }
    })
}
