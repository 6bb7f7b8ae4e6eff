//! A team of agents over language models researches a question, and a person approves the report.
//!
//!     cargo run --bin research-team                     offline, on a provider on this machine
//!     AIOS_LLM_BASE_URL=https://api.openai.com/v1 AIOS_LLM_API_KEY=… cargo run --bin research-team
//!
//! A planner divides the question, searchers work on the parts in parallel with a tool, and a writer
//! publishes a report, which has to be approved, and says what it has published. Every model call and
//! every tool call is recorded: stop the program anywhere and start it again, and it resumes without
//! repeating a recorded call.
#![allow(clippy::print_stdout, reason = "a program talks to its user")]
#![allow(clippy::disallowed_methods, reason = "a program reads its environment and the time")]
#![allow(clippy::indexing_slicing, reason = "indexing JSON gives null for what is missing")]

use std::{env, error::Error, sync::Arc, time::Duration};

use aios_agents::prelude::*;
use aios_llm::{
    LlmAgent, ModelError, ModelResponse, RuntimeBuilderExt,
    budget::Budget,
    model::{Part, Usage},
    pending_decisions,
    providers::{OpenAiModel, ProviderOptions},
    testing::{FakeProvider, FakeReply, FakeRequest},
    tool::{Approval, Decision, Tool},
};
use futures_util::future::try_join_all;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Id of the writer's run.
const WRITER: &str = "databases-writer";

/// The library that the tool searches.
const LIBRARY: [(&str, &str); 2] = [
    (
        "sqlite",
        "SQLite is a database in one file. Its WAL mode lets readers and a writer work at once.",
    ),
    ("postgres", "PostgreSQL is a database server. It replicates its log to standbys."),
];

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Plan {
    /// The parts of the question, each researched alone.
    topics: Vec<String>,
}

#[derive(Deserialize, JsonSchema)]
struct Query {
    /// One word.
    word: String,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Report {
    title: String,
    text: String,
}

/// The output of the writer.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Published {
    title: String,
    file: String,
}

async fn search(query: Query) -> Result<String, TaskError> {
    let word = query.word.to_lowercase();
    let found = LIBRARY.iter().find(|(name, _)| *name == word).map(|(_, page)| *page);
    Ok(found.unwrap_or("nothing found").to_owned())
}

async fn publish(report: Report) -> Result<String, TaskError> {
    std::fs::write("report.md", format!("# {}\n\n{}\n", report.title, report.text))?;
    Ok("published as report.md".to_owned())
}

async fn research(context: WorkflowContext, question: String) -> Result<Published, WorkflowError> {
    let plan: Plan = context.child("planner", &question).await?;
    let searches = plan.topics.iter().map(|topic| context.child::<String>("searcher", topic));
    let findings = try_join_all(searches).await?.join("\n");
    let task = format!("{question}\n\nFindings:\n{findings}");
    context.child("writer", &task).id(WRITER).await
}

/// Approves what the writer wants to publish, as a person would after reading it.
async fn approve(runtime: &Runtime) -> Result<(), Box<dyn Error>> {
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let Ok(writer) = runtime.handle(WRITER).await else { continue };
        if let Some(pending) = pending_decisions(&writer.status().await?)?.pop() {
            let arguments: serde_json::Value = pending.arguments.decode()?;
            println!("approved: {} {}", pending.tool, arguments["title"]);
            writer.signal(&pending.signal, &Decision::Approve).await?;
            return Ok(());
        }
    }
}

/// The model that the environment names, or that of the provider on this machine.
fn model(provider: &FakeProvider) -> Result<OpenAiModel, ModelError> {
    let options = match (env::var("AIOS_LLM_BASE_URL"), env::var("AIOS_LLM_API_KEY")) {
        (Ok(url), Ok(key)) => {
            let model = env::var("AIOS_LLM_MODEL").unwrap_or_else(|_| "gpt-5-mini".to_owned());
            ProviderOptions::new(model).with_base_url(url).with_api_key(key)
        }
        _ => ProviderOptions::new("offline").with_base_url(provider.openai_url()),
    };
    OpenAiModel::new(options)
}

/// The provider on this machine: it answers as a model would.
fn respond(request: &FakeRequest) -> FakeReply {
    let messages = &request.body["messages"];
    let instructions = messages[0]["content"].as_str().unwrap_or_default();
    let last = messages.as_array().and_then(|all| all.last()).unwrap_or(&messages[0]);
    let asked = last["content"][0]["text"].as_str().unwrap_or_default();
    let result = last["content"].as_str().filter(|_| last["role"] == "tool");
    let response = match (instructions.split(' ').next(), result) {
        (Some("Divide"), _) => {
            ModelResponse::text(json!({"topics": ["SQLite", "Postgres"]}).to_string())
        }
        (Some("Search"), None) => call("search", &json!({"word": asked})),
        (Some("Write"), None) => {
            let text = asked.split("Findings:\n").last().unwrap_or_default();
            call("publish", &json!({"title": "Two databases", "text": text}))
        }
        (Some("Write"), Some(result)) => {
            let file = result.split(' ').next_back();
            // Beside tools, a server that is not of OpenAI is asked for output as a call.
            call("final_result", &json!({"title": "Two databases", "file": file}))
        }
        (_, result) => ModelResponse::text(result.unwrap_or("done")),
    };
    FakeReply::response(response.with_usage(Usage::new(200, 40)))
}

fn call(tool: &str, arguments: &serde_json::Value) -> ModelResponse {
    ModelResponse::new(vec![Part::tool_call("call_1", tool, arguments)])
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let provider = FakeProvider::respond_with(respond).await?;
    let store = aios_store::connect("sqlite://research.db").await?;
    let budget = || Budget::new().with_requests(10).with_output_tokens(20_000);
    let planner = LlmAgent::new(model(&provider)?)
        .instructions("Divide the question into topics of one word.")
        .output::<Plan>()
        .budget(budget());
    let searcher = LlmAgent::new(model(&provider)?)
        .instructions("Search for the topic and summarise what you find in one sentence.")
        .tool(Tool::read("search", "Searches the library for a word.", search))
        .budget(budget());
    let publish = Tool::write("publish", "Publishes the report.", publish);
    let writer = LlmAgent::new(model(&provider)?)
        .instructions("Write a report from the findings, publish it and say what you published.")
        .tool(publish.with_approval(Approval::Required))
        .write_log(Arc::clone(&store))
        .output::<Published>()
        .budget(budget());
    let runtime = Runtime::builder()
        .store(store)
        .broker(aios_broker::connect("memory://").await?)
        .llm_agent("planner", planner)?
        .llm_agent("searcher", searcher)?
        .llm_agent("writer", writer)?
        .workflow("research", research)
        .start()
        .await?;

    let question = "How do SQLite and PostgreSQL differ?";
    let run = runtime.start("research", question).id("databases").await?;
    let published = tokio::select! {
        result = run.result::<Published>() => result?,
        approved = approve(&runtime) => {
            approved?;
            run.result().await?
        }
    };
    println!("published {:?} as {}", published.title, published.file);
    // A second start of this program makes no request.
    println!("{} requests", provider.requests().len());
    runtime.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
