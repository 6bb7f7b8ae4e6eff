//! code-review as several processes: an engine, agents and a client, with PostgreSQL and RabbitMQ.

use std::{
    collections::HashSet,
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use aios_core::store::{MAX_PAGE, PageRequest, RunFilter, Store, StreamId};
use aios_tests::{postgres::PostgresServer, program::program, rabbitmq::RabbitMqServer};
use tempfile::TempDir;

use crate::review::{RESULT, Random, Review, reviewed_path, tree};

const FILES: usize = 400;
const AGENTS: usize = 3;
/// Files that one agent analyses concurrently.
const EACH: usize = 2;
/// Files that are analysed concurrently.
const CONCURRENCY: usize = 12;
const KILLS: usize = 8;
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The servers, and a folder for the output of the processes.
pub(crate) struct Site {
    pub(crate) postgres: PostgresServer,
    pub(crate) rabbitmq: RabbitMqServer,
    pub(crate) folder: TempDir,
}

impl Site {
    pub(crate) fn open() -> Option<Self> {
        let (postgres, rabbitmq) = (PostgresServer::start()?, RabbitMqServer::start()?);
        Some(Self { postgres, rabbitmq, folder: tempfile::tempdir().unwrap() })
    }

    fn command(&self, part: &str) -> Command {
        let mut command = Command::new(program("code-review"));
        command.arg(part).current_dir(self.folder.path()).stdout(Stdio::piped());
        command
    }

    /// An engine that is ready.
    pub(crate) fn engine(&self) -> Child {
        self.engine_with(&[])
    }

    pub(crate) fn engine_with(&self, arguments: &[&str]) -> Child {
        let mut command = self.command("engine");
        command.args(["--store", &self.postgres.url(), "--broker", &self.rabbitmq.url()]);
        command.args(arguments);
        ready(command)
    }

    /// An agent that is ready.
    pub(crate) fn agent(&self) -> Child {
        self.agent_with(&[])
    }

    pub(crate) fn agent_with(&self, arguments: &[&str]) -> Child {
        let mut command = self.command("agent");
        command.args(["--broker", &self.rabbitmq.url(), "--concurrency", &EACH.to_string()]);
        command.arg("--trace-executions").arg(self.trace_file()).args(arguments);
        ready(command)
    }

    /// The client, which waits for the report.
    pub(crate) fn start(&self, tree: &TempDir) -> Child {
        self.start_with(tree, &[])
    }

    pub(crate) fn start_with(&self, tree: &TempDir, arguments: &[&str]) -> Child {
        let mut command = self.command("start");
        command.arg(tree.path()).args(["--store", &self.postgres.url()]);
        command.args(["--concurrency", &CONCURRENCY.to_string()]).args(arguments);
        command.spawn().unwrap()
    }

    fn trace_file(&self) -> PathBuf {
        self.folder.path().join("executions")
    }

    pub(crate) fn executions(&self) -> Vec<String> {
        let text = fs::read_to_string(self.trace_file()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn wait_for(&self, client: &mut Child, executions: usize) {
        while self.executions().len() < executions && client.try_wait().unwrap().is_none() {
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// The files whose result is recorded.
    fn recorded(&self) -> HashSet<String> {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio.block_on(async {
            recorded(&*aios_store::connect(&self.postgres.url()).await.unwrap()).await
        })
    }

    /// A snapshot of the work that the processes have done.
    pub(crate) fn look(&self) -> (HashSet<String>, usize) {
        // In this order, so that every execution of a recorded file is counted.
        let recorded = self.recorded();
        (recorded, self.executions().len())
    }
}

/// Starts a process and waits until it reports that it is ready.
fn ready(mut command: Command) -> Child {
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.ends_with("is ready\n"), "{command:?} says {line:?}");
    child
}

async fn recorded(store: &dyn Store) -> HashSet<String> {
    let filter = RunFilter { workflow: Some("code_review".to_owned()), ..RunFilter::default() };
    let runs = store.runs(&filter, &PageRequest::first(10)).await.unwrap().rows;
    let stream = StreamId::of_run(&runs[0].id).unwrap();
    let (mut paths, mut after) = (HashSet::new(), 0);
    loop {
        let page = store.read_stream(&stream, after, MAX_PAGE).await.unwrap();
        let Some(last) = page.last() else { return paths };
        after = last.version;
        let results = page.iter().map(|recorded| &recorded.event);
        let results = results.filter(|event| event.event_type.as_str() == RESULT);
        paths.extend(results.map(reviewed_path));
    }
}

pub(crate) fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Asks a process to stop. It must end on its own and report success.
pub(crate) fn stop(child: Child) {
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().ends_with("has stopped\n"));
}

pub(crate) fn finish(client: Child) -> Output {
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

#[test]
fn should_review_with_an_engine_and_agents_that_are_killed_and_a_broker_that_restarts() {
    let Some(site) = Site::open() else { return };
    let tree = tree(FILES);
    let alone = Review::of(tree.path());
    alone.finish(&[]);

    let mut engine = site.engine();
    let mut agents: Vec<Child> = (0..AGENTS).map(|_| site.agent()).collect();
    let mut client = site.start(&tree);
    let mut random = Random(0x5eed_0004);
    // The recorded files and the number of executions begun, after each fault.
    let mut looks = Vec::new();
    let mut restarted = None;
    for number in 0..=KILLS {
        site.wait_for(&mut client, (number + 1) * FILES / (KILLS + 3));
        std::thread::sleep(Duration::from_micros(random.below(20_000).try_into().unwrap()));
        if number == KILLS / 2 {
            site.rabbitmq.kill();
            restarted = Some(site.look());
            site.rabbitmq.revive();
        } else if number == KILLS / 4 {
            kill(engine);
            looks.push(site.look());
            engine = site.engine();
        } else {
            kill(agents.swap_remove(random.below(AGENTS.try_into().unwrap())));
            looks.push(site.look());
            agents.push(site.agent());
        }
    }
    finish(client);
    agents.into_iter().for_each(stop);
    stop(engine);

    assert_eq!(
        fs::read_to_string(site.folder.path().join("report.json")).unwrap(),
        alone.report_text()
    );
    let executions = site.executions();
    let again = |(recorded, begun): &(HashSet<String>, usize)| {
        executions[*begun..].iter().filter(|path| recorded.contains(*path)).count()
    };
    // A broker that is killed loses the acknowledgements that it had not written yet.
    let forgotten = again(&restarted.unwrap());
    assert!(forgotten <= AGENTS * EACH, "{forgotten}");
    assert!(looks.iter().all(|look| again(look) <= forgotten), "a recorded task ran again");
    let files: HashSet<&String> = executions.iter().collect();
    assert_eq!(files.len(), FILES);
    // An engine that restarts assigns the open tasks again.
    let most = FILES + EACH * KILLS + AGENTS * EACH + CONCURRENCY;
    println!("{} executions of {FILES} files, {forgotten} of recorded ones", executions.len());
    assert!(executions.len() <= most, "{} executions, at most {most}", executions.len());
}

#[test]
fn should_wait_for_agents_that_start_later_and_continue_with_another_client() {
    let Some(site) = Site::open() else { return };
    let tree = tree(20);
    let first = site.start(&tree);
    let engine = site.engine();
    std::thread::sleep(Duration::from_millis(500));
    kill(first);
    let agent = site.agent();
    let output = finish(site.start(&tree));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.starts_with("resuming: "), "{printed}");
    assert!(printed.contains("20 files reviewed: "), "{printed}");
    [agent, engine].into_iter().for_each(stop);
}

#[test]
fn should_report_on_one_line_which_server_is_unavailable() {
    let output = Command::new(program("code-review"))
        .args(["agent", "--broker", "amqp://127.0.0.1:1?connect_deadline=1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let printed = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = printed.lines().collect();
    let (last, logged) = lines.split_last().unwrap();
    assert!(last.starts_with("code-review: ") && last.contains("refused"), "{printed}");
    let is_logged = |line: &&str| line.contains(" WARN ") && line.contains("127.0.0.1:1");
    assert!(logged.iter().all(is_logged), "every other line is a failed attempt: {printed}");
}
