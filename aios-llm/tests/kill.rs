//! Kills a process with an agent of ten tools at seeded moments.
//!
//! `AIOS_LLM_KILLS=500` kills that often; a few kills are the default.

#![cfg(unix)]

use std::{
    collections::{HashMap, HashSet},
    fs::{self, OpenOptions},
    io::Write,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use aios_agents::{RunHandle, Runtime, prelude::*};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    agent::{TaskAssigned, TaskCompleted, TaskId},
    store::{EventStore, MAX_PAGE, RecordedEvent, StreamId},
};
use aios_llm::{
    Conversation, LlmAgent, ModelRequest, ModelResponse, RuntimeBuilderExt,
    model::{Part, Role, Usage},
    pending_decisions,
    testing::FunctionModel,
    tool::{Effect, Resolution, Tool, ToolContext},
};
use aios_store::sqlite::SqliteStore;
use serde_json::json;

use crate::support::Query;

const FOLDER: &str = "AIOS_LLM_KILL_FOLDER";
const TURNS: usize = 6;
const TOOLS: usize = 10;
/// Calls in each response.
const CALLS: usize = 2;
const DEFAULT_KILLS: usize = 12;
const SIGKILL: i32 = 9;

#[allow(clippy::disallowed_methods, reason = "the variables configure the test itself")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A line of the log of executions, written before the execution has an effect.
fn note(folder: &Path, line: &str) {
    let path = folder.join("executions");
    let mut log = OpenOptions::new().create(true).append(true).open(path).unwrap();
    log.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// The provider: calls two of the tools in each turn.
fn respond(request: &ModelRequest) -> ModelResponse {
    let answered = request.messages.iter().filter(|it| it.role == Role::Assistant).count();
    let usage = Usage::new(100 + u64::try_from(answered).unwrap(), 7);
    if answered == TURNS {
        return ModelResponse::text("done").with_usage(usage);
    }
    let calls = (0..CALLS).map(|index| {
        let tool = (answered * CALLS + index) % TOOLS;
        let words = json!({ "words": format!("{answered}-{index}") });
        Part::tool_call(format!("{answered}-{index}"), format!("tool_{tool}"), &words)
    });
    ModelResponse::new(calls.collect()).with_usage(usage)
}

fn effect(tool: usize) -> Effect {
    match tool % 3 {
        0 => Effect::Read,
        1 => Effect::Idempotent,
        _ => Effect::Write,
    }
}

fn tool(folder: &Path, number: usize) -> Tool {
    let folder = folder.to_owned();
    let run = move |context: ToolContext, query: Query| {
        let folder = folder.clone();
        async move {
            let kind = if effect(number) == Effect::Write { "write" } else { "tool" };
            note(&folder, &format!("{kind} {}", context.idempotency_key()));
            tokio::time::sleep(Duration::from_millis(3)).await;
            Ok::<_, TaskError>(query.words)
        }
    };
    Tool::with_context(format!("tool_{number}"), "Does something.", effect(number), run)
}

fn agent(folder: &Path, store: &std::sync::Arc<dyn Store>) -> LlmAgent {
    let log = folder.to_owned();
    let model = FunctionModel::new(move |request| {
        note(&log, &format!("model {}", request.digest()));
        async move {
            tokio::time::sleep(Duration::from_millis(3)).await;
            Ok(respond(&request))
        }
    });
    let agent = LlmAgent::new(model).write_log(std::sync::Arc::clone(store));
    (0..TOOLS).fold(agent, |agent, number| agent.tool(tool(folder, number)))
}

fn url(folder: &Path) -> String {
    format!("sqlite://{}", folder.join("state.db").display())
}

/// Answers every question about a `write` call, as a person would.
async fn answer_questions(folder: PathBuf, run: RunHandle) {
    let mut answered = HashSet::new();
    loop {
        for pending in pending_decisions(&run.status().await.unwrap()).unwrap() {
            assert!(pending.in_doubt.is_some());
            if answered.insert(pending.signal.clone()) {
                note(&folder, &format!("asked {}", pending.signal));
                let done = Resolution::Done { result: "done by hand".to_owned() };
                run.signal(&pending.signal, &done).await.unwrap();
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The program that is killed. It is a test so that it needs no binary of its own.
#[test]
fn should_be_started_by_another_test() {
    let Some(folder) = variable(FOLDER).map(PathBuf::from) else { return };
    let tokio = tokio::runtime::Runtime::new().unwrap();
    tokio.block_on(async {
        let store: std::sync::Arc<dyn Store> =
            std::sync::Arc::new(SqliteStore::connect(&url(&folder)).await.unwrap());
        let runtime = Runtime::builder()
            .store(std::sync::Arc::clone(&store))
            .broker(std::sync::Arc::new(MemoryBroker::new()))
            .llm_agent("agent", agent(&folder, &store))
            .unwrap()
            .start()
            .await
            .unwrap();
        let run = runtime.start("agent", "go").with_id("run").await.unwrap();
        let answers = tokio::spawn(answer_questions(folder.clone(), run.clone()));
        assert_eq!(run.result::<String>().await.unwrap(), "done");
        answers.abort();
        note(&folder, "end");
    });
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn spawn(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::should_be_started_by_another_test"])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn executions(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("executions")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Waits until there are `count` executions, or the process has ended.
fn wait_for(child: &mut Child, folder: &Path, count: usize) {
    while executions(folder).len() < count && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

async fn journal(folder: &Path) -> Vec<RecordedEvent> {
    let store = SqliteStore::connect(&url(folder)).await.unwrap();
    store.read_stream(&StreamId::of_run("run").unwrap(), 0, MAX_PAGE).await.unwrap()
}

/// The executions whose result the journal has, as lines of the log.
fn recorded(journal: &[RecordedEvent]) -> HashSet<String> {
    let mut assigned: HashMap<TaskId, (String, TaskAssigned)> = HashMap::new();
    let mut recorded = HashSet::new();
    let Some(started) = journal.first().map(|first| first.event.id.to_string()) else {
        return recorded;
    };
    for event in journal.iter().map(|recorded| &recorded.event) {
        let (_, entity, action) = event.event_type.segments();
        if action == "task_assigned" {
            let task: TaskAssigned = event.data().unwrap();
            assigned.insert(task.task_id.clone(), (entity.to_owned(), task));
        } else if action == "task_completed" {
            let done: TaskCompleted = event.data().unwrap();
            let (entity, task) = &assigned[&done.task_id];
            if entity == "agent_model" {
                let request: ModelRequest = task.parameters.decode().unwrap();
                recorded.insert(format!("model {}", request.digest()));
            } else {
                for kind in ["tool", "write"] {
                    recorded.insert(format!("{kind} {}@{started}", done.task_id));
                }
            }
        }
    }
    recorded
}

/// Runs one agent to its end through kills. Returns the number of kills.
fn crash_until_done(
    random: &mut Random,
    folder: &Path,
    tokio: &tokio::runtime::Runtime,
    kills: usize,
) -> usize {
    let mut crashes: Vec<(usize, HashSet<String>)> = Vec::new();
    while crashes.len() < kills {
        let mut child = spawn(folder);
        let more = usize::try_from(random.below(5)).unwrap();
        wait_for(&mut child, folder, executions(folder).len() + more);
        std::thread::sleep(Duration::from_micros(random.below(6_000)));
        let _ = child.kill();
        let status = child.wait().unwrap();
        if status.signal() != Some(SIGKILL) {
            assert!(status.success(), "{status}");
            break;
        }
        let known = match folder.join("state.db").exists() {
            true => recorded(&tokio.block_on(journal(folder))),
            false => HashSet::new(),
        };
        crashes.push((executions(folder).len(), known));
    }
    assert!(spawn(folder).wait().unwrap().success());
    check(folder, &tokio.block_on(journal(folder)), &crashes);
    crashes.len()
}

fn check(folder: &Path, journal: &[RecordedEvent], crashes: &[(usize, HashSet<String>)]) {
    let lines = executions(folder);
    for (before, known) in crashes {
        let again = lines[*before..].iter().find(|line| known.contains(*line));
        assert_eq!(again, None, "its result was recorded");
    }
    let mut writes = HashSet::new();
    for write in lines.iter().filter(|line| line.starts_with("write ")) {
        assert!(writes.insert(write), "{write} was repeated");
    }
    let requests: Vec<_> = lines.iter().filter(|line| line.starts_with("model ")).collect();
    let distinct: HashSet<_> = requests.iter().collect();
    assert_eq!(distinct.len(), TURNS + 1);
    assert!(requests.len() <= distinct.len() + crashes.len(), "one request in flight at a kill");

    let conversation = Conversation::from_journal(journal.iter().map(|it| &it.event)).unwrap();
    let billed = conversation.turns().iter().map(|turn| turn.response.usage);
    let usage = billed.fold(Usage::default(), |sum, usage| sum + usage);
    let spent = conversation.spent();
    assert_eq!((spent.usage, spent.requests), (usage, u64::try_from(TURNS + 1).unwrap()));
    assert_eq!(spent.usage.output_tokens, 7 * u64::try_from(TURNS + 1).unwrap());
    assert_eq!(spent.tool_calls, u64::try_from(TURNS * CALLS).unwrap());
}

#[test]
fn should_repeat_no_recorded_call_after_kills() {
    let wanted = variable("AIOS_LLM_KILLS").map_or(DEFAULT_KILLS, |text| text.parse().unwrap());
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut random, mut kills, mut asked) = (Random(0x5eed_0001), 0, 0);
    while kills < wanted {
        let folder = tempfile::tempdir().unwrap();
        kills += crash_until_done(&mut random, folder.path(), &tokio, wanted - kills);
        asked += executions(folder.path()).iter().filter(|line| line.starts_with("asked ")).count();
    }
    println!("{kills} kills, {asked} questions about write calls");
}
