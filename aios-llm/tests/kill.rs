//! Kills a process with an agent of ten tools, one of them another agent, at seeded moments.
//!
//! `AIOS_LLM_KILLS=500` kills that often, on SQLite, of a task, and on PostgreSQL; a few kills are the
//! default.

#![cfg(unix)]

use std::{
    collections::{HashMap, HashSet},
    fs::{self, OpenOptions},
    io::Write,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use aios_agents::{RunHandle, Runtime, prelude::*, runtime::EngineOptions};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    agent::{TaskAssigned, TaskCompleted, TaskId},
    store::{MAX_PAGE, PageRequest, RecordedEvent, RunFilter, StreamId},
};
use aios_llm::{
    Conversation, LlmAgent, ModelRequest, ModelResponse, RuntimeBuilderExt,
    agent::ModelTask,
    budget::Budget,
    model::{Part, Role, Usage},
    pending_decisions,
    testing::FunctionModel,
    tool::{Effect, Resolution, Tool, ToolContext},
};
use aios_store::{
    postgres::{PostgresOptions, PostgresStore},
    sqlite::SqliteStore,
};
use aios_tests::postgres::PostgresServer;
use serde_json::json;

use crate::support::Query;

const FOLDER: &str = "AIOS_LLM_KILL_FOLDER";
const TURNS: usize = 6;
const TOOLS: usize = 10;
/// The tool that is another agent.
const HELPER: usize = TOOLS - 1;
/// Requests and tool calls of the other agent, which is called once.
const HELPER_REQUESTS: usize = 2;
const HELPER_CALLS: usize = 1;
/// Calls in each response.
const CALLS: usize = 2;
const DEFAULT_KILLS: usize = 12;
const DEFAULT_KILLS_OF_TASKS: usize = 4;
/// Kills on PostgreSQL, where each one costs the time of a lease.
const DEFAULT_KILLS_ON_POSTGRES: usize = 4;
const LEASE: Duration = Duration::from_secs(3);
/// The file that says that the run is that of a task of the agent.
const TASK: &str = "task";
/// The file that names the database and the schema on PostgreSQL.
const POSTGRES: &str = "postgres";
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
        let text = format!("{answered}-{index}");
        let words = if tool == HELPER { json!({ "task": text }) } else { json!({ "words": text }) };
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

/// The provider of the other agent: calls a tool once.
fn respond_as_helper(request: &ModelRequest) -> ModelResponse {
    let usage = Usage::new(50, 7);
    if request.messages.len() > 1 {
        return ModelResponse::text("helped").with_usage(usage);
    }
    let call = Part::tool_call("help", "tool_0", &json!({ "words": "help" }));
    ModelResponse::new(vec![call]).with_usage(usage)
}

fn helper(folder: &Path) -> LlmAgent {
    LlmAgent::new(provider(folder, respond_as_helper)).instructions("Help.").tool(tool(folder, 0))
}

fn provider(folder: &Path, respond: fn(&ModelRequest) -> ModelResponse) -> FunctionModel {
    let log = folder.to_owned();
    FunctionModel::new(move |request| {
        note(&log, &format!("model {}", request.digest()));
        async move {
            tokio::time::sleep(Duration::from_millis(3)).await;
            Ok(respond(&request))
        }
    })
}

fn agent(folder: &Path, store: &Arc<dyn Store>) -> LlmAgent {
    let agent = LlmAgent::new(provider(folder, respond))
        .write_log(Arc::clone(store))
        .budget(Budget::new().with_requests(100))
        .tool(Tool::agent(format!("tool_{HELPER}"), "Asks the helper.", "helper"));
    (0..HELPER).fold(agent, |agent, number| agent.tool(tool(folder, number)))
}

/// The store of the killed process: on PostgreSQL if the folder says so, else a file in it.
async fn connect(folder: &Path) -> Arc<dyn Store> {
    let Ok(place) = fs::read_to_string(folder.join(POSTGRES)) else {
        let url = format!("sqlite://{}", folder.join("state.db").display());
        return Arc::new(SqliteStore::connect(&url).await.unwrap());
    };
    let (url, schema) = place.split_once('\n').unwrap();
    let options = PostgresOptions::new(url).with_schema(schema).with_max_connections(4);
    Arc::new(PostgresStore::connect_with(options).await.unwrap())
}

/// The run of the agent, once it was started. A task has one.
async fn started(folder: &Path, store: &Arc<dyn Store>) -> Option<String> {
    if !folder.join(TASK).exists() {
        return Some("run".to_owned());
    }
    let filter = RunFilter { workflow: Some("agent".to_owned()), ..RunFilter::default() };
    let mut rows = store.runs(&filter, &PageRequest::default()).await.unwrap().rows;
    assert!(rows.len() < 2, "{rows:#?}");
    rows.pop().map(|run| run.id)
}

