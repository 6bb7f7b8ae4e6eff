use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::prelude::*;
use aios_llm::{
    LlmAgent, LlmAgentError, ModelResponse,
    model::{FinishReason, Part, ToolCall, ToolResult},
    testing::{FunctionModel, ScriptedModel},
    tool::{Effect, Tool, ToolContext},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::support::{
    Query, call, failure, in_time, runtime, scripted, search, search_call, search_tool, start, text,
};

/// The result of the only call of the first response.
fn first_result(model: &ScriptedModel) -> ToolResult {
    match &model.requests()[1].messages[2].content[0] {
        Part::ToolResult(result) => result.clone(),
        other => panic!("{other:?}"),
    }
}

/// Runs an agent whose model makes this call, and returns the result that the model gets.
async fn tool_result(tool: Tool, call: ModelResponse) -> ToolResult {
    let model = scripted([call, text("done")]);
    let runtime = runtime(LlmAgent::new(Arc::clone(&model)).tool(tool)).await;
    in_time(start(&runtime).await.result::<String>()).await.unwrap();
    first_result(&model)
}

fn raw_call(arguments: &str) -> ModelResponse {
    let (id, name) = ("c".to_owned(), "search".to_owned());
    ModelResponse::new(vec![Part::ToolCall(ToolCall { id, name, arguments: arguments.to_owned() })])
}

#[tokio::test]
async fn should_tell_the_model_about_invalid_arguments() {
    let deep = "[".repeat(10_000);
    let huge = json!({ "words": "x".repeat(300 * 1024) }).to_string();
    for (arguments, expected) in [
        (r#"{"words":7}"#, "/words"),
        ("{}", "/words: is missing"),
        ("", "/words: is missing"),
        ("{words", "not valid JSON"),
        (deep.as_str(), "not valid JSON"),
        (huge.as_str(), "at most 262144"),
    ] {
        let result = tool_result(search_tool(), raw_call(arguments)).await;
        assert!(result.is_error);
        assert!(result.content.contains(expected), "{} for {expected}", result.content);
    }
}

#[tokio::test]
async fn should_tell_the_model_about_unknown_tools() {
    let result = tool_result(search_tool(), call("c", "searching", &json!({}))).await;
    assert!(result.is_error && result.content.contains("The tools are: search"));
}

#[tokio::test]
async fn should_fail_when_faults_do_not_end() {
    let model = FunctionModel::new(|_| async { Ok(call("c", "unknown", &json!({}))) });
    let runtime = runtime(LlmAgent::new(model).tool(search_tool())).await;
    let failure = failure(&start(&runtime).await).await;
    assert_eq!(failure.code, "MODEL_FAULTS");
    assert!(failure.message.contains("4 faulty responses"), "{failure}");
}

#[tokio::test]
async fn should_not_repeat_identical_calls_without_end() {
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    let tool = Tool::read("search", "Searches.", move |query: Query| {
        counted.fetch_add(1, Ordering::SeqCst);
        search(query)
    });
    let model = FunctionModel::new(|_| async { Ok(search_call("the same")) });
    let runtime = runtime(LlmAgent::new(model).tool(tool)).await;
    let failure = failure(&start(&runtime).await).await;
    assert_eq!(failure.code, "MODEL_FAULTS");
    assert!(failure.message.contains("same arguments"), "{failure}");
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn should_tell_the_model_about_errors_panics_timeouts_and_large_results() {
    let once = || RetryPolicy::never();
    let tool = |run: fn() -> Result<String, TaskError>| {
        Tool::read("search", "Searches.", move |_: Query| async move { run() }).with_retry(once())
    };
    let fails = tool(|| Err(TaskError::terminal(Failure::new("NO_INDEX", "no index"))));
    let panics = tool(|| panic!("broken"));
    let hangs = Tool::read("search", "Searches.", |_: Query| {
        std::future::pending::<Result<String, TaskError>>()
    });
    let hangs = hangs.with_retry(once()).with_timeout(Duration::from_millis(20));
    let floods = tool(|| Ok("x".repeat(50 * 1024 * 1024)));
    for (tool, expected) in [
        (fails, "no index (NO_INDEX)"),
        (panics, "AGENT_PANICKED"),
        (hangs, "TASK_TIMEOUT"),
        (floods, "TOOL_RESULT_TOO_LARGE"),
    ] {
        let result = tool_result(tool, search_call("rust")).await;
        assert!(result.is_error);
        assert!(result.content.contains(expected), "{} for {expected}", result.content);
    }
}

/// A tool may use any code, also that of a run or an agent that it looks for itself.
#[tokio::test]
async fn should_not_take_the_code_of_a_tool_for_one_of_the_engine() {
    for code in [
        "RUN_CANCELLED",
        "AGENT_NOT_FOUND",
        "TASK_UNCLAIMED",
        "TOOL_NOT_FOUND",
        "INVALID_OPTIONS",
        "INVALID_LLM_AGENT",
    ] {
        let tool = Tool::read("search", "Searches.", move |_: Query| async move {
            Err::<String, _>(TaskError::terminal(Failure::new(code, "it is gone")))
        });
        let result = tool_result(tool, search_call("rust")).await;
        assert_eq!((result.content, result.is_error), (format!("it is gone ({code})"), true));
    }
}

#[tokio::test]
async fn should_retry_a_tool_with_the_same_key() {
    let keys = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&keys);
    let flaky = move |context: ToolContext, _: Query| {
        seen.lock().unwrap().push(context.idempotency_key().to_owned());
        async move {
            match context.attempt() {
                1 => Err(std::io::Error::other("try later")),
                _ => Ok(json!({"pages": 3})),
            }
        }
    };
    let tool = Tool::with_context("search", "Searches.", Effect::Idempotent, flaky)
        .with_retry(RetryPolicy::fixed(2, Duration::from_millis(1)));
    let result = tool_result(tool, search_call("rust")).await;
    assert_eq!(result.content, r#"{"pages":3}"#);
    let keys = keys.lock().unwrap();
    assert_eq!((keys.len(), &keys[0]), (2, &keys[1]));
}

#[test]
fn should_refuse_invalid_agents() {
    let agent = || LlmAgent::new(ScriptedModel::new([]));
    let named = |name: &str| Tool::read(name, "Searches.", search);
    let reason = |agent: LlmAgent| agent.build("agent").unwrap_err().to_string();
    assert!(reason(agent().tool(named(""))).contains("1 to 64"));
    assert!(reason(agent().tool(named("no spaces"))).contains("1 to 64"));
    assert!(reason(agent().tool(named("final_result"))).contains("reserved"));
    assert!(reason(agent().tool(named("a")).tool(named("a"))).contains("used twice"));
    assert!(reason(agent().tool(named("a").with_timeout(Duration::ZERO))).contains("timeout"));
    assert!(reason(agent().max_turns(0)).contains("max_turns"));
    assert!(reason(agent().model_timeout(Duration::ZERO)).contains("model_timeout"));
    let writes = agent().tool(Tool::write("pay", "Pays.", search)).build("agent").unwrap_err();
    assert_eq!(writes, LlmAgentError::NoWriteLog { tool: "pay".to_owned() });
    assert_eq!(agent().build("No").unwrap_err().code(), "INVALID_NAME");
    assert_eq!(agent().build(&"a".repeat(95)).unwrap_err().code(), "INVALID_NAME");
}

/// Providers reject such requests, however often they are made.
#[test]
fn should_refuse_tools_whose_arguments_are_no_plain_object() {
    let build = |parameters: serde_json::Value| {
        let run = |_, _| async { Ok(Payload::encode("found")?) };
        let tool = Tool::from_schema("search", "Searches.", Effect::Read, parameters, run);
        LlmAgent::new(ScriptedModel::new([])).tool(tool).build("agent")
    };
    let object = json!({"type": "object"});
    for parameters in [
        json!({"type": "null"}),
        json!({}),
        json!({"oneOf": [object]}),
        json!({"type": "object", "oneOf": [object]}),
        json!({"type": "object", "allOf": [object]}),
    ] {
        let error = build(parameters.clone()).unwrap_err();
        assert!(matches!(error, LlmAgentError::InvalidTool { .. }), "{parameters}");
        assert!(error.to_string().contains("object"), "{error}");
    }
    build(object).unwrap();
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Nothing {}

#[tokio::test]
async fn should_send_a_list_of_properties_even_if_there_are_none() {
    let tool = Tool::read("now", "Tells the time.", async |_: Nothing| Ok::<_, TaskError>("noon"));
    let model = scripted([call("c", "now", &json!({})), text("done")]);
    let runtime = runtime(LlmAgent::new(Arc::clone(&model)).tool(tool)).await;
    assert_eq!(in_time(start(&runtime).await.result::<String>()).await.unwrap(), "done");
    assert_eq!(model.requests()[0].tools[0].parameters["properties"], json!({}));
}

#[tokio::test]
async fn should_not_run_a_call_that_was_cut_off() {
    let optional = json!({"type": "object", "properties": {"words": {"type": "string"}}});
    let ran = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&ran);
    let tool = Tool::from_schema("search", "Searches.", Effect::Read, optional, move |_, query| {
        seen.lock().unwrap().push(query.decode::<serde_json::Value>().unwrap());
        async { Ok(Payload::encode("found")?) }
    });
    // The first call is whole. Nothing of the arguments of the second one has arrived.
    let whole = Part::tool_call("a", "search", &json!({"words": "whole"}));
    let (id, name) = ("b".to_owned(), "search".to_owned());
    let cut = Part::ToolCall(ToolCall { id, name, arguments: String::new() });
    let response = ModelResponse::new(vec![whole, cut]).with_finish_reason(FinishReason::Length);
    let model = scripted([response, text("done")]);
    let runtime = runtime(LlmAgent::new(Arc::clone(&model)).tool(tool)).await;
    in_time(start(&runtime).await.result::<String>()).await.unwrap();
    assert_eq!(*ran.lock().unwrap(), [json!({"words": "whole"})]);
    let results = &model.requests()[1].messages[2].content;
    let Part::ToolResult(result) = &results[1] else { panic!("{results:?}") };
    assert!(result.is_error && result.content.contains("cut off"), "{}", result.content);
}

#[tokio::test]
async fn should_give_the_calls_of_a_response_ids_of_their_own() {
    let calls = ["", "x", "x", "", "x-2"]
        .iter()
        .enumerate()
        .map(|(number, id)| Part::tool_call(*id, "search", &json!({"words": number.to_string()})));
    let model = scripted([ModelResponse::new(calls.collect()), text("done")]);
    let runtime = runtime(LlmAgent::new(Arc::clone(&model)).tool(search_tool())).await;
    in_time(start(&runtime).await.result::<String>()).await.unwrap();
    let messages = &model.requests()[1].messages;
    let results = messages[2].content.iter().map(|part| match part {
        Part::ToolResult(result) => (result.call_id.as_str(), result.content.as_str()),
        other => panic!("{other:?}"),
    });
    let calls = messages[1].content.iter().map(|part| match part {
        Part::ToolCall(call) => call.id.as_str(),
        other => panic!("{other:?}"),
    });
    let expected = ["call", "x", "x-2", "call-2", "x-2-2"];
    assert_eq!(calls.collect::<Vec<_>>(), expected);
    let found: Vec<_> = (0..5).map(|number| format!("found {number}")).collect();
    let expected: Vec<_> = expected.into_iter().zip(found.iter().map(String::as_str)).collect();
    assert_eq!(results.collect::<Vec<_>>(), expected);
}

/// A number of more than 64 bits.
#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Large {
    amount: u128,
}

#[tokio::test]
async fn should_round_no_number_of_arguments_edits_and_results() {
    const FIRST: u128 = 1 << 70;
    let pay = |large: Large| async move { Ok::<_, TaskError>(Large { amount: large.amount + 1 }) };
    let tool = Tool::read("pay", "Pays.", pay).with_approval(aios_llm::tool::Approval::Required);
    let arguments = format!(r#"{{"amount":{FIRST}}}"#);
    let calls = ["a", "b"].map(|id| {
        let (id, name) = (id.to_owned(), "pay".to_owned());
        Part::ToolCall(ToolCall { id, name, arguments: arguments.clone() })
    });
    let model = scripted([ModelResponse::new(calls.to_vec()), text("done")]);
    let runtime = runtime(LlmAgent::new(Arc::clone(&model)).tool(tool)).await;
    let run = start(&runtime).await;
    let decisions = crate::support::pending(&run, |pending| pending.len() == 2).await;
    assert!(decisions.iter().all(|pending| pending.arguments.as_str() == arguments));
    run.signal(&decisions[0].signal, &aios_llm::tool::Decision::Approve).await.unwrap();
    let edit = aios_llm::tool::Decision::edit(&Large { amount: FIRST + 10 }).unwrap();
    run.signal(&decisions[1].signal, &edit).await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    let results = model.requests()[1].messages[2].content.clone();
    let results: Vec<_> = results
        .into_iter()
        .map(|part| match part {
            Part::ToolResult(result) => result.content,
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [FIRST + 1, FIRST + 11].map(|amount| format!(r#"{{"amount":{amount}}}"#));
    assert_eq!(results[0], expected[0]);
    assert!(results[1].ends_with(&expected[1]), "{results:?}");
    assert!(results[1].contains(&format!(r#"{{"amount":{}}}"#, FIRST + 10)), "{results:?}");
}
