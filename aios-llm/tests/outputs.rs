use std::sync::Arc;

use aios_llm::{
    LlmAgent,
    model::{Capabilities, FinishReason},
    testing::{SchemaModel, ScriptedModel},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::support::{call, failure, in_time, runtime, scripted, search_tool, start, text};

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
