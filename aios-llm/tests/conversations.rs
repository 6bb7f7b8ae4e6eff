use std::sync::Arc;

use aios_llm::{Conversation, LlmAgent, model::Role};

use crate::support::{in_time, runtime, scripted, search_call, search_tool, start, text};

#[tokio::test]
async fn should_continue_a_conversation_in_another_run() {
    let model = scripted([text("Paris."), text("About two million.")]);
    let runtime = runtime(LlmAgent::new(Arc::clone(&model))).await;
    let first = runtime.start("agent", "Capital of France?").await.unwrap();
    in_time(first.result::<String>()).await.unwrap();
    let conversation = Conversation::of(&first).await.unwrap();
    let second = runtime.start("agent", &conversation.continued("How many people?")).await.unwrap();
    assert_eq!(in_time(second.result::<String>()).await.unwrap(), "About two million.");
    let texts: Vec<_> = model.requests()[1].messages.iter().map(|it| it.text()).collect();
    assert_eq!(texts, ["Capital of France?", "Paris.", "How many people?"]);
}

#[tokio::test]
async fn should_begin_again_at_a_turn_with_other_instructions() {
    let model = scripted([
        search_call("one"),
        search_call("two"),
        text("a long answer"),
        text("a short answer"),
    ]);
    let agent = LlmAgent::new(Arc::clone(&model)).instructions("Write much.").tool(search_tool());
    let runtime = runtime(agent).await;
    let run = start(&runtime).await;
    in_time(run.result::<String>()).await.unwrap();

    let conversation = Conversation::of(&run).await.unwrap();
    assert_eq!(conversation.turns().len(), 3);
    let prompt = conversation.from_turn(3).unwrap().with_instructions("Write little.");
    assert!(conversation.from_turn(4).is_none() && conversation.from_turn(0).is_none());
    let other = runtime.start("agent", &prompt).await.unwrap();
    assert_eq!(in_time(other.result::<String>()).await.unwrap(), "a short answer");
    let requests = model.requests();
    assert_eq!(requests.len(), 4, "turns 1 and 2 are not paid for again");
    assert_eq!(requests[3].instructions.as_deref(), Some("Write little."));
    let roles: Vec<_> = requests[3].messages.iter().map(|it| it.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::Tool, Role::Assistant, Role::Tool]);
}
