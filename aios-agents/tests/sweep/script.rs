//! The client of a trial, which repeats its script.

use aios_agents::prelude::*;
use aios_core::BoxFuture;
use serde_json::{Value, json};

use super::{executions::moment, journals::Journals};

/// The calls of a client, which may begin again at any time, and the outcome that it sees.
pub(super) type Script =
    for<'r> fn(&'r Runtime, &'r str) -> BoxFuture<'r, Result<Value, RuntimeError>>;

/// How a run ended.
pub(super) async fn end(run: &RunHandle) -> Result<Value, RuntimeError> {
    match run.result::<Value>().await {
        Ok(value) => Ok(json!({ "ok": value })),
        Err(RunError::Runtime(error)) => Err(error),
        Err(error) => Ok(json!({ "failed": error.code(), "message": error.to_string() })),
    }
}

/// A command that may have been given before.
pub(super) fn given(command: Result<(), RuntimeError>) -> Result<(), RuntimeError> {
    match command {
        Err(error) if ["RUN_ENDED", "RUN_CANCELLING"].contains(&error.code()) => Ok(()),
        command => command,
    }
}

/// Repeats the script as a client does whose calls fail, also for good if `refuses`.
pub(super) async fn insist(script: Script, id: &str, runtime: &Runtime, refuses: bool) -> Value {
    loop {
        match script(runtime, id).await {
            // A run that was blocked is being loaded.
            Ok(outcome) if outcome.to_string().contains("RUN_BLOCKED") => {}
            Ok(outcome) => return outcome,
            // The engine has failed because it could not record something.
            Err(_) if runtime.failure().is_some() => return Value::Null,
            Err(error) if error.is_retryable() || refuses => {}
            Err(error) => return error.code().into(),
        }
        moment().await;
    }
}

pub(super) async fn settled(journals: &Journals<'_>) {
    while !journals.open().await.is_empty() {
        moment().await;
    }
}

/// Without the id, which differs between trials.
pub(super) fn nameless(outcome: &Value, id: &str) -> Value {
    serde_json::from_str(&outcome.to_string().replace(id, "ID")).unwrap()
}
