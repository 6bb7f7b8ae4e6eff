//! Turns of an agent over a language model that answers at once: one tool call in each.
//!
//! On SQLite, the ceiling is a program that commits one row at a time: a turn may take at most as long
//! as two of its commits. The last part has as many agents that stream as readers.

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

use aios_agents::{output::OutputContent, prelude::*};
use aios_benches::{
    figure, median, micros_each,
    sqlite::{Bare, Place, connect, open},
    step,
};
use aios_broker::memory::MemoryBroker;
use aios_core::store::{Append, Store, StreamId};
use aios_llm::{
    AgentUpdate, LlmAgent, ModelRequest, ModelResponse, RuntimeBuilderExt, Streaming, TOKENS,
    model::{Capabilities, LanguageModel, ModelStream, Part, Role, StreamEvent},
    tool::Tool,
};
use aios_store::memory::MemoryStore;
use futures_util::{StreamExt, stream};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::task::JoinSet;

/// Turns of a run, each of which has one tool call.
const TURNS: usize = 200;
const ROUNDS: usize = 5;
/// Agents that stream at the same time, each to one reader.
const STREAMS: usize = 1000;
/// Tokens of each, and the time between two.
const TOKENS_EACH: usize = 1000;
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Deserialize, JsonSchema)]
struct Query {
    /// Number of the turn.
    number: usize,
}

async fn look(query: Query) -> Result<usize, TaskError> {
    Ok(query.number)
}

/// Calls the tool in each turn, and then ends. As a stream, it writes a token at a time.
struct Model;

fn respond(request: &ModelRequest) -> ModelResponse {
    let turn = request.messages.iter().filter(|message| message.role == Role::Assistant).count();
    if turn == TURNS {
        return ModelResponse::text("done");
    }
    let number = serde_json::json!({ "number": turn });
    ModelResponse::new(vec![Part::tool_call(turn.to_string(), "look", &number)])
}

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
        Ok(respond(request))
    }

    async fn stream(&self, _: &ModelRequest) -> Result<ModelStream, aios_llm::ModelError> {
        let tokens = stream::iter(0..TOKENS_EACH).then(|_| async {
            tokio::time::sleep(PAUSE).await;
            Ok(StreamEvent::Text("token ".to_owned()))
        });
        let end = StreamEvent::Finished(ModelResponse::text("token ".repeat(TOKENS_EACH)));
        Ok(Box::pin(tokens.chain(stream::iter([Ok(end)]))))
    }
}

async fn runtime(store: Arc<dyn Store>, streaming: Streaming) -> Runtime {
    let agent = LlmAgent::new(Model)
        .tool(Tool::read("look", "Looks.", look))
        .max_turns(1 + u32::try_from(TURNS).unwrap())
        .streaming(streaming);
    let builder = Runtime::builder().store(store).broker(Arc::new(MemoryBroker::new()));
    builder.llm_agent("agent", agent).unwrap().start().await.unwrap()
}

/// How long the turns of one run take.
async fn turns(store: Arc<dyn Store>) -> Duration {
    let runtime = runtime(store, Streaming::Off).await;
    let begin = Instant::now();
    let run = runtime.start("agent", "go").await.unwrap();
    run.result::<String>().await.unwrap();
    let elapsed = begin.elapsed();
    runtime.shutdown(Duration::from_secs(5)).await.unwrap();
    elapsed
}

/// How long a hand-written writer takes for one commit for each of these rows.
fn commits(rows: usize) -> Duration {
    let place = Place::new();
    let connection = connect(&place.path);
    let mut bare = Bare::new(&connection);
    let stream = StreamId::of_run("run").unwrap();
    let rows: Vec<_> = (0..rows).map(|row| Append::new(stream.clone(), vec![step(row)])).collect();
    let begin = Instant::now();
    for row in rows.chunks(1) {
        bare.transaction(row);
    }
    begin.elapsed()
}

/// The delays of the readers, in milliseconds: how much later than its run each of them ends.
async fn streams() -> (f64, f64) {
    let runtime = Arc::new(runtime(Arc::new(MemoryStore::new()), Streaming::On).await);
    let mut readers = JoinSet::new();
    let begin = Instant::now();
    for _ in 0..STREAMS {
        let run = runtime.start("agent", "go").await.unwrap();
        readers.spawn(async move {
            let (mut items, mut tokens) = (run.stream(TOKENS).read_from(0), 0);
            let mut half = Duration::ZERO;
            while let Some(item) = items.next().await {
                if let OutputContent::Item(update) = item.unwrap().content
                    && let AgentUpdate::Text { .. } = update.decode().unwrap()
                {
                    tokens += 1;
                    if tokens == TOKENS_EACH / 2 {
                        half = begin.elapsed();
                    }
                }
            }
            assert_eq!(tokens, TOKENS_EACH, "a reader misses nothing");
            (half, begin.elapsed())
        });
    }
    let ends = readers.join_all().await;
    let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
    let mut half: Vec<_> = ends.iter().map(|(half, _)| millis(*half)).collect();
    let mut whole: Vec<_> = ends.iter().map(|(_, whole)| millis(*whole)).collect();
    (median(&mut half), median(&mut whole))
}

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (mut memory, mut sqlite, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let store = Arc::new(MemoryStore::new());
        memory.push(micros_each(runtime.block_on(turns(store)), TURNS));
        bare.push(micros_each(commits(TURNS), TURNS));
        let place = Place::new();
        let open = async { turns(Arc::new(open(&place.path).await)).await };
        sqlite.push(micros_each(runtime.block_on(open), TURNS));
    }
    figure("llm_turn/memory", median(&mut memory), "us");
    let (turn, commit) = (median(&mut sqlite), median(&mut bare));
    figure("llm_turn/sqlite", turn, "us");
    figure("llm_turn/sqlite", turn / commit, "commits");
    let (half, whole) = runtime.block_on(streams());
    figure("llm_streams/half", half, "ms");
    figure("llm_streams/all", whole, "ms");
}
