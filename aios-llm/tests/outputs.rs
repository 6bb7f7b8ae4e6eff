use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use aios_agents::{RunHandle, prelude::*};
use aios_llm::{
    Conversation, EndStrategy, LlmAgent, ModelResponse, RuntimeBuilderExt,
    guardrail::Verdict,
    model::{Capabilities, FinishReason, Message, Part, ToolCall},
    testing::{SchemaModel, ScriptedModel},
    tool::{Approval, Decision, Tool},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::support::{
    Query, builder, call, failure, in_time, one_pending, runtime, scripted, search, search_tool,
    start, store, text,
};

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Report {
    title: String,
    pages: u32,
}

fn report() -> Report {
    Report { title: "Rust".to_owned(), pages: 3 }
}

#[tokio::test]
async fn should_let_the_model_repair_its_output() {
    let model = scripted([
        text("Here it is: Rust"),
        text(r#"{"title":"Rust","pages":-1}"#),
        text(r#"{"title":"Rust","pages":3}"#),
    ]);
    let runtime = runtime(LlmAgent::new(Arc::clone(&model)).output::<Report>()).await;
    let result = in_time(start(&runtime).await.result::<Report>()).await.unwrap();
    assert_eq!(result, report());
    let requests = model.requests();
    assert!(requests[0].output.is_some());
    assert!(requests[2].messages.last().unwrap().text().contains("/pages"));
}

#[tokio::test]
async fn should_fail_when_the_output_stays_invalid() {
    let model = scripted([text("no"), text("no"), text("no")]);
    let agent = LlmAgent::new(Arc::clone(&model)).output::<Report>().max_faults(2);
    let failure = failure(&start(&runtime(agent).await).await).await;
    assert_eq!(failure.code, "MODEL_FAULTS");
    model.assert_finished();
}

#[tokio::test]
async fn should_take_output_from_a_tool_call() {
    let tools_only = Capabilities::none().with_tools(true);
    let model = ScriptedModel::new([
        text("I am done."),
        call("a", "final_result", &json!({"title": "Rust"})),
        call("b", "final_result", &json!({"title": "Rust", "pages": 3})),
    ]);
    let model = Arc::new(model.with_capabilities(tools_only));
    let runtime = runtime(LlmAgent::new(Arc::clone(&model)).output::<Report>()).await;
    let result = in_time(start(&runtime).await.result::<Report>()).await.unwrap();
    assert_eq!(result, report());
    model.assert_finished();
}

#[tokio::test]
async fn should_take_output_from_a_model_without_tools() {
    let answer = text("```json\n{\"title\":\"Rust\",\"pages\":3}\n```");
    let model = ScriptedModel::new([answer]).with_capabilities(Capabilities::none());
    let runtime = runtime(LlmAgent::new(model).output::<Report>()).await;
    let result = in_time(start(&runtime).await.result::<Report>()).await.unwrap();
    assert_eq!(result, report());
}

#[tokio::test]
async fn should_generate_valid_output_from_the_schema() {
    let agent = LlmAgent::new(SchemaModel::new()).tool(search_tool()).output::<Vec<Report>>();
    let runtime = runtime(agent).await;
    let result = in_time(start(&runtime).await.result::<Vec<Report>>()).await.unwrap();
    assert_eq!(result, []);
}

#[tokio::test]
async fn should_not_take_an_answer_that_is_cut_off() {
    let cut = text("Rust is a").with_finish_reason(FinishReason::Length);
    let runtime = runtime(LlmAgent::new(scripted([cut, text("Rust.")]))).await;
    assert_eq!(in_time(start(&runtime).await.result::<String>()).await.unwrap(), "Rust.");
}

/// The provider has ended the response for a reason that says nothing about its completeness.
#[tokio::test]
async fn should_not_take_an_answer_that_may_be_incomplete() {
    let other = || FinishReason::Other("pause_turn".to_owned());
    let model = scripted([text("Rust is a").with_finish_reason(other()), text("Rust.")]);
    let runtime = runtime(LlmAgent::new(Arc::clone(&model))).await;
    assert_eq!(in_time(start(&runtime).await.result::<String>()).await.unwrap(), "Rust.");
    assert!(model.requests()[1].messages[2].text().contains("pause_turn"));

    let cut = call("c", "final_result", &json!({"title": "A rep", "pages": 3}));
    let whole = call("d", "final_result", &json!({"title": "A report", "pages": 3}));
    let model = ScriptedModel::new([cut.with_finish_reason(other()), whole]);
    let model = model.with_capabilities(Capabilities::none().with_tools(true));
    let runtime = crate::support::runtime(LlmAgent::new(model).output::<Report>()).await;
    let report: Report = in_time(start(&runtime).await.result()).await.unwrap();
    assert_eq!(report.title, "A report");
}

#[tokio::test]
async fn should_not_take_a_result_that_is_cut_off() {
    let cut = call("c", "final_result", &json!({"title": "A rep", "pages": 3}));
    let cut = cut.with_finish_reason(FinishReason::Length);
    let whole = call("d", "final_result", &json!({"title": "A report", "pages": 3}));
    let model =
        ScriptedModel::new([cut, whole]).with_capabilities(Capabilities::none().with_tools(true));
    let runtime = runtime(LlmAgent::new(model).output::<Report>()).await;
    let report: Report = in_time(start(&runtime).await.result()).await.unwrap();
    assert_eq!(report.title, "A report");
}

/// A response with these calls, of which `final_result` has a valid result.
fn beside_a_result(calls: &[(&str, serde_json::Value)]) -> ModelResponse {
    let result = Part::tool_call("r", "final_result", &json!({"title": "Rust", "pages": 3}));
    let calls = calls
        .iter()
        .enumerate()
        .map(|(index, (tool, arguments))| Part::tool_call(index.to_string(), *tool, arguments));
    ModelResponse::new(std::iter::once(result).chain(calls).collect())
}

/// An agent that takes its result from a call, has a `write` tool that counts its calls, and fails
/// those that say so.
fn publisher(
    responses: impl IntoIterator<Item = ModelResponse>,
    published: &Arc<AtomicUsize>,
) -> (Arc<ScriptedModel>, LlmAgent<Report>) {
    let tools_only = Capabilities::none().with_tools(true);
    let model = Arc::new(ScriptedModel::new(responses).with_capabilities(tools_only));
    let published = Arc::clone(published);
    let publish = move |query: Query| {
        published.fetch_add(1, Ordering::SeqCst);
        async move {
            match query.words.as_str() {
                "bad" => Err(TaskError::terminal(Failure::new("TOO_BAD", "it is bad"))),
                words => Ok(format!("published {words}")),
            }
        }
    };
    let agent = LlmAgent::new(Arc::clone(&model))
        .tool(Tool::write("publish", "Publishes.", publish))
        .tool(search_tool())
        .write_log(store())
        .output::<Report>();
    (model, agent)
}

/// The results of the calls of a conversation's last response.
async fn results(run: &RunHandle) -> Vec<(String, bool)> {
    let conversation = Conversation::of(run).await.unwrap();
    contents(&conversation.results().unwrap())
}

fn contents(message: &Message) -> Vec<(String, bool)> {
    let results = message.content.iter().filter_map(|part| match part {
        Part::ToolResult(result) => Some((result.content.clone(), result.is_error)),
        _ => None,
    });
    results.collect()
}

#[tokio::test]
async fn should_run_the_calls_beside_a_result() {
    let published = Arc::default();
    let response = beside_a_result(&[
        ("publish", json!({"words": "a"})),
        ("search", json!({"words": "b"})),
        ("final_result", json!({"title": "other", "pages": 1})),
    ]);
    let (model, agent) = publisher([response], &published);
    let runtime = runtime(agent).await;
    let run = start(&runtime).await;
    assert_eq!(in_time(run.result::<Report>()).await.unwrap(), report());
    assert_eq!(published.load(Ordering::SeqCst), 1, "the call was not dropped");
    model.assert_finished();
    let seen = results(&run).await;
    assert_eq!(seen[0], ("The result was taken.".to_owned(), false));
    assert_eq!(seen[1], ("published a".to_owned(), false));
    assert_eq!(seen[2], ("found b".to_owned(), false));
    assert!(seen[3].1 && seen[3].0.contains("did not run"), "{seen:?}");
}

#[tokio::test]
async fn should_ask_for_the_result_again_if_a_call_beside_it_failed() {
    for arguments in [json!({"words": "bad"}), json!({"words": 7})] {
        let published = Arc::default();
        let again = call("s", "final_result", &json!({"title": "Failed", "pages": 0}));
        let first = beside_a_result(&[("publish", arguments), ("search", json!({"words": "b"}))]);
        let (model, agent) = publisher([first, again], &published);
        let runtime = runtime(agent).await;
        let run = start(&runtime).await;
        let result: Report = in_time(run.result()).await.unwrap();
        assert_eq!(result.title, "Failed", "the model knew what had failed");
        let seen = contents(model.requests()[1].messages.last().unwrap());
        assert!(seen[0].1 && seen[0].0.contains("not taken"), "{seen:?}");
        assert!(seen[1].1, "{seen:?}");
        assert_eq!(seen[2], ("found b".to_owned(), false));
    }
}

#[tokio::test]
async fn should_run_no_call_beside_a_result_that_ends_the_run_early() {
    let published = Arc::default();
    let response = beside_a_result(&[("publish", json!({"words": "a"})), ("invented", json!({}))]);
    let (model, agent) = publisher([response], &published);
    let runtime = runtime(agent.end_strategy(EndStrategy::Early)).await;
    let run = start(&runtime).await;
    assert_eq!(in_time(run.result::<Report>()).await.unwrap(), report());
    assert_eq!(published.load(Ordering::SeqCst), 0);
    model.assert_finished();
    let seen = results(&run).await;
    assert_eq!(seen[0], ("The result was taken.".to_owned(), false));
    assert!(seen[1..].iter().all(|it| it.1 && it.0.contains("did not run")), "{seen:?}");
}

#[tokio::test]
async fn should_decide_about_calls_beside_a_result_before_it_is_taken() {
    let published = Arc::default();
    let again = call("s", "final_result", &json!({"title": "Rejected", "pages": 0}));
    let first = beside_a_result(&[("delete", json!({"words": "a"}))]);
    let (model, agent) = publisher([first, again], &published);
    let delete = Tool::read("delete", "Deletes.", search).with_approval(Approval::Required);
    let runtime = runtime(agent.tool(delete)).await;
    let run = start(&runtime).await;
    let pending = one_pending(&run).await;
    let reject = Decision::Reject { reason: "keep it".to_owned() };
    run.signal(&pending.signal, &reject).await.unwrap();
    assert_eq!(in_time(run.result::<Report>()).await.unwrap().title, "Rejected");
    let seen = contents(model.requests()[1].messages.last().unwrap());
    assert!(seen[1].1 && seen[1].0.contains("keep it"), "{seen:?}");
}

#[tokio::test]
async fn should_tell_a_later_run_which_result_was_not_taken() {
    let wrong = call("c", "final_result", &json!({"title": "Rust"}));
    let (_, agent) = publisher([wrong], &Arc::default());
    let runtime = runtime(agent.max_faults(0)).await;
    let run = start(&runtime).await;
    assert_eq!(failure(&run).await.code, "MODEL_FAULTS");
    let seen = results(&run).await;
    assert!(seen[0].1 && seen[0].0.contains("pages"), "{seen:?}");
}

/// Numbers of more than 64 bits.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Large {
    amount: u128,
}

const LARGE: u128 = (1 << 70) + 1;

#[tokio::test]
async fn should_round_no_number_of_an_output() {
    let written = format!(r#"{{"amount":{LARGE}}}"#);
    let mut models = vec![ScriptedModel::new([text(&written)])];
    let call = Part::ToolCall(ToolCall {
        id: "a".to_owned(),
        name: "final_result".to_owned(),
        arguments: written.clone(),
    });
    let tools_only = Capabilities::none().with_tools(true);
    let response = ModelResponse::new(vec![call]);
    models.push(ScriptedModel::new([response]).with_capabilities(tools_only));
    for model in models {
        let runtime = runtime(LlmAgent::new(model).output::<Large>()).await;
        let result = in_time(start(&runtime).await.result::<Large>()).await.unwrap();
        assert_eq!(result, Large { amount: LARGE });
    }
}

#[tokio::test]
async fn should_round_no_number_of_an_output_that_is_not_an_object() {
    let written = text(&format!(r#"{{"result":[{LARGE}]}}"#));
    let runtime = runtime(LlmAgent::new(scripted([written])).output::<Vec<u128>>()).await;
    let result = in_time(start(&runtime).await.result::<Vec<u128>>()).await.unwrap();
    assert_eq!(result, [LARGE]);
}

#[tokio::test]
async fn should_round_no_number_of_an_output_that_a_calling_agent_or_a_guardrail_gets() {
    use aios_core::event::Payload;
    use aios_llm::guardrail::{Guardrail, Verdict};

    let exact = Guardrail::output("exact", |output: Payload| async move {
        let is_exact = output.decode::<Large>()?.amount == LARGE;
        Ok::<_, TaskError>(if is_exact { Verdict::Pass } else { Verdict::trip("it is rounded") })
    });
    let written = format!(r#"{{"amount":{LARGE}}}"#);
    let called = LlmAgent::new(scripted([text(&written)])).output::<Large>().guardrail(exact);
    let tool = Tool::agent("pay", "Pays.", "payer");
    let model = scripted([call("a", "pay", &json!({"task": "pay"})), text("done")]);
    let agent = LlmAgent::new(Arc::clone(&model)).tool(tool);
    let builder = builder(&store()).llm_agent("payer", called).unwrap();
    let runtime = builder.llm_agent("agent", agent).unwrap().start().await.unwrap();
    in_time(start(&runtime).await.result::<String>()).await.unwrap();
    let messages = &model.requests()[1].messages;
    assert!(format!("{messages:?}").contains(&LARGE.to_string()), "{messages:?}");
}

/// A check that accepts a report of at most three pages, and counts how often it runs.
fn short(agent: LlmAgent<Report>, checks: &Arc<AtomicUsize>) -> LlmAgent<Report> {
    let checks = Arc::clone(checks);
    agent.output_check(move |output| {
        checks.fetch_add(1, Ordering::SeqCst);
        async move {
            let Report { pages, .. } = output.decode()?;
            Ok::<_, TaskError>(match pages {
                0..=3 => Verdict::Pass,
                pages => Verdict::trip(format!("{pages} pages are too many")),
            })
        }
    })
}

const MODES: [Capabilities; 3] =
    [Capabilities::all(), Capabilities::none(), Capabilities::none().with_tools(true)];

/// Output with this number of pages, as a model with these capabilities returns it.
fn pages(capabilities: Capabilities, pages: u32) -> ModelResponse {
    let report = json!({"title": "Rust", "pages": pages});
    match capabilities.tools && !capabilities.native_output {
        true => call("c", "final_result", &report),
        false => text(&report.to_string()),
    }
}

#[tokio::test]
async fn should_let_the_model_repair_output_that_its_check_does_not_accept() {
    for capabilities in MODES {
        let checks = Arc::new(AtomicUsize::new(0));
        let responses = [4, 9, 3].map(|count| pages(capabilities, count));
        let model = Arc::new(ScriptedModel::new(responses).with_capabilities(capabilities));
        let agent = LlmAgent::new(Arc::clone(&model)).output::<Report>();
        let runtime = runtime(short(agent, &checks)).await;
        let run = start(&runtime).await;
        assert_eq!(in_time(run.result::<Report>()).await.unwrap(), report());
        assert_eq!(checks.load(Ordering::SeqCst), 3);
        let told = format!("{:?}", model.requests()[2].messages.last().unwrap());
        assert!(told.contains("9 pages are too many"), "{told}");
    }
}

#[tokio::test]
async fn should_fail_when_the_check_of_the_output_never_accepts_it() {
    for capabilities in MODES {
        let checks = Arc::new(AtomicUsize::new(0));
        let responses = (0..3).map(|_| pages(capabilities, 4));
        let model = Arc::new(ScriptedModel::new(responses).with_capabilities(capabilities));
        let agent = LlmAgent::new(Arc::clone(&model)).output::<Report>().max_faults(2);
        let failure = failure(&start(&runtime(short(agent, &checks)).await).await).await;
        assert_eq!(failure.code, "MODEL_FAULTS");
        assert!(failure.message.contains("4 pages are too many"), "{failure}");
        model.assert_finished();
    }
}

/// The verdict is recorded: a replay does not check again.
#[tokio::test]
async fn should_check_an_output_once_whatever_is_restarted() {
    let (store, checks) = (store(), Arc::new(AtomicUsize::new(0)));
    let tools_only = Capabilities::none().with_tools(true);
    let both = ModelResponse::new(vec![
        Part::tool_call("r", "final_result", &json!({"title": "Rust", "pages": 3})),
        Part::tool_call("s", "search", &json!({"words": "rust"})),
    ]);
    let model = Arc::new(ScriptedModel::new([both]).with_capabilities(tools_only));
    let agent = || {
        let tool = search_tool().with_approval(Approval::Required);
        short(LlmAgent::new(Arc::clone(&model)).tool(tool).output::<Report>(), &checks)
    };
    let first = builder(&store).llm_agent("agent", agent()).unwrap().start().await.unwrap();
    let run = start(&first).await;
    let (id, signal) = (run.id().to_owned(), one_pending(&run).await.signal);
    first.shutdown(crate::support::PATIENCE).await.unwrap();
    let second = builder(&store).llm_agent("agent", agent()).unwrap().start().await.unwrap();
    let run = second.handle(&id).await.unwrap();
    run.signal(&signal, &Decision::Approve).await.unwrap();
    assert_eq!(in_time(run.result::<Report>()).await.unwrap(), report());
    assert_eq!(checks.load(Ordering::SeqCst), 1);
}
