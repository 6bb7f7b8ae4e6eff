//! Turns of an agent over a language model that answers at once: one tool call in each.
//!
//! On SQLite, the ceiling is a program that commits one row at a time: a turn may take at most as long
//! as two of its commits. The last part has as many agents that stream as readers. It compares the first
//! and the last fifth of the tokens: how late they reach their readers, and the memory of the process.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first error, prints, and measures real time"
)]

use std::{
    sync::{Arc, LazyLock},
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

/// The time from which tokens are dated.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

#[derive(Deserialize, JsonSchema)]
struct Query {
    /// Number of the turn.
    number: usize,
}

async fn look(query: Query) -> Result<usize, TaskError> {
    Ok(query.number)
}

/// Calls the tool in each turn, and then ends. As a stream, it writes a token at a time, which is the
/// time in microseconds at which it was written.
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
            Ok(StreamEvent::Text(BEGIN.elapsed().as_micros().to_string()))
        });
        let end = StreamEvent::Finished(ModelResponse::text("done"));
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

/// The lags of some of the tokens, and the memory of the process.
#[derive(Default)]
struct Seen {
    /// How much later than they were written the tokens arrived, in milliseconds.
    lags: Vec<f64>,
    /// The memory of the process when the last of them arrived, in MB.
    memory: f64,
}

impl Seen {
    fn add(&mut self, written: &str) {
        let written = Duration::from_micros(written.parse().unwrap());
        self.lags.push(BEGIN.elapsed().saturating_sub(written).as_secs_f64() * 1e3);
    }

    fn report(mut self, part: &str) {
        self.lags.sort_by(f64::total_cmp);
        let rank = |share: usize| *self.lags.get((self.lags.len() - 1) * share / 100).unwrap();
        figure(&format!("llm_streams/{part}/lag_median"), rank(50), "ms");
        figure(&format!("llm_streams/{part}/lag_p99"), rank(99), "ms");
        figure(&format!("llm_streams/{part}/memory"), self.memory, "MB");
    }
}

/// The memory of this process that is resident, in MB.
fn memory() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096.0 / 1e6
}

/// Agents that stream, and what the readers of their first and last tokens saw.
async fn streams() -> (Seen, Seen) {
    let runtime = Arc::new(runtime(Arc::new(MemoryStore::new()), Streaming::On).await);
    let mut readers = JoinSet::new();
    for _ in 0..STREAMS {
        let run = runtime.start("agent", "go").await.unwrap();
        readers.spawn(async move {
            let (mut items, mut tokens) = (run.stream(TOKENS).read_from(0), 0);
            let (mut first, mut last) = (Seen::default(), Seen::default());
            while let Some(item) = items.next().await {
                if let OutputContent::Item(update) = item.unwrap().content
                    && let AgentUpdate::Text { text, .. } = update.decode().unwrap()
                {
                    tokens += 1;
                    if tokens <= TOKENS_EACH / 5 {
                        first.add(&text);
                    } else if tokens > TOKENS_EACH - TOKENS_EACH / 5 {
                        last.add(&text);
                    }
                    if tokens == TOKENS_EACH / 5 {
                        first.memory = memory();
                    }
                }
            }
            last.memory = memory();
            assert_eq!(tokens, TOKENS_EACH, "a reader misses nothing");
            (first, last)
        });
    }
    let ends = readers.join_all().await;
    ends.into_iter().fold((Seen::default(), Seen::default()), |(first, last), one| {
        (merged(first, one.0), merged(last, one.1))
    })
}

fn merged(mut all: Seen, one: Seen) -> Seen {
    all.lags.extend(one.lags);
    all.memory = all.memory.max(one.memory);
    all
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
    let (first, last) = runtime.block_on(streams());
    first.report("first");
    last.report("last");
}
