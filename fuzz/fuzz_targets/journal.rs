//! Journals: whatever a journal contains, a replay ends, with or without an error.
//!
//! An input is a journal, one event per line.
#![no_main]

use std::sync::Arc;

use aios_agents::{prelude::*, testing::replay, workflow::FnWorkflow};
use futures_util::FutureExt;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// Requests one operation of each kind, and others than most journals contain.
async fn workflow(context: WorkflowContext, input: Value) -> Result<Value, WorkflowError> {
    context.set_status("started");
    let version = context.version("change", 1..=2)?;
    let answer: Value = context.task("agent", &input).await?;
    context.compensate("undo", |context| async move { context.sleep(SECOND).await });
    let stepped = context.run("step", || async { version }).await?;
    context.sleep(SECOND).await?;
    let child: Value = context.child("child", &stepped).await?;
    let signal: Value = context.signal("signal").timeout(SECOND).await?;
    if signal == Value::Null {
        return Err(WorkflowError::continue_as_new(&answer));
    }
    Ok(child)
}

const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

fuzz_target!(|text: &str| {
    let journal: Vec<Event> = text.lines().filter_map(|line| Event::from_json(line).ok()).collect();
    if journal.is_empty() {
        return;
    }
    let workflow = FnWorkflow::new("workflow", workflow).expect("the name is valid");
    let replayed = replay(Arc::new(workflow), &journal).now_or_never();
    assert!(replayed.is_some(), "the replay does not end");
});
