//! A real Prometheus that scrapes the example `service` as two engines, an API and two processes of agents:
//! the board has data, and the alerts fire when something fails.

use std::{
    collections::BTreeSet,
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use aios_core::{
    broker::{Broker, BrokerExt, Publish},
    event::Event,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{PAUSE, Process, Servers, request, until};

const TIMEOUT: Duration = Duration::from_secs(10);
const MONITORING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/monitoring");

/// The windows of alerts that end with their cause, and the window that they have here.
const WINDOWS: [&str; 2] = ["[3m]", "[5m]"];
const SHORT_WINDOW: &str = "[15s]";

/// A Prometheus, which is killed when dropped. It scrapes and evaluates every second, and the conditions of
/// alerts need to hold for a second only.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Prometheus {
    fn start(targets: &[SocketAddr]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        write_settings(folder.path(), targets);
        let started = Command::new("prometheus")
            .current_dir(folder.path())
            .args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={address}"))
            .args(["--log.level=error", "--enable-feature=exemplar-storage"])
            .stdout(Stdio::null())
            .spawn();
        let Ok(child) = started else {
            aios_tests::skip("Prometheus is not installed");
            return None;
        };
        let prometheus = Self { child, address, _folder: folder };
        until("Prometheus is ready", || {
            matches!(request(address, "GET", "/-/ready", "", TIMEOUT), Some((200, _)))
        });
        Some(prometheus)
    }

    fn ask(&self, path: &str) -> Value {
        let (status, body) = request(self.address, "GET", path, "", TIMEOUT).unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str::<Value>(&body).unwrap()["data"].take()
    }

    /// The values of an expression that are numbers.
    fn values(&self, expression: &str) -> Vec<f64> {
        let data = self.ask(&format!("/api/v1/query?query={}", encoded(expression)));
        let series = data["result"].as_array().unwrap().iter();
        let values = series.map(|it| it["value"][1].as_str().unwrap().parse::<f64>().unwrap());
        values.filter(|value| !value.is_nan()).collect()
    }

    /// The names of the alerts that fire.
    fn firing(&self) -> BTreeSet<String> {
        let data = self.ask("/api/v1/alerts");
        let alerts = data["alerts"].as_array().unwrap().iter();
        let firing = alerts.filter(|alert| alert["state"] == "firing");
        firing.map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned()).collect()
    }

    #[track_caller]
    fn expect(&self, alerts: &[&str], fault: &str) {
        until(&format!("{alerts:?} fire while {fault}"), || {
            let firing = self.firing();
            alerts.iter().all(|alert| firing.contains(*alert))
        });
        println!("{fault}: {:?}", self.firing());
    }

    #[track_caller]
    fn expect_end(&self, alerts: &[&str], repaired: &str) {
        until(&format!("{alerts:?} end after {repaired}"), || {
            let firing = self.firing();
            alerts.iter().all(|alert| !firing.contains(*alert))
        });
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_settings(folder: &Path, targets: &[SocketAddr]) {
    let rules = fs::read_to_string(format!("{MONITORING}/alerts.yaml")).unwrap();
    fs::write(folder.join("alerts.yaml"), shortened(&rules)).unwrap();
    let targets: Vec<_> = targets.iter().map(ToString::to_string).collect();
    let settings = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
         rule_files: [alerts.yaml]\n\
         scrape_configs: [{{ job_name: aios, static_configs: [{{ targets: {targets:?} }}] }}]\n"
    );
    fs::write(folder.join("prometheus.yaml"), settings).unwrap();
}

/// The rules for a test, which does not wait for minutes.
fn shortened(rules: &str) -> String {
    let line = |line: &str| match line.trim_start().starts_with("for: ") {
        true => "        for: 1s\n".to_owned(),
        false => format!("{line}\n"),
    };
    let rules = rules.lines().map(line).collect::<String>();
    WINDOWS.iter().fold(rules, |rules, window| rules.replace(window, SHORT_WINDOW))
}

/// The text for the query of a URL.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// A client that starts runs, whether or not they are accepted.
struct Client {
    accepted: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    fn start(api: SocketAddr) -> Self {
        let (accepted, ends) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, ended) = (Arc::clone(&accepted), Arc::clone(&ends));
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::Acquire) {
                let path = "/api/v1/workflows/welcome/actions/execute";
                if let Some((202, _)) = request(api, "POST", path, r#"{"input": "Ada"}"#, TIMEOUT) {
                    counted.fetch_add(1, Ordering::AcqRel);
                }
                thread::sleep(PAUSE);
            }
        });
        Self { accepted, ends, thread: Some(thread) }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It does not panic.
            let _ = thread.join();
        }
    }
}

