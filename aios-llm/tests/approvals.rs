use std::sync::Arc;

use aios_llm::{
    LlmAgent, ModelResponse, RuntimeBuilderExt,
    model::Part,
    tool::{Approval, Decision, Resolution},
};
use serde_json::json;

use crate::support::{
    builder, in_time, one_pending, pending, runtime, scripted, search_call, search_tool, start,
    store, text,
};

fn agent(model: &Arc<aios_llm::testing::ScriptedModel>) -> LlmAgent {
    LlmAgent::new(Arc::clone(model)).tool(search_tool().with_approval(Approval::Required))
}

/// The text that the model gets after a decision, and whether it is an error.
async fn tool_result(decision: &Decision) -> (String, bool) {
    let model = scripted([search_call("rust"), text("done")]);
    let runtime = runtime(agent(&model)).await;
    let run = start(&runtime).await;
    let pending = one_pending(&run).await;
    assert_eq!((pending.tool.as_str(), &pending.arguments), ("search", &json!({"words": "rust"})));
    run.signal(&pending.signal, decision).await.unwrap();
    in_time(run.result::<String>()).await.unwrap();
    match &model.requests()[1].messages[2].content[0] {
        Part::ToolResult(result) => (result.content.clone(), result.is_error),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn should_run_a_call_as_a_person_decides() {
    assert_eq!(tool_result(&Decision::Approve).await, ("found rust".to_owned(), false));
    let (reason, is_error) =
        tool_result(&Decision::Reject { reason: "too vague".to_owned() }).await;
    assert!(is_error && reason.contains("too vague"));
    let edit = Decision::Edit { arguments: json!({"words": "rust 2024"}) };
    assert_eq!(tool_result(&edit).await, ("found rust 2024".to_owned(), false));
}

#[tokio::test]
async fn should_ask_again_after_a_decision_that_does_not_fit() {
    let model = scripted([search_call("rust"), text("done")]);
    let runtime = runtime(agent(&model)).await;
    let run = start(&runtime).await;
    let signal = one_pending(&run).await.signal;
    run.signal(&signal, &json!("yes")).await.unwrap();
    pending(&run, |pending| pending.iter().any(|it| it.refused.is_some())).await;
    run.signal(&signal, &Decision::Edit { arguments: json!({"words": 7}) }).await.unwrap();
    let names_path =
        |refused: &Option<String>| refused.as_ref().is_some_and(|it| it.contains("/words"));
    pending(&run, |pending| pending.iter().any(|it| names_path(&it.refused))).await;
    run.signal(&signal, &Decision::Approve).await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
}

#[tokio::test]
async fn should_wait_for_all_decisions_of_a_response() {
    let both = ModelResponse::new(vec![
        Part::tool_call("a", "search", &json!({"words": "one"})),
        Part::tool_call("b", "search", &json!({"words": "two"})),
    ]);
    let model = scripted([both, text("done")]);
    let runtime = runtime(agent(&model)).await;
    let run = start(&runtime).await;
    for decision in pending(&run, |pending| pending.len() == 2).await.iter().rev() {
        run.signal(&decision.signal, &Decision::Approve).await.unwrap();
    }
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
}

#[tokio::test]
async fn should_keep_waiting_for_a_decision_after_a_restart() {
    let (store, model) = (store(), scripted([search_call("rust"), text("done")]));
    let first = builder(&store).llm_agent("agent", agent(&model)).unwrap().start().await.unwrap();
    let run = first.start("agent", "go").await.unwrap();
    let (id, signal) = (run.id().to_owned(), one_pending(&run).await.signal);
    first.shutdown(crate::support::PATIENCE).await.unwrap();

    let second = builder(&store).llm_agent("agent", agent(&model)).unwrap().start().await.unwrap();
    let run = second.handle(&id).await.unwrap();
    run.signal(&signal, &Decision::Approve).await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    assert_eq!(model.requests().len(), 2, "nothing was requested again");
}

#[test]
fn should_read_decisions_as_people_write_them() {
    let reject: Decision =
        serde_json::from_value(json!({"decision": "reject", "reason": "no"})).unwrap();
    assert_eq!(reject, Decision::Reject { reason: "no".to_owned() });
    let repeat: Resolution = serde_json::from_value(json!({"resolution": "repeat"})).unwrap();
    assert_eq!(repeat, Resolution::Repeat);
}
