//! Turns of an agent over a language model that answers at once: one tool call in each.
//!
//! On SQLite, the ceiling of one run is a program that commits one row at a time: a turn may take at most
//! as long as two of its commits. With `AIOS_PEERS`, the same turns are measured in Pydantic-AI and in
//! LangGraph with its SQLite saver.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first error, prints, and measures real time"
)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aios_agents::prelude::*;
use aios_benches::{
    figure, median, micros_each, peers, ratio,
    sqlite::{Bare, Place, connect, open},
    step,
};
use aios_broker::memory::MemoryBroker;
use aios_core::store::{Append, Store, StreamId};
use aios_llm::{
    LlmAgent, ModelRequest, ModelResponse, RuntimeBuilderExt,
    model::{Capabilities, LanguageModel, Message, ModelStream, Part, Role, StreamEvent},
    tool::Tool,
};
use aios_store::memory::MemoryStore;
use futures_util::stream;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::task::JoinSet;

/// Turns of a run, each of which has one tool call.
const TURNS: usize = 20;
/// Runs one after the other.
const RUNS: usize = 20;
/// Runs at the same time.
const AT_ONCE: usize = 200;
const ROUNDS: usize = 5;

#[derive(Deserialize, JsonSchema)]
struct Query {
    /// Number of the turn.
    number: usize,
}

async fn look(query: Query) -> Result<usize, TaskError> {
    Ok(query.number)
}

/// Calls the tool in each turn, and then ends.
struct Model;

#[async_trait::async_trait]
impl LanguageModel for Model {
    fn name(&self) -> &str {
        "bench:model"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::all()
    }

    async fn complete(
        &self,
        request: &ModelRequest,
    ) -> Result<ModelResponse, aios_llm::ModelError> {
        let is_response = |message: &&Message| message.role == Role::Assistant;
        let turn = request.messages.iter().filter(is_response).count();
        if turn == TURNS {
            return Ok(ModelResponse::text("done"));
        }
        let number = serde_json::json!({ "number": turn });
        Ok(ModelResponse::new(vec![Part::tool_call(turn.to_string(), "look", &number)]))
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, aios_llm::ModelError> {
        let response = self.complete(request).await?;
        Ok(Box::pin(stream::iter([Ok(StreamEvent::Finished(response))])))
    }
}

async fn runtime(store: Arc<dyn Store>) -> Arc<Runtime> {
    let agent = LlmAgent::new(Model)
        .tool(Tool::read("look", "Looks.", look))
        .max_turns(1 + u32::try_from(TURNS).unwrap());
    let builder = Runtime::builder().store(store).broker(Arc::new(MemoryBroker::new()));
    Arc::new(builder.llm_agent("agent", agent).unwrap().start().await.unwrap())
}

/// How long a turn takes, in microseconds, if this many callers start runs one after the other.
async fn turn(store: Arc<dyn Store>, callers: usize, runs: usize) -> f64 {
    let runtime = runtime(store).await;
    let begin = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..callers {
        let runtime = Arc::clone(&runtime);
        running.spawn(async move {
            for _ in 0..runs {
                let run = runtime.start("agent", "go").await.unwrap();
                run.result::<String>().await.unwrap();
            }
        });
    }
    running.join_all().await;
    let elapsed = begin.elapsed();
    Arc::into_inner(runtime).unwrap().shutdown(Duration::from_secs(5)).await.unwrap();
    micros_each(elapsed, callers * runs * TURNS)
}

async fn turn_on_sqlite(callers: usize, runs: usize) -> f64 {
    let place = Place::new();
    let store = open(&place.path).await;
    turn(Arc::new(store), callers, runs).await
}

/// How long one of these commits takes a hand-written writer, in microseconds.
fn commit(rows: usize) -> f64 {
    let place = Place::new();
    let connection = connect(&place.path);
    let mut bare = Bare::new(&connection);
    let stream = StreamId::of_run("run").unwrap();
    let events: Vec<_> =
        (0..rows).map(|row| Append::new(stream.clone(), vec![step(row)])).collect();
    let begin = Instant::now();
    for row in events.chunks(1) {
        bare.transaction(row);
    }
    micros_each(begin.elapsed(), rows)
}

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (mut memory, mut one, mut many, mut bare) = (vec![], vec![], vec![], vec![]);
    let (mut pydantic_ai, mut langgraph) = (vec![], vec![]);
    let peers = peers::python();
    for _ in 0..ROUNDS {
        memory.push(runtime.block_on(turn(Arc::new(MemoryStore::new()), 1, RUNS)));
        bare.push(commit(RUNS * TURNS));
        one.push(runtime.block_on(turn_on_sqlite(1, RUNS)));
        many.push(runtime.block_on(turn_on_sqlite(AT_ONCE, 1)));
        if let Some(python) = &peers {
            let arguments = [TURNS.to_string(), RUNS.to_string()];
            pydantic_ai.push(peers::measure(python, "pydantic_ai_turns.py", &arguments));
            langgraph.push(peers::measure(python, "langgraph_turns.py", &arguments));
        }
    }
    let (memory, one, many) = (median(&mut memory), median(&mut one), median(&mut many));
    figure("llm_turn/memory", memory, "us");
    figure("llm_turn/sqlite", one, "us");
    figure("llm_turn/sqlite", one / median(&mut bare), "commits");
    figure("llm_turn/sqlite/200_runs", many, "us");
    if peers.is_some() {
        ratio("llm_turn/memory/beside_pydantic_ai", memory, median(&mut pydantic_ai), "us");
        let langgraph = median(&mut langgraph);
        ratio("llm_turn/sqlite/beside_langgraph", one, langgraph, "us");
        ratio("llm_turn/sqlite/200_runs/beside_langgraph", many, langgraph, "us");
    }
}
