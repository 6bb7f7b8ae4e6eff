use std::{sync::Arc, time::Duration};

use aios_agents::prelude::*;
use aios_core::event::Event;
use aios_llm::{
    LlmAgent, ModelError, ModelResponse, RuntimeBuilderExt,
    model::{FinishReason, ModelErrorKind, Part, Role, Usage},
    testing::{Recorded, ScriptedModel},
};
use serde_json::json;

use crate::support::{
    builder, failure, in_time, runtime, scripted, search_call, search_tool, start, store, text,
};

fn fast() -> RetryPolicy {
    RetryPolicy::fixed(3, Duration::from_millis(1))
}

#[tokio::test]
async fn should_answer_with_the_results_of_tools() {
    let model = scripted([search_call("rust"), text("Rust is a language.")]);
    let agent = LlmAgent::new(Arc::clone(&model)).instructions("Be brief.").tool(search_tool());
    let runtime = runtime(agent).await;
    let run = start(&runtime).await;
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "Rust is a language.");
    model.assert_finished();
    let requests = model.requests();
    assert_eq!(requests[0].instructions.as_deref(), Some("Be brief."));
    assert_eq!(requests[0].tools[0].name, "search");
    let roles: Vec<_> = requests[1].messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::Tool]);
    let Part::ToolResult(result) = &requests[1].messages[2].content[0] else { panic!() };
    assert_eq!((result.content.as_str(), result.is_error), ("found rust", false));
}

#[tokio::test]
async fn should_run_the_calls_of_one_response_and_keep_their_order() {
    let both = ModelResponse::new(vec![
        Part::tool_call("a", "search", &json!({"words": "one"})),
        Part::tool_call("b", "search", &json!({"words": "two"})),
    ]);
    let model = scripted([both, text("done")]);
    let runtime = runtime(LlmAgent::new(Arc::clone(&model)).tool(search_tool())).await;
    in_time(start(&runtime).await.result::<String>()).await.unwrap();
    let results: Vec<_> = model.requests()[1].messages[2]
        .content
        .iter()
        .map(|part| match part {
            Part::ToolResult(result) => (result.call_id.clone(), result.content.clone()),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [("a", "found one"), ("b", "found two")];
    assert_eq!(results, expected.map(|(id, text)| (id.to_owned(), text.to_owned())));
}

#[tokio::test]
async fn should_repeat_retryable_requests_and_respect_retry_after() {
    let busy = ModelError::new(ModelErrorKind::RateLimited, "slow down")
        .with_retry_after(Duration::from_millis(5));
    let model = Arc::new(ScriptedModel::with_results([Err(busy), Ok(text("done"))]));
    let runtime = runtime(LlmAgent::new(Arc::clone(&model)).model_retry(fast())).await;
    let run = start(&runtime).await;
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    let journal = run.journal(0, 1000).await.unwrap();
    let timers = journal.iter().filter(|it| it.event.event_type.action() == "timer_started");
    assert_eq!(timers.count(), 1);
    let assigned = journal.iter().filter(|it| it.event.event_type.action() == "task_assigned");
    assert_eq!(assigned.count(), 2, "each request is an operation");
}

#[tokio::test]
async fn should_fail_with_the_code_of_the_model() {
    let denied = || ModelError::new(ModelErrorKind::Unauthorized, "bad key");
    let model = Arc::new(ScriptedModel::with_results([Err(denied())]));
    let runtime = runtime(LlmAgent::new(Arc::clone(&model)).model_retry(fast())).await;
    assert_eq!(failure(&start(&runtime).await).await.code, "MODEL_UNAUTHORIZED");
    assert_eq!(model.requests().len(), 1, "it is not retryable");
}

#[tokio::test]
async fn should_give_up_after_the_last_attempt() {
    let busy = || Err(ModelError::new(ModelErrorKind::Overloaded, "busy"));
    let model = Arc::new(ScriptedModel::with_results([busy(), busy(), busy()]));
    let runtime = runtime(LlmAgent::new(Arc::clone(&model)).model_retry(fast())).await;
    assert_eq!(failure(&start(&runtime).await).await.code, "MODEL_OVERLOADED");
    model.assert_finished();
}

#[tokio::test]
async fn should_fail_when_the_model_refuses() {
    let refusal = text("I can't help with that.").with_finish_reason(FinishReason::Refusal);
    let runtime = runtime(LlmAgent::new(scripted([refusal]))).await;
    let failure = failure(&start(&runtime).await).await;
    assert_eq!(failure.code, "MODEL_REFUSED");
    assert!(failure.message.contains("I can't help"));
}

#[tokio::test]
async fn should_end_loops_at_the_turn_limit() {
    let responses = (0..5).map(|turn| search_call(&format!("page {turn}")));
    let agent = LlmAgent::new(scripted(responses)).tool(search_tool()).max_turns(5);
    assert_eq!(failure(&start(&runtime(agent).await).await).await.code, "TURN_LIMIT");
}

#[tokio::test]
async fn should_make_no_request_in_a_replay() {
    let model = scripted([search_call("rust"), text("done")]);
    let agent = || LlmAgent::new(Arc::clone(&model)).tool(search_tool());
    let built = agent().build("agent").unwrap();
    let runtime = runtime(agent()).await;
    let run = start(&runtime).await;
    in_time(run.result::<String>()).await.unwrap();
    let journal: Vec<Event> =
        run.journal(0, 1000).await.unwrap().into_iter().map(|it| it.event).collect();
    aios_agents::testing::replay(built.workflow().unwrap(), &journal).await.unwrap();
    assert_eq!(model.requests().len(), 2);
}

#[tokio::test]
async fn should_answer_a_new_run_from_the_journal_of_another() {
    let first = runtime(
        LlmAgent::new(scripted([search_call("rust"), text("done").with_usage(Usage::new(7, 7))]))
            .tool(search_tool()),
    )
    .await;
    let run = start(&first).await;
    in_time(run.result::<String>()).await.unwrap();
    let journal: Vec<Event> =
        run.journal(0, 1000).await.unwrap().into_iter().map(|it| it.event).collect();

    let recorded = Recorded::from_journal(&journal).unwrap();
    let second = runtime(LlmAgent::new(recorded).tool(search_tool())).await;
    let same = start(&second).await;
    assert_eq!(in_time(same.result::<String>()).await.unwrap(), "done");
    let other = second.start("agent", "something else").await.unwrap();
    assert_eq!(failure(&other).await.code, "MODEL_UNEXPECTED_REQUEST");
}

#[tokio::test]
async fn should_run_an_agent_as_the_child_of_a_workflow() {
    async fn parent(context: WorkflowContext, topic: String) -> Result<String, WorkflowError> {
        context.child("agent", &topic).await
    }
    let runtime = builder(&store())
        .llm_agent("agent", LlmAgent::new(scripted([text("from the child")])))
        .unwrap()
        .workflow("parent", parent)
        .start()
        .await
        .unwrap();
    let run = runtime.start("parent", "anything").await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "from the child");
}

#[tokio::test]
async fn should_refuse_a_prompt_without_messages() {
    let runtime = runtime(LlmAgent::new(scripted([]))).await;
    for prompt in [json!({"messages": []}), json!(7)] {
        let run = runtime.start("agent", &prompt).await.unwrap();
        assert_eq!(failure(&run).await.code, "INVALID_PARAMETERS", "{prompt}");
    }
}
