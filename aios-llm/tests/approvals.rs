use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use aios_agents::prelude::*;
use aios_llm::{
    LlmAgent, ModelResponse, RuntimeBuilderExt,
    model::Part,
    pending_decisions,
    tool::{Approval, Decision, OnFailure, Resolution, Tool},
};
use serde_json::json;

use crate::support::{
    Query, builder, failure, in_time, one_pending, pending, runtime, scripted, search_call,
    search_tool, start, store, text,
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
    let arguments = pending.arguments.as_str();
    assert_eq!((pending.tool.as_str(), arguments), ("search", r#"{"words":"rust"}"#));
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
    let edit = Decision::edit(&json!({"words": "rust 2024"})).unwrap();
    let (result, is_error) = tool_result(&edit).await;
    assert!(!is_error && result.ends_with("found rust 2024"), "{result}");
    assert!(result.contains(r#"A person has changed the arguments"#), "{result}");
    assert!(result.contains(r#"{"words":"rust 2024"}"#), "{result}");
}

#[tokio::test]
async fn should_ask_again_after_a_decision_that_does_not_fit() {
    let model = scripted([search_call("rust"), text("done")]);
    let runtime = runtime(agent(&model)).await;
    let run = start(&runtime).await;
    let signal = one_pending(&run).await.signal;
    run.signal(&signal, &json!("yes")).await.unwrap();
    pending(&run, |pending| pending.iter().any(|it| it.refused.is_some())).await;
    run.signal(&signal, &Decision::edit(&json!({"words": 7})).unwrap()).await.unwrap();
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

/// A call of a run that fails needs no decision.
#[tokio::test]
async fn should_not_wait_for_a_person_once_another_call_has_ended_the_run() {
    let calls = vec![
        Part::tool_call("a", "publish", &json!({"words": "x"})),
        Part::tool_call("b", "check", &json!({"task": "x"})),
    ];
    let published = Arc::new(AtomicBool::new(false));
    let ran = Arc::clone(&published);
    let publish = Tool::write("publish", "Publishes.", move |_: Query| {
        ran.store(true, Ordering::SeqCst);
        async { Ok::<_, TaskError>("published") }
    });
    let check = Tool::agent("check", "Checks.", "checker").with_on_failure(OnFailure::Fail);
    let store = store();
    let agent = LlmAgent::new(scripted([ModelResponse::new(calls)]))
        .tool(publish.with_approval(Approval::Required))
        .tool(check)
        .write_log(Arc::clone(&store));
    let checker = LlmAgent::new(scripted([]));
    let builder = builder(&store).llm_agent("agent", agent).unwrap();
    let runtime = builder.llm_agent("checker", checker).unwrap().start().await.unwrap();
    let run = start(&runtime).await;
    assert_eq!(failure(&run).await.code, "MODEL_UNEXPECTED_REQUEST");
    assert!(!published.load(Ordering::SeqCst));
    assert!(pending_decisions(&run.status().await.unwrap()).unwrap().is_empty());
    let journal = run.journal(0, 1000).await.unwrap();
    let refused = journal.iter().any(|it| it.event.event_type.as_str() == "llm.tool.refused");
    assert!(refused, "the journal says why the call did not run");
}

#[tokio::test]
async fn should_refuse_edited_arguments_that_are_too_large() {
    let model = scripted([search_call("rust"), text("done")]);
    let runtime = runtime(agent(&model).max_argument_bytes(50)).await;
    let run = start(&runtime).await;
    let signal = one_pending(&run).await.signal;
    let edit = Decision::edit(&json!({"words": "w".repeat(100)})).unwrap();
    run.signal(&signal, &edit).await.unwrap();
    let names_limit =
        |refused: &Option<String>| refused.as_ref().is_some_and(|it| it.contains("at most 50"));
    pending(&run, |pending| pending.iter().any(|it| names_limit(&it.refused))).await;
    run.signal(&signal, &Decision::Approve).await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
}

/// Text that its schema accepts, and its type may not.
#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Address {
    #[schemars(with = "String")]
    host: std::net::Ipv4Addr,
}

#[tokio::test]
async fn should_refuse_edited_arguments_that_the_type_does_not_accept() {
    let call = crate::support::call("c", "ping", &json!({"host": "192.0.2.1"}));
    let model = scripted([call, text("done")]);
    let ping = |address: Address| async move { Ok::<_, TaskError>(address.host.to_string()) };
    let tool = Tool::read("ping", "Pings.", ping).with_approval(Approval::Required);
    let runtime = runtime(LlmAgent::new(Arc::clone(&model)).tool(tool)).await;
    let run = start(&runtime).await;
    let signal = one_pending(&run).await.signal;
    run.signal(&signal, &Decision::edit(&json!({"host": "here"})).unwrap()).await.unwrap();
    pending(&run, |pending| {
        pending.iter().any(|it| it.refused.as_ref().is_some_and(|it| it.contains("host")))
    })
    .await;
    let edit = Decision::edit(&json!({"host": "192.0.2.2"})).unwrap();
    run.signal(&signal, &edit).await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    let Part::ToolResult(result) = &model.requests()[1].messages[2].content[0] else { panic!() };
    assert!(!result.is_error && result.content.contains("192.0.2.2"), "{}", result.content);
    let journal = run.journal(0, 1000).await.unwrap();
    let asked = journal.iter().filter(|it| it.event.event_type.action() == "approval_requested");
    assert_eq!(asked.count(), 1);
}

/// The results of the calls of a run's last response, as a conversation that continues it has them.
async fn transcript(run: &aios_agents::RunHandle) -> String {
    format!("{:?}", aios_llm::Conversation::of(run).await.unwrap().results())
}

/// The model learns of an edit after a restart, too, and so does a conversation that continues the run.
#[tokio::test]
async fn should_tell_the_model_of_an_edit_whatever_is_restarted() {
    let failing = |_: Query| async {
        Err::<String, _>(TaskError::terminal(Failure::new("NO_INDEX", "no index")))
    };
    for fails in [false, true] {
        let store = store();
        let both = ModelResponse::new(vec![
            Part::tool_call("a", "search", &json!({"words": "one"})),
            Part::tool_call("b", "search", &json!({"words": "two"})),
        ]);
        let model = scripted([both, text("done")]);
        let tool = match fails {
            true => Tool::read("search", "Searches.", failing),
            false => search_tool(),
        };
        let tool = tool.with_approval(Approval::Required);
        let agent = || LlmAgent::new(Arc::clone(&model)).tool(tool.clone());
        let first = builder(&store).llm_agent("agent", agent()).unwrap().start().await.unwrap();
        let run = start(&first).await;
        let waiting = pending(&run, |pending| pending.len() == 2).await;
        let edit = Decision::edit(&json!({"words": "three"})).unwrap();
        run.signal(&waiting[0].signal, &edit).await.unwrap();
        pending(&run, |pending| pending.len() == 1).await;
        in_time(async {
            let is_end = |action: &str| ["task_completed", "task_failed"].contains(&action);
            let count = async || {
                let journal = run.journal(0, 1000).await.unwrap();
                journal.iter().filter(|it| is_end(it.event.event_type.action())).count()
            };
            // The model, the check of the arguments, and the call.
            while count().await < 3 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let results = transcript(&run).await;
        assert!(results.contains("changed the arguments") & results.contains("three"), "{results}");
        let id = run.id().to_owned();
        first.shutdown(crate::support::PATIENCE).await.unwrap();

        let second = builder(&store).llm_agent("agent", agent()).unwrap().start().await.unwrap();
        let run = second.handle(&id).await.unwrap();
        run.signal(&waiting[1].signal, &Decision::Approve).await.unwrap();
        assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
        let told: Vec<_> = model.requests()[1].messages[2]
            .content
            .iter()
            .map(|part| match part {
                Part::ToolResult(result) => (result.content.clone(), result.is_error),
                other => panic!("{other:?}"),
            })
            .collect();
        let [(edited, is_error), (other, _)] = &told[..] else { panic!("{told:?}") };
        assert!(edited.contains("changed the arguments") && *is_error == fails, "{edited}");
        assert!(!other.contains("changed the arguments"), "{other}");
        assert!(results.contains(&format!("{edited:?}")), "{results}");
    }
}

#[tokio::test]
async fn should_tell_the_model_of_an_edit_of_a_task_for_another_agent() {
    let ask = Tool::agent("ask", "Asks.", "searcher").with_approval(Approval::Required);
    let first = crate::support::call("c", "ask", &json!({"task": "find one"}));
    let (model, searcher) = (scripted([first, text("done")]), scripted([text("found")]));
    let agent = LlmAgent::new(Arc::clone(&model)).tool(ask);
    let builder = builder(&store()).llm_agent("agent", agent).unwrap();
    let builder = builder.llm_agent("searcher", LlmAgent::new(Arc::clone(&searcher))).unwrap();
    let runtime = builder.start().await.unwrap();
    let run = start(&runtime).await;
    let edit = Decision::edit(&json!({"task": "find two"})).unwrap();
    run.signal(&one_pending(&run).await.signal, &edit).await.unwrap();
    in_time(run.result::<String>()).await.unwrap();
    assert_eq!(searcher.requests()[0].messages[0].text(), "find two");
    let Part::ToolResult(result) = &model.requests()[1].messages[2].content[0] else { panic!() };
    assert!(result.content.contains("find two") && result.content.ends_with("found"));
}
