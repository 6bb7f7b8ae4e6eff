//! The shape of an agent's journal, which is the same in every language.

use std::sync::Arc;

use aios_agents::{RunHandle, prelude::*};
use aios_llm::{
    LlmAgent, ModelResponse, RuntimeBuilderExt,
    budget::Budget,
    guardrail::{Guardrail, Verdict},
    model::{Message, Part},
    tool::{Approval, Decision, Tool},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::support::{
    Query, builder, call, in_time, one_pending, runtime, scripted, search_tool, start, store, text,
};

/// The journal of the same agent in Rust and in Python: the types of its events, and the keys of
/// their data.
const SHAPE: &str = include_str!("../../tests/fixtures/llm_journal.json");
/// The journal of an agent with a `write` tool that has to be approved.
const APPROVAL: &str = include_str!("../../tests/fixtures/llm_approval_journal.json");
/// The journal of an agent that calls another one and hands over to a third.
const TEAM: &str = include_str!("../../tests/fixtures/llm_team_journal.json");

#[derive(Serialize, Deserialize, JsonSchema)]
struct Report {
    title: String,
}

/// The type of each event of a journal, with the sorted keys of its data, and of the parameters and
/// output of tasks.
async fn shape(run: &RunHandle) -> Value {
    let keys = |value: &Value| match value {
        Value::Object(fields) => fields.keys().cloned().collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    let journal = run.journal(0, 1000).await.unwrap();
    let events = journal.iter().map(|recorded| {
        let data: Value = recorded.event.data().unwrap();
        json!([
            recorded.event.event_type.as_str(),
            keys(&data),
            keys(&data["parameters"]),
            keys(&data["output"]),
        ])
    });
    events.collect()
}

#[tokio::test]
async fn should_have_the_journal_that_other_languages_have() {
    let calls = ["a", "b"].map(|id| Part::tool_call(id, "search", &json!({"words": id})));
    let model = scripted([
        ModelResponse::new(calls.to_vec()),
        ModelResponse::text(r#"{"title": 7}"#),
        ModelResponse::text(r#"{"title": "done"}"#),
    ]);
    let agent = LlmAgent::new(model)
        .instructions("Search, then report.")
        .tool(search_tool())
        .output::<Report>()
        .budget(Budget::new().with_requests(9));
    let runtime = runtime(agent).await;
    let run = start(&runtime).await;
    let report: Report = in_time(run.result()).await.unwrap();
    assert_eq!(report.title, "done");
    let shape = shape(&run).await;
    let expected: Value = serde_json::from_str(SHAPE).unwrap();
    assert_eq!(shape, expected, "{shape:#}");
}

#[tokio::test]
async fn should_have_the_journal_of_an_approval_that_other_languages_have() {
    let call = Part::tool_call("a", "pay", &json!({"words": "a"}));
    let model = scripted([ModelResponse::new(vec![call]), ModelResponse::text("done")]);
    let store = store();
    let pay = |query: Query| async move { Ok::<_, TaskError>(format!("paid {}", query.words)) };
    let agent = LlmAgent::new(model)
        .tool(Tool::write("pay", "Pays.", pay).with_approval(Approval::Required))
        .write_log(Arc::clone(&store));
    let runtime = builder(&store).llm_agent("agent", agent).unwrap().start().await.unwrap();
    let run = start(&runtime).await;
    let pending = one_pending(&run).await;
    run.signal(&pending.signal, &Decision::Approve).await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    let shape = shape(&run).await;
    let expected: Value = serde_json::from_str(APPROVAL).unwrap();
    assert_eq!(shape, expected, "{shape:#}");
}

#[tokio::test]
async fn should_have_the_journal_of_a_team_that_other_languages_have() {
    let model = scripted([
        call("a", "ask", &json!({"task": "find"})),
        call("b", "handover_to_billing", &json!({"reason": "an invoice"})),
    ]);
    let polite =
        Guardrail::input("polite", |_: Vec<Message>| async { Ok::<_, TaskError>(Verdict::Pass) });
    let agent = LlmAgent::new(model)
        .tool(Tool::agent("ask", "Asks the searcher.", "searcher"))
        .guardrail(polite)
        .handover("billing", "Bills.", LlmAgent::new(scripted([text("done")])))
        .budget(Budget::new().with_requests(9));
    let builder = builder(&store()).llm_agent("agent", agent).unwrap();
    let searcher = LlmAgent::new(scripted([text("found")]));
    let runtime = builder.llm_agent("searcher", searcher).unwrap().start().await.unwrap();
    let run = start(&runtime).await;
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    let shape = shape(&run).await;
    let expected: Value = serde_json::from_str(TEAM).unwrap();
    assert_eq!(shape, expected, "{shape:#}");
}
