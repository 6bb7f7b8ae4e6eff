//! Conversations that another agent continues.

use std::sync::Arc;

use aios_agents::Runtime;
use aios_llm::{
    Conversation, LlmAgent, LlmAgentError, ModelResponse, Prompt,
    budget::{Budget, Spent},
    model::{Part, Usage},
    testing::ScriptedModel,
};
use serde_json::json;

use crate::support::{
    call, failure, in_time, runtime, scripted, search_call, search_tool, start, text,
};

fn hand_over() -> ModelResponse {
    call("h", "handover_to_billing", &json!({"reason": "an invoice"}))
}

fn triage(model: &Arc<ScriptedModel>, billing: &Arc<ScriptedModel>) -> LlmAgent {
    let billing = LlmAgent::new(Arc::clone(billing))
        .instructions("Explain invoices.")
        .tool(search_tool())
        .hand_back("Returns to the first agent.");
    LlmAgent::new(Arc::clone(model)).instructions("Find out what it is about.").handover(
        "billing",
        "Questions about invoices.",
        billing,
    )
}

fn tools(model: &ScriptedModel, request: usize) -> Vec<String> {
    model.requests()[request].tools.iter().map(|tool| tool.name.clone()).collect()
}

#[tokio::test]
async fn should_continue_the_conversation_with_another_agent() {
    let (model, billing) = (scripted([hand_over()]), scripted([search_call("A7"), text("paid")]));
    let runtime = runtime(triage(&model, &billing).budget(Budget::new().with_requests(3))).await;
    let run = start(&runtime).await;
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "paid");
    assert_eq!(tools(&model, 0), ["handover_to_billing"]);
    assert_eq!(tools(&billing, 0), ["search", "hand_back"]);
    let requests = billing.requests();
    assert_eq!(requests[0].instructions.as_deref(), Some("Explain invoices."));
    assert_eq!(requests[0].messages[0].text(), "go");
    let Part::ToolResult(result) = &requests[0].messages[2].content[0] else { panic!() };
    assert_eq!(result.content, "The conversation continues with agent_billing.");
    // One run, one account, one conversation.
    let conversation = Conversation::of(&run).await.unwrap();
    assert_eq!(conversation.turns().len(), 3);
    let expected =
        Spent { requests: 3, usage: Usage::new(30, 15), tool_calls: 1, ..Spent::default() };
    assert_eq!(conversation.spent(), &expected);
}

#[tokio::test]
async fn should_hand_a_conversation_back() {
    let back = call("b", "hand_back", &json!({"reason": "it is paid"}));
    let model = scripted([hand_over(), text("anything else?")]);
    let runtime = runtime(triage(&model, &scripted([back]))).await;
    assert_eq!(in_time(start(&runtime).await.result::<String>()).await.unwrap(), "anything else?");
    let request = model.requests().pop().unwrap();
    assert_eq!(request.instructions.as_deref(), Some("Find out what it is about."));
    assert_eq!(request.messages.len(), 5, "it has the part of the other agent");
}

