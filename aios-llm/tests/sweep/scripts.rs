//! The scripts of the clients, which start runs and answer what the runs ask.

use aios_agents::{RunHandle, prelude::*};
use aios_llm::{
    Conversation, Prompt,
    budget::{BUDGET_SIGNAL, BudgetDecision, Limits},
    pending_decisions,
    tool::{Decision, PendingDecision, Resolution},
};
use serde_json::{Value, json};

use super::{
    executions::moment,
    script::{end, given},
    world::did,
};

/// The prompt of a run of a subject.
pub(super) fn prompt(id: &str) -> Prompt {
    Prompt::new("go").with_subject(id)
}

pub(super) async fn one_run(runtime: &Runtime, id: &str) -> Result<Value, RuntimeError> {
    let run = runtime.start("agent", &prompt(id)).id(id).await?;
    driven(runtime, &run).await
}

/// A run whose limit is raised.
pub(super) async fn raised(runtime: &Runtime, id: &str) -> Result<Value, RuntimeError> {
    let run = runtime.start("agent", &prompt(id)).id(id).await?;
    raise(&run).await?;
    driven(runtime, &run).await
}

async fn raise(run: &RunHandle) -> Result<(), RuntimeError> {
    let limits = Limits { requests: Some(9), ..Limits::default() };
    let sender = run.clone().with_request_id(format!("{}-raise", run.id()));
    given(sender.signal(BUDGET_SIGNAL, &BudgetDecision::Raise { limits }).await)
}

/// Two runs of a subject, of which the second one reaches the limit.
pub(super) async fn of_subject(runtime: &Runtime, id: &str) -> Result<Value, RuntimeError> {
    let first = one_run(runtime, id).await?;
    let second = runtime.start("agent", &prompt(id)).id(format!("{id}-2")).await?;
    raise(&second).await?;
    Ok(json!([first, driven(runtime, &second).await?]))
}

pub(super) async fn team_run(runtime: &Runtime, id: &str) -> Result<Value, RuntimeError> {
    let run = runtime.start("team", id).id(id).await?;
    while !run.status().await?.status.is_final() {
        let journal = run.journal(0, 1000).await?;
        let failed =
            |event: &Event| event.data::<Value>().is_ok_and(|it| it["failure"].is_object());
        // Without another agent, the one that waits has to continue.
        if journal.iter().any(|it| failed(&it.event)) {
            decide(runtime, run.clone()).await?;
        }
        moment().await;
    }
    ended(&run).await
}

/// A conversation of two runs.
pub(super) async fn continued(runtime: &Runtime, id: &str) -> Result<Value, RuntimeError> {
    let first = one_run(runtime, id).await?;
    let conversation = Conversation::of(&runtime.handle(id).await?).await?;
    let prompt = conversation.continued("and then?").with_subject(id);
    let second = runtime.start("agent", &prompt).id(format!("{id}-2")).await?;
    Ok(json!([first, driven(runtime, &second).await?]))
}

/// A run, and a fork of it at each operation of its last turn.
pub(super) async fn forked(runtime: &Runtime, id: &str) -> Result<Value, RuntimeError> {
    let first = one_run(runtime, id).await?;
    let run = runtime.handle(id).await?;
    let mut ended = vec![first];
    for operation in last_operations(&run).await? {
        let fork = format!("{id}-{operation}");
        let fork = run.clone().with_request_id(&*fork).fork(operation, fork.clone()).await?;
        ended.push(driven(runtime, &fork).await?);
    }
    Ok(json!(ended))
}

/// The operations of a run from the reservation of its last model call on, but for the settlement.
async fn last_operations(run: &RunHandle) -> Result<Vec<u64>, RuntimeError> {
    let journal = run.journal(0, 1000).await?;
    let mut reserved = Vec::new();
    for event in journal.iter().map(|it| &it.event) {
        let data: Value = event.data()?;
        if data["name"] == "reserve_of_subject" {
            reserved.extend(data["operation"].as_u64());
        }
    }
    // The model call follows.
    Ok(reserved.last().map(|last| vec![*last, last + 1]).unwrap_or_default())
}

/// Waits for the end of a run, and answers what it and its children ask. Returns its conversation, too.
async fn driven(runtime: &Runtime, run: &RunHandle) -> Result<Value, RuntimeError> {
    while !run.status().await?.status.is_final() {
        decide(runtime, run.clone()).await?;
        moment().await;
    }
    ended(run).await
}

/// The end of a run, with its conversation.
async fn ended(run: &RunHandle) -> Result<Value, RuntimeError> {
    let ended = end(run).await?;
    Ok(json!([ended, Conversation::of(run).await?.messages()]))
}

/// Answers what a run and its children ask.
async fn decide(runtime: &Runtime, run: RunHandle) -> Result<(), RuntimeError> {
    let mut runs = vec![run];
    while let Some(run) = runs.pop() {
        for pending in pending_decisions(&run.status().await?)? {
            let sender = run.clone().with_request_id(format!("{}-{}", run.id(), pending.signal));
            given(sender.signal(&pending.signal, &decision(&pending)).await)?;
        }
        for event in run.journal(0, 1000).await?.into_iter().map(|it| it.event) {
            if event.event_type.action() == "child_started" {
                let child: Value = event.data()?;
                runs.extend(runtime.handle(child["run_id"].as_str().unwrap()).await.ok());
            }
        }
    }
    Ok(())
}

/// The decision of a person about a call with these words.
fn decision(pending: &PendingDecision) -> Value {
    let arguments: Value = pending.arguments.decode().unwrap();
    let words = arguments["words"].as_str().unwrap_or_default();
    if pending.in_doubt.is_some() {
        return match words {
            "hanging fail" => json!(Resolution::Fail { reason: "it failed".to_owned() }),
            "hanging repeat" => json!(Resolution::Repeat),
            words => json!(Resolution::Done { result: did(&pending.tool, words) }),
        };
    }
    match words {
        "reject" => json!(Decision::Reject { reason: "no".to_owned() }),
        "edit" => json!(Decision::edit(&json!({ "words": "edited" })).unwrap()),
        _ => json!(Decision::Approve),
    }
}
