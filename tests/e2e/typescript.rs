//! The TypeScript client: compiled, and its tests run against a service.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use aios_agents::prelude::*;
use aios_service::http::{ApiOptions, Shutdown, api, serve};
use axum::Router;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// Time that a program may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(600);

/// The parts of the package.
const PARTS: [&str; 6] =
    ["package.json", "package-lock.json", "tsconfig.json", "tsconfig.build.json", "src", "test"];

#[derive(Deserialize, JsonSchema)]
struct Numbers {
    a: i64,
    b: i64,
}

struct Greeter;
struct Adder;
struct Sleeper;
struct Failing;

impl Agent for Greeter {
    type Parameters = String;
    type Output = String;

    async fn process_task(&self, _: &TaskContext, name: String) -> Result<String, TaskError> {
        Ok(format!("Hello, {name}!"))
    }
}

impl Agent for Adder {
    type Parameters = Numbers;
    type Output = i64;

    async fn process_task(&self, _: &TaskContext, numbers: Numbers) -> Result<i64, TaskError> {
        Ok(numbers.a + numbers.b)
    }
}

impl Agent for Sleeper {
    type Parameters = Value;
    type Output = Value;

    async fn process_task(&self, _: &TaskContext, _: Value) -> Result<Value, TaskError> {
        std::future::pending().await
    }
}

impl Agent for Failing {
    type Parameters = Value;
    type Output = Value;

    async fn process_task(&self, _: &TaskContext, _: Value) -> Result<Value, TaskError> {
        Err(TaskError::terminal(Failure::new("CARD_DECLINED", "no money")))
    }
}

#[derive(Deserialize, JsonSchema)]
struct Talking {
    greeting: String,
}

struct Talker(Talking);

impl Agent for Talker {
    type Parameters = String;
    type Output = String;

    async fn process_task(&self, _: &TaskContext, name: String) -> Result<String, TaskError> {
        Ok(format!("{}, {name}!", self.0.greeting))
    }
}

async fn counting(context: WorkflowContext, count: u32) -> Result<u32, WorkflowError> {
    let numbers = context.stream("numbers")?;
    for number in 0..count {
        numbers.write(&number)?;
    }
    Ok(count)
}

async fn welcome(context: WorkflowContext, name: String) -> Result<String, WorkflowError> {
    context.task("greeter", &name).await
}

async fn approval(context: WorkflowContext, _: Value) -> Result<Value, WorkflowError> {
    context.signal("approval").await
}

async fn failing(_: WorkflowContext, _: Value) -> Result<Value, WorkflowError> {
    Err(WorkflowError::failed(Failure::new("CARD_DECLINED", "no money")))
}

async fn service() -> SocketAddr {
    let runtime = Runtime::builder()
        .store(aios_store::connect("memory://").await.unwrap())
        .broker(aios_broker::connect("memory://").await.unwrap())
        .agent("greeter", Greeter)
        .agent("adder", Adder)
        .agent("sleeper", Sleeper)
        .agent("failing", Failing)
        .agent_factory("talker", |config: Talking| Ok::<_, TaskError>(Talker(config)))
        .workflow("counting", counting)
        .workflow("welcome", welcome)
        .workflow("approval", approval)
        .workflow("failing", failing)
        .start()
        .await
        .unwrap();
    let router = Router::new().nest("/api/v1", api(Arc::new(runtime), ApiOptions::new()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, router, Shutdown::new()));
    address
}

fn has_node() -> bool {
    let has = |program| Command::new(program).arg("--version").output().is_ok();
    let is_installed = has("node") && has("npm");
    if !is_installed {
        aios_tests::skip("Node.js or npm is not installed");
    }
    is_installed
}

/// A copy of the package in the target directory, so that nothing is installed in the sources.
fn package() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let folder = target.join("typescript");
    fs::create_dir_all(&folder).unwrap();
    for old in ["src", "test", "build"] {
        let _ = fs::remove_dir_all(folder.join(old));
    }
    for part in PARTS {
        copy(&root.join("clients/typescript").join(part), &folder.join(part));
    }
    copy(&root.join("aios-service/openapi.json"), &folder.join("openapi.json"));
    folder
}

fn copy(from: &Path, to: &Path) {
    if !from.is_dir() {
        fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        return;
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        copy(&entry.path(), &to.join(entry.file_name()));
    }
}

/// Writes the programs of the guide beside the tests; returns their names.
fn programs_of_the_guide(folder: &Path, url: &str) -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide/pages/clients.md");
    let page = fs::read_to_string(page).unwrap();
    let blocks = page.split("```typescript\n").skip(1);
    let programs: Vec<_> = blocks.map(|block| block.split("```").next().unwrap()).collect();
    assert!(!programs.is_empty(), "the guide has a program in TypeScript");
    let write = |(number, program): (usize, &&str)| {
        let name = format!("guide-{number}");
        let program = program.replace("\"@aios/client\"", "\"../src/index.js\"");
        assert!(program.contains("https://aios.example.com/api/v1"), "{program}");
        let program = program.replace("https://aios.example.com/api/v1", url);
        fs::write(folder.join("test").join(format!("{name}.ts")), program).unwrap();
        name
    };
    programs.iter().enumerate().map(write).collect()
}

fn run(folder: &Path, program: &str, arguments: &[&str], url: &str) {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).env("AIOS_URL", url);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (id, (sender, receiver)) = (child.id().to_string(), mpsc::channel());
    thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(ended) = receiver.recv_timeout(LIMIT) else {
        let _ = Command::new("kill").args(["-9", &id]).status();
        panic!("{program} {arguments:?} did not end within {LIMIT:?}");
    };
    let ended = ended.unwrap();
    let (output, errors) =
        (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{program} {arguments:?}\n{output}\n{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_compile_the_typescript_client_and_pass_its_tests() {
    if !has_node() {
        return;
    }
    let (folder, url) = (package(), format!("http://{}/api/v1", service().await));
    let url_of_tests = url.clone();
    let tested = tokio::task::spawn_blocking(move || {
        let run = |program: &str, arguments: &[&str]| run(&folder, program, arguments, &url);
        run("npm", &["ci", "--no-audit", "--no-fund", "--prefer-offline"]);
        let committed = fs::read_to_string(folder.join("src/schema.ts")).unwrap();
        run("npx", &["openapi-typescript", "openapi.json", "--output", "generated.ts"]);
        let generated = fs::read_to_string(folder.join("generated.ts")).unwrap();
        assert!(
            committed == generated,
            "src/schema.ts is out of date: run `npm ci && npm run generate` in clients/typescript"
        );
        let programs = programs_of_the_guide(&folder, &url_of_tests);
        run("npx", &["tsc"]);
        run("npx", &["tsc", "--project", "tsconfig.build.json"]);
        let mut tests: Vec<_> = fs::read_dir(folder.join("build/test")).unwrap().collect();
        let mut arguments = vec!["--test".to_owned()];
        arguments.extend(tests.drain(..).filter_map(|entry| {
            let path = entry.unwrap().path();
            path.to_str().filter(|path| path.ends_with(".test.js")).map(ToOwned::to_owned)
        }));
        assert!(arguments.len() > 3, "the tests of the package: {arguments:?}");
        run("node", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        for program in &programs {
            run("node", &[&format!("build/test/{program}.js")]);
        }
    });
    tested.await.unwrap();
}
