//! Agents that stream over a language model, each to one reader.
//!
//! Compares the first and the last fifth of the tokens: how late they reach their readers, and the memory
//! of the process.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first error, prints, and measures real time"
)]

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use aios_agents::{output::OutputContent, prelude::*};
use aios_benches::figure;
use aios_broker::memory::MemoryBroker;
use aios_llm::{
    AgentUpdate, LlmAgent, ModelRequest, ModelResponse, RuntimeBuilderExt, Streaming, TOKENS,
    model::{Capabilities, LanguageModel, ModelStream, StreamEvent},
};
use aios_store::memory::MemoryStore;
use futures_util::{StreamExt, stream};
use tokio::task::JoinSet;

/// Agents that stream at the same time.
const STREAMS: usize = 1000;
/// Tokens of each, and the time between two.
const TOKENS_EACH: usize = 1000;
const PAUSE: Duration = Duration::from_millis(10);

/// The time from which tokens are dated.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Streams tokens, each of which is the time in microseconds at which it was written.
struct Model;

#[async_trait::async_trait]
impl LanguageModel for Model {
    fn name(&self) -> &str {
        "bench:model"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::all()
    }

    async fn complete(&self, _: &ModelRequest) -> Result<ModelResponse, aios_llm::ModelError> {
        Ok(ModelResponse::text("done"))
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
    let builder = Runtime::builder()
        .store(Arc::new(MemoryStore::new()))
        .broker(Arc::new(MemoryBroker::new()))
        .llm_agent("agent", LlmAgent::new(Model).streaming(Streaming::On));
    let runtime = Arc::new(builder.unwrap().start().await.unwrap());
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
    let (first, last) = runtime.block_on(streams());
    first.report("first");
    last.report("last");
}