/// Starts or finds the run, and what has its result.
async fn begin(folder: &Path, store: &Arc<dyn Store>, runtime: &Runtime) -> [RunHandle; 2] {
    if !folder.join(TASK).exists() {
        let run = runtime.start("agent", "go").id("run").await.unwrap();
        return [run.clone(), run];
    }
    let task = runtime.task("agent", "go").id("task").await.unwrap();
    loop {
        if let Some(run_id) = started(folder, store).await {
            return [runtime.handle(&run_id).await.unwrap(), task];
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
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
        let store = connect(&folder).await;
        let runtime = Runtime::builder()
            .store(Arc::clone(&store))
            .broker(Arc::new(MemoryBroker::new()))
            .engine_options(EngineOptions::new().with_lease_time(LEASE))
            .llm_agent("agent", agent(&folder, &store))
            .unwrap()
            .llm_agent("helper", helper(&folder))
            .unwrap()
            .start()
            .await
            .unwrap();
        let [run, ended] = begin(&folder, &store, &runtime).await;
        let answers = tokio::spawn(answer_questions(folder.clone(), run));
        assert_eq!(ended.result::<String>().await.unwrap(), "done");
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

/// The journals of the run and of its children.
async fn journals(folder: &Path) -> Vec<Vec<RecordedEvent>> {
    let store = connect(folder).await;
    let mut ids: Vec<_> = started(folder, &store).await.into_iter().collect();
    let mut journals = Vec::new();
    while let Some(id) = ids.pop() {
        let stream = StreamId::of_run(&id).unwrap();
        let journal = store.read_stream(&stream, 0, MAX_PAGE).await.unwrap();
        for event in journal.iter().map(|recorded| &recorded.event) {
            if event.event_type.action() == "child_started" {
                let started: serde_json::Value = event.data().unwrap();
                ids.push(started["run_id"].as_str().unwrap().to_owned());
            }
        }
        journals.push(journal);
    }
    journals
}

/// The whole request of a model call, which holds only what is new since the call before.
fn request(known: &mut ModelRequest, task: &TaskAssigned) -> ModelRequest {
    let task: ModelTask = task.parameters.decode().unwrap();
    let mut messages = std::mem::take(&mut known.messages);
    messages.truncate(task.kept);
    messages.extend(task.messages);
    let mut next = task.settings.map_or_else(|| known.clone(), |it| *it);
    next.messages = messages;
    *known = next;
    known.clone()
}

/// The executions whose result the journal has, as lines of the log.
fn recorded(journal: &[RecordedEvent]) -> HashSet<String> {
    let mut assigned: HashMap<TaskId, Vec<String>> = HashMap::new();
    let mut known = ModelRequest::default();
    let mut recorded = HashSet::new();
    let Some(started) = journal.first().map(|first| first.event.id.to_string()) else {
        return recorded;
    };
    for event in journal.iter().map(|recorded| &recorded.event) {
        let (_, entity, action) = event.event_type.segments();
        if action == "task_assigned" {
            let task: TaskAssigned = event.data().unwrap();
            let line = match entity.ends_with("_model") {
                true => vec![format!("model {}", request(&mut known, &task).digest())],
                false => {
                    let id = &task.task_id;
                    ["tool", "write"].map(|kind| format!("{kind} {id}@{started}")).to_vec()
                }
            };
            assigned.insert(task.task_id, line);
        } else if action == "task_completed" {
            let done: TaskCompleted = event.data().unwrap();
            recorded.extend(assigned[&done.task_id].iter().cloned());
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
        let journals = tokio.block_on(journals(folder));
        let known = journals.iter().flat_map(|journal| recorded(journal)).collect();
        crashes.push((executions(folder).len(), known));
    }
    assert!(spawn(folder).wait().unwrap().success());
    check(folder, &tokio.block_on(journals(folder)), &crashes);
    crashes.len()
}

fn check(folder: &Path, journals: &[Vec<RecordedEvent>], crashes: &[(usize, HashSet<String>)]) {
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
    let all_requests = TURNS + 1 + HELPER_REQUESTS;
    assert_eq!(distinct.len(), all_requests);
    assert!(requests.len() <= distinct.len() + crashes.len(), "one request in flight at a kill");

    let read = |journal: &Vec<RecordedEvent>| {
        Conversation::from_journal(journal.iter().map(|it| &it.event)).unwrap()
    };
    let conversations: Vec<_> = journals.iter().map(read).collect();
    let turns = conversations.iter().flat_map(|conversation| conversation.turns());
    let usage = turns.fold(Usage::default(), |sum, turn| sum + turn.response.usage);
    // The sum of the run has those of its children.
    let spent = conversations[0].spent();
    assert_eq!((spent.usage, spent.requests), (usage, u64::try_from(all_requests).unwrap()));
    assert_eq!(spent.usage.output_tokens, 7 * u64::try_from(all_requests).unwrap());
    assert_eq!(spent.tool_calls, u64::try_from(TURNS * CALLS + HELPER_CALLS).unwrap());
}

/// Kills processes, each on a store that `prepare` names in its folder.
fn crash(default_kills: usize, seed: u64, prepare: impl Fn(&Path)) {
    let wanted = variable("AIOS_LLM_KILLS").map_or(default_kills, |text| text.parse().unwrap());
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut random, mut kills, mut asked) = (Random(seed), 0, 0);
    while kills < wanted {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        kills += crash_until_done(&mut random, folder.path(), &tokio, wanted - kills);
        asked += executions(folder.path()).iter().filter(|line| line.starts_with("asked ")).count();
    }
    println!("{kills} kills, {asked} questions about write calls");
}

#[test]
fn should_repeat_no_recorded_call_after_kills() {
    crash(DEFAULT_KILLS, 0x5eed_0001, |_| {});
}

#[test]
fn should_repeat_no_recorded_call_of_a_task_after_kills() {
    crash(DEFAULT_KILLS_OF_TASKS, 0x5eed_0003, |folder| fs::write(folder.join(TASK), "").unwrap());
}

#[test]
fn should_repeat_no_recorded_call_after_kills_on_postgres() {
    let Some(server) = PostgresServer::shared() else { return };
    crash(DEFAULT_KILLS_ON_POSTGRES, 0x5eed_0002, |folder| {
        let place = format!("{}\n{}", server.url(), server.new_name());
        fs::write(folder.join(POSTGRES), place).unwrap();
    });
}