fn process(servers: &Servers, roles: &str, address: Option<SocketAddr>) -> Process {
    let mut command = servers.command(roles);
    let broker = format!("{}?watchdog=1&operation_timeout=2", servers.rabbitmq.url());
    command.env("AIOS_BROKER_URL", broker).stderr(Stdio::null());
    // Less than the client waits.
    command.env("AIOS_HTTP_REQUEST_TIMEOUT", "2s");
    if let Some(address) = address {
        command.env("AIOS_HTTP_LISTEN", address.to_string());
    }
    Process::start(roles, command)
}

/// Every panel of the board has data.
fn check_board(prometheus: &Prometheus) {
    let board = fs::read_to_string(format!("{MONITORING}/board.json")).unwrap();
    let board: Value = serde_json::from_str(&board).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let expressions = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let expressions = expressions.map(|it| it["expr"].as_str().unwrap());
    let mut left: Vec<_> = expressions.map(|it| it.replace("$installation", ".*")).collect();
    let count = left.len();
    until(&format!("every panel has data: {left:?}"), || {
        left.retain(|expression| prometheus.values(expression).is_empty());
        left.is_empty()
    });
    println!("{count} queries of {} panels have data", panels.len());
}

/// A bucket of the durations of runs names the trace of one of them.
fn check_exemplars(prometheus: &Prometheus) {
    let path = format!(
        "/api/v1/query_exemplars?query={}&start=0&end=9999999999",
        encoded("aios_run_seconds_bucket")
    );
    until("runs have exemplars", || {
        let found = prometheus.ask(&path);
        let exemplars = found.as_array().unwrap().iter();
        let mut exemplars = exemplars.flat_map(|it| it["exemplars"].as_array().unwrap());
        exemplars.any(|it| it["labels"]["trace_id"].as_str().is_some_and(|id| id.len() == 32))
    });
}

/// Publishes a task that no agent can read.
#[tokio::main(flavor = "current_thread")]
async fn publish_unreadable_task(broker: &str) {
    let broker = aios_broker::connect(broker).await.unwrap();
    let event = Event::new("agents.greeter.task_assigned".parse().unwrap(), "test", &7).unwrap();
    broker.publish_one(Publish::new(event).with_required_route()).await.unwrap();
    broker.close(TIMEOUT).await.unwrap();
}

#[test]
fn should_have_data_for_the_board_and_fire_alerts_for_real_faults() {
    let Some(servers) = Servers::start() else { return };
    let start = |roles: &str| process(&servers, roles, None);
    let (api, engine) = (start("api"), start("engine"));
    let others = ["engine", "agents", "agents"].map(start);
    let mut targets = vec![api.address, engine.address];
    targets.extend(others.iter().map(|process| process.address));
    let Some(prometheus) = Prometheus::start(&targets) else { return };
    let client = Client::start(api.address);

    until("five processes are scraped", || prometheus.values("up == 1").len() == targets.len());
    check_board(&prometheus);
    check_exemplars(&prometheus);
    until("no alert fires", || prometheus.firing().is_empty());

    publish_unreadable_task(&servers.rabbitmq.url());
    prometheus.expect(&["AiosDeadLetters"], "an agent cannot read a task");

    servers.rabbitmq.on_channels("Info(consumer_count) > 0", "sys:suspend(Channel)");
    prometheus.expect(&["AiosConsumersReplaced"], "consumers are stuck");

    servers.rabbitmq.stop();
    prometheus.expect(&["AiosBrokerDisconnected"], "RabbitMQ is stopped");
    servers.rabbitmq.revive();
    prometheus.expect_end(&["AiosBrokerDisconnected"], "RabbitMQ is back");

    let accepted = client.accepted.load(Ordering::Acquire);
    servers.postgres.stop("fast");
    prometheus.expect(&["AiosStoreFails", "AiosRequestsFail"], "PostgreSQL is stopped");
    servers.postgres.revive();
    prometheus.expect_end(&["AiosStoreFails", "AiosRequestsFail"], "PostgreSQL is back");
    until("runs are started again", || client.accepted.load(Ordering::Acquire) > accepted);

    let address = engine.address;
    drop(engine);
    prometheus.expect(&["AiosProcessDown", "AiosShardsWithoutEngine"], "an engine is killed");
    prometheus.expect_end(&["AiosShardsWithoutEngine"], "the other engine has its shards");
    let _successor = process(&servers, "engine", Some(address));
    prometheus.expect_end(&["AiosProcessDown", "AiosShardsWithoutEngine"], "it is back");
    println!("{} runs were started", client.accepted.load(Ordering::Acquire));
}