#[tokio::test]
async fn should_run_the_other_calls_of_a_response_and_hand_over_once() {
    let calls = ["billing", "billing", "search"].map(|name| {
        let name = if name == "billing" { "handover_to_billing" } else { name };
        Part::tool_call(name, name, &json!({"reason": "r", "words": "w"}))
    });
    let model = scripted([ModelResponse::new(calls.to_vec())]);
    let billing = scripted([text("done")]);
    let runtime = runtime(triage(&model, &billing).tool(search_tool())).await;
    in_time(start(&runtime).await.result::<String>()).await.unwrap();
    let results: Vec<_> = billing.requests()[0].messages[2]
        .content
        .iter()
        .map(|part| match part {
            Part::ToolResult(result) => (result.is_error, result.content.clone()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(results.iter().map(|it| it.0).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(results[2].1, "found w");
}

#[tokio::test]
async fn should_know_no_agent_that_was_not_named() {
    let model = scripted([call("h", "handover_to_sales", &json!({})), hand_over()]);
    // The other agent has no one to hand over to.
    let billing = scripted([hand_over()]);
    let runtime = runtime(triage(&model, &billing).max_faults(1)).await;
    let failure = failure(&start(&runtime).await).await;
    assert_eq!(failure.code, "MODEL_UNEXPECTED_REQUEST", "the model gets the fault: {failure}");
}

#[test]
fn should_refuse_agents_that_cannot_take_over() {
    let other = || LlmAgent::new(scripted([]));
    let structured = other().output::<crate::support::Query>();
    let error = other().handover("b", "", structured).build("agent").unwrap_err();
    assert!(matches!(error, LlmAgentError::InvalidOutput { .. }), "{error}");
    let twice = other().handover("b", "", other()).handover("b", "", other());
    assert!(matches!(twice.build("agent"), Err(LlmAgentError::InvalidTool { .. })));
    let long = other().handover("b".repeat(80), "", other()).build("agent");
    assert!(matches!(long, Err(LlmAgentError::InvalidTool { .. })));
}

#[tokio::test]
async fn should_allow_as_many_faults_as_the_first_agent() {
    let unknown = || call("u", "unknown", &json!({}));
    for (first, second, is_done) in [(2, 0, true), (0, 2, false)] {
        let billing = LlmAgent::new(scripted([unknown(), unknown(), text("paid")]));
        let billing = billing.max_faults(second);
        let agent = LlmAgent::new(scripted([hand_over()])).max_faults(first);
        let runtime = runtime(agent.handover("billing", "Invoices.", billing)).await;
        let run = start(&runtime).await;
        if is_done {
            assert_eq!(in_time(run.result::<String>()).await.unwrap(), "paid");
        } else {
            assert_eq!(failure(&run).await.code, "MODEL_FAULTS");
        }
    }
}

#[tokio::test]
async fn should_not_hand_over_with_invalid_arguments() {
    let long = json!({"reason": "r".repeat(100)});
    for (arguments, fault) in [(json!({}), "/reason: is missing"), (long, "at most 50")] {
        let model = scripted([call("h", "handover_to_billing", &arguments), hand_over()]);
        let billing = scripted([text("paid")]);
        let agent = triage(&model, &billing).max_argument_bytes(50);
        let runtime = runtime(agent).await;
        assert_eq!(in_time(start(&runtime).await.result::<String>()).await.unwrap(), "paid");
        let Part::ToolResult(result) = &model.requests()[1].messages[2].content[0] else {
            panic!()
        };
        assert!(result.is_error && result.content.contains(fault), "{}", result.content);
    }
}

/// Two agents that pass a conversation to and fro.
#[tokio::test]
async fn should_refuse_a_handover_that_is_repeated_too_often() {
    let back = || call("b", "hand_back", &json!({"reason": "not mine"}));
    let model = scripted([hand_over(), hand_over(), hand_over(), hand_over(), text("enough")]);
    let billing = scripted([back(), back(), back()]);
    let runtime = runtime(triage(&model, &billing)).await;
    assert_eq!(in_time(start(&runtime).await.result::<String>()).await.unwrap(), "enough");
}

/// A run that was handed over in turn 1, whose second agent has searched in turn 2 and answered in
/// turn 3, and the runtime, whose models have answers left.
async fn handed_over() -> (Runtime, Conversation, Arc<ScriptedModel>, Arc<ScriptedModel>) {
    let model = scripted([hand_over(), text("reception")]);
    let answers = ["paid", "billing", "billing"].map(text);
    let billing = scripted([search_call("A7")].into_iter().chain(answers));
    let runtime = runtime(triage(&model, &billing)).await;
    let run = start(&runtime).await;
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "paid");
    let conversation = Conversation::of(&run).await.unwrap();
    (runtime, conversation, model, billing)
}

#[tokio::test]
async fn should_continue_with_the_agent_that_has_the_conversation() {
    let (runtime, conversation, model, billing) = handed_over().await;
    let next = runtime.start("agent", &conversation.continued("And the last one?")).await.unwrap();
    assert_eq!(in_time(next.result::<String>()).await.unwrap(), "billing");
    assert_eq!(model.requests().len(), 1);
    assert_eq!(tools(&billing, 2), ["search", "hand_back"]);
    assert_eq!(billing.requests()[2].instructions.as_deref(), Some("Explain invoices."));
    // The agent that continues it is still known in the run after that.
    let again = Conversation::of(&next).await.unwrap().continued("And that one?");
    let again = runtime.start("agent", &again).await.unwrap();
    assert_eq!(in_time(again.result::<String>()).await.unwrap(), "billing");
}

#[tokio::test]
async fn should_begin_again_at_a_turn_with_the_agent_of_that_turn() {
    let (runtime, conversation, model, billing) = handed_over().await;
    for (turn, answer) in [(1, "reception"), (2, "billing"), (3, "billing")] {
        let prompt = conversation.from_turn(turn).unwrap().with_instructions("Be kind.");
        let run = runtime.start("agent", &prompt).await.unwrap();
        assert_eq!(in_time(run.result::<String>()).await.unwrap(), answer, "turn {turn}");
        let asked = if answer == "billing" { &billing } else { &model };
        let request = asked.requests().pop().unwrap();
        assert_eq!(request.instructions.as_deref(), Some("Be kind."), "turn {turn}");
    }
}

#[tokio::test]
async fn should_continue_with_the_first_agent_after_the_conversation_was_handed_back() {
    let back = call("b", "hand_back", &json!({"reason": "it is paid"}));
    let model = scripted([hand_over(), text("anything else?"), text("bye")]);
    let runtime = runtime(triage(&model, &scripted([back]))).await;
    let run =
        runtime.start("agent", &Prompt::new("go").with_instructions("Be kind.")).await.unwrap();
    in_time(run.result::<String>()).await.unwrap();
    let prompt = Conversation::of(&run).await.unwrap().continued("no");
    let next = runtime.start("agent", &prompt).await.unwrap();
    assert_eq!(in_time(next.result::<String>()).await.unwrap(), "bye");
    let request = model.requests().pop().unwrap();
    assert_eq!(request.instructions.as_deref(), Some("Be kind."));
}

/// Instructions of a prompt are for the agent with which its run begins.
#[tokio::test]
async fn should_not_give_the_instructions_of_a_prompt_to_another_agent() {
    let back = call("b", "hand_back", &json!({"reason": "it is paid"}));
    let model = scripted([hand_over(), text("done"), hand_over()]);
    let billing = scripted([text("paid"), back, text("paid"), text("paid")]);
    let runtime = runtime(triage(&model, &billing)).await;
    let run =
        runtime.start("agent", &Prompt::new("go").with_instructions("Be kind.")).await.unwrap();
    in_time(run.result::<String>()).await.unwrap();
    // It continues with billing, whose instructions were not replaced.
    let prompt = Conversation::of(&run).await.unwrap().continued("and?");
    let other = prompt.clone().with_instructions("Be short.");
    let run = runtime.start("agent", &other).await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    assert_eq!(billing.requests()[1].instructions.as_deref(), Some("Be short."));
    let first = model.requests()[1].instructions.clone();
    assert_eq!(first.as_deref(), Some("Find out what it is about."));
    let run = runtime.start("agent", &prompt).await.unwrap();
    in_time(run.result::<String>()).await.unwrap();
    assert_eq!(billing.requests()[2].instructions.as_deref(), Some("Explain invoices."));
}

/// The agent may be gone since: another version has no such handover.
#[tokio::test]
async fn should_not_continue_with_an_agent_that_does_not_exist() {
    let (_, conversation, ..) = handed_over().await;
    let model = scripted([]);
    let runtime = runtime(LlmAgent::new(Arc::clone(&model))).await;
    let run = runtime.start("agent", &conversation.continued("And the last one?")).await.unwrap();
    let failure = failure(&run).await;
    assert_eq!(failure.code, "INVALID_PARAMETERS");
    assert!(failure.message.contains("billing"), "{failure}");
}
