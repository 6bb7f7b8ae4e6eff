//! Workflows that run several agents.

use aios_agents::prelude::*;
use aios_llm::{LlmAgent, RuntimeBuilderExt, team, tool::Approval};

use crate::support::{builder, in_time, scripted, search_call, search_tool, store, text};

async fn all(context: WorkflowContext, question: String) -> Result<Vec<String>, WorkflowError> {
    let agents = ["left", "right"].map(|agent| (agent, question.clone()));
    team::join(&context, agents).await.into_iter().collect()
}

async fn fastest(
    context: WorkflowContext,
    agents: Vec<String>,
) -> Result<(usize, String), WorkflowError> {
    team::race(&context, agents.into_iter().map(|agent| (agent, "go"))).await
}

async fn runtime() -> Runtime {
    let waits = LlmAgent::new(scripted([search_call("rust")]))
        .tool(search_tool().with_approval(Approval::Required));
    builder(&store())
        .workflow("all", all)
        .workflow("fastest", fastest)
        .llm_agent("left", LlmAgent::new(scripted([text("l"), text("l")])))
        .unwrap()
        .llm_agent("right", LlmAgent::new(scripted([text("r")])))
        .unwrap()
        .llm_agent("waits", waits)
        .unwrap()
        .llm_agent("fails", LlmAgent::new(scripted([text("")])).max_faults(0))
        .unwrap()
        .start()
        .await
        .unwrap()
}

#[tokio::test]
async fn should_join_and_race_agents() {
    let runtime = runtime().await;
    let run = runtime.start("all", &"go".to_owned()).await.unwrap();
    assert_eq!(in_time(run.result::<Vec<String>>()).await.unwrap(), ["l", "r"]);
    let run =
        runtime.start("fastest", &["waits", "fails", "left"].map(str::to_owned)).await.unwrap();
    assert_eq!(in_time(run.result::<(usize, String)>()).await.unwrap(), (2, "l".to_owned()));
    // The one that waits for a person is cancelled.
    let journal = run.journal(0, 1000).await.unwrap();
    let started = journal.iter().map(|recorded| &recorded.event);
    let started = started.filter(|event| event.event_type.action() == "child_started");
    let children: Vec<serde_json::Value> = started.map(|event| event.data().unwrap()).collect();
    assert_eq!(children[0]["workflow"], "waits");
    let waits = runtime.handle(children[0]["run_id"].as_str().unwrap()).await.unwrap();
    assert_eq!(in_time(waits.result::<String>()).await.unwrap_err().code(), "RUN_CANCELLED");
}

#[tokio::test]
async fn should_fail_a_race_without_a_winner() {
    let runtime = runtime().await;
    for (agents, code) in
        [(vec!["fails".to_owned()], "MODEL_FAULTS"), (vec![], "INVALID_PARAMETERS")]
    {
        let run = runtime.start("fastest", &agents).await.unwrap();
        assert_eq!(crate::support::failure(&run).await.code, code);
    }
}
