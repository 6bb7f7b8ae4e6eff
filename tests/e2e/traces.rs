//! The example `service` as an API, engines and agents on PostgreSQL and RabbitMQ, whose engine is killed:
//! the traces that a collector gets.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    thread,
    time::Duration,
};

use aios_tests::{
    otlp::{Answer, Collector, Span, text},
    postgres::PostgresServer,
    program::program,
    rabbitmq::RabbitMqServer,
};
use serde_json::json;

use crate::process::Process;

const RUNS: usize = 20;
/// Spans of a run without a lost attempt: request, run, task, attempt and timer.
const SPANS: usize = 5;

struct Site {
    postgres: PostgresServer,
    rabbitmq: RabbitMqServer,
    collector: Collector,
}

impl Site {
    fn start() -> Option<Self> {
        let (postgres, rabbitmq) = (PostgresServer::start()?, RabbitMqServer::start()?);
        Some(Self { postgres, rabbitmq, collector: Collector::start(Answer::Status(200)) })
    }

    fn process(&self, roles: &str) -> Process {
        let mut command = Command::new(program("service"));
        command
            .env_clear()
            .env("AIOS_PROCESS_ROLES", roles)
            .env("AIOS_DATABASE_URL", self.postgres.url())
            .env("AIOS_BROKER_URL", self.rabbitmq.url())
            .env("AIOS_TELEMETRY_TRACES__ENDPOINT", self.collector.url());
        Process::start(roles, command)
    }
}

/// Starts a run, and returns the id of its trace.
fn start_run(api: &Process, number: usize) -> String {
    let body = json!({ "input": "Ada", "run_id": format!("run-{number}") }).to_string();
    let mut stream = TcpStream::connect(api.address).unwrap();
    write!(
            stream,
            "POST /api/v1/workflows/welcome/actions/execute HTTP/1.1\r\nhost: localhost\r\n\
             connection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let trace = answer.lines().find_map(|line| line.strip_prefix("traceresponse: 00-"));
    trace.unwrap_or_else(|| panic!("{answer}"))[..32].to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn runs(spans: &[Span]) -> BTreeSet<&str> {
    spans.iter().filter_map(|span| text(span, "aios.run_id")).collect()
}

/// Leaves out spans that were sent twice, because the engine was killed before it saved its position. They
/// are the same.
fn once(spans: Vec<Span>) -> Vec<Span> {
    let (count, mut once) = (spans.len(), BTreeMap::new());
    for span in spans {
        if let Some(first) = once.insert(span.span_id.clone(), span.clone()) {
            assert_eq!(first, span, "the same id, and other content");
        }
    }
    println!("{count} spans, {} of them sent twice", count - once.len());
    once.into_values().collect()
}

#[test]
fn should_be_one_whole_trace_for_each_run_when_the_engine_is_killed() {
    let Some(site) = Site::start() else { return };
    let (api, _agents, engine) =
        (site.process("api"), site.process("agents"), site.process("engine"));
    let started: BTreeSet<_> = (0..RUNS).map(|number| start_run(&api, number)).collect();
    assert_eq!(started.len(), RUNS);
    let of_tasks = |spans: &[Span]| spans.iter().any(|span| span.name == "task greeter");
    let spans = site.collector.wait_for("task", of_tasks);
    let ended = runs(&spans).len();
    drop(engine);
    println!("{ended} of {RUNS} runs had ended when the engine was killed");
    let _successor = site.process("engine");
    let spans = site.collector.wait_for("end of every run", |spans| {
        let requests = spans.iter().filter(|span| span.name.starts_with("POST")).count();
        runs(spans).len() == RUNS && requests >= RUNS
    });
    // A span that should not be there would come now.
    thread::sleep(Duration::from_secs(1));
    assert_eq!(site.collector.spans().len(), spans.len());

    let mut traces = BTreeMap::<_, Vec<_>>::new();
    for span in once(spans) {
        traces.entry(hex(&span.trace_id)).or_default().push(span);
    }
    assert_eq!(traces.keys().cloned().collect::<BTreeSet<_>>(), started);
    for (trace, spans) in traces {
        let known: BTreeSet<_> = spans.iter().map(|span| &span.span_id).collect();
        for span in &spans {
            let is_request = span.name.starts_with("POST");
            assert!(is_request || known.contains(&span.parent_span_id), "{span:?}");
            assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
        }
        let count = |name: &str| spans.iter().filter(|span| span.name == name).count();
        assert_eq!(count("workflow welcome"), 1, "{trace}");
        assert_eq!((count("task greeter"), count("timer")), (1, 1), "{trace}");
        let attempts = count("task greeter attempt");
        assert!(attempts >= 1 && spans.len() == SPANS - 1 + attempts, "{trace}: {spans:#?}");
    }
}
