use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use aios_agents::prelude::*;
use aios_core::{
    clock::{Clock, SystemClock},
    event::Metadata,
};
use aios_service::{
    config::{Secret, Settings, SettingsBuilder},
    telemetry::{Telemetry, TelemetryGuard},
};
use serde_json::{Value, json};
use tracing::{Dispatch, debug, dispatcher::with_default, error, info, info_span, warn};

use super::Output;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn settings() -> SettingsBuilder {
    Settings::builder().environment::<&str, &str>([]).value("log.format", "json")
}

fn build(
    settings: SettingsBuilder,
    output: impl Write + Send + 'static,
) -> (Dispatch, TelemetryGuard) {
    let settings = settings.load().unwrap();
    Telemetry::from_settings(&settings).log_output(output).build().unwrap()
}

/// The lines that `code` logs.
fn logged(settings: SettingsBuilder, code: impl FnOnce(&TelemetryGuard)) -> Vec<Value> {
    let output = Output::default();
    let (dispatch, guard) = build(settings, output.clone());
    let _second = aios_tests::log::second_subscriber();
    with_default(&dispatch, || code(&guard));
    assert!(guard.flush());
    output.lines()
}

/// The line of lapin when the server closes a channel.
macro_rules! channel_closed {
    ($method:expr) => {
        error!(
            target: "lapin::channel", channel = 7, method = ?$method, error = ?"a protocol error",
            "Channel closed"
        )
    };
}

/// As the `Close` of the protocol of RabbitMQ.
#[derive(Debug)]
#[allow(dead_code, reason = "only shown")]
struct Close {
    reply_code: u16,
    reply_text: &'static str,
    class_id: u16,
    method_id: u16,
}

#[test]
fn should_not_call_the_answer_about_a_missing_queue_an_error() {
    let close = |reply_code, reply_text, method_id| Close {
        reply_code,
        reply_text,
        class_id: 50,
        method_id,
    };
    let lines = logged(settings(), |_| {
        channel_closed!(close(404, "NOT_FOUND - no queue 'dead.agents.unknown' in vhost '/'", 10));
        channel_closed!(close(404, "NOT_FOUND - no exchange 'aios.events' in vhost '/'", 20));
        channel_closed!(close(406, "PRECONDITION_FAILED - inequivalent arg 'x-expires'", 10));
    });
    let texts: Vec<_> = lines.iter().map(|line| line["method"].as_str().unwrap()).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(texts[0].contains("no exchange") && texts[1].contains("PRECONDITION"), "{texts:?}");
}

#[test]
fn should_write_fields_of_the_event_and_of_its_spans() {
    let lines = logged(settings(), |_| {
        let outer = info_span!("outer", run_id = "r1", attempt = 1, traceparent = PARENT);
        let inner =
            outer.in_scope(|| info_span!("inner", attempt = 2, code = tracing::field::Empty));
        inner.record("code", "CARD_DECLINED");
        let error = io::Error::other("no money");
        inner.in_scope(|| {
            warn!(error = &error as &dyn std::error::Error, cents = 5, ok = true, "declined")
        });
    });
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    for (name, value) in [
        ("level", Value::from("WARN")),
        ("message", "declined".into()),
        ("target", module_path!().into()),
        ("run_id", "r1".into()),
        ("attempt", 2.into()),
        ("code", "CARD_DECLINED".into()),
        ("error", "no money".into()),
        ("cents", 5.into()),
        ("ok", true.into()),
        ("trace_id", "0af7651916cd43dd8448eb211c80319c".into()),
        ("span_id", "b7ad6b7169203331".into()),
    ] {
        assert_eq!(line[name], value, "{name} in {line}");
    }
    line["time"].as_str().unwrap().parse::<aios_core::event::Timestamp>().unwrap();
}

#[test]
fn should_not_write_secrets_and_configured_fields() {
    let configured = settings().value("log.redact", serde_json::json!(["Email"]));
    let output = Output::default();
    let (dispatch, guard) = build(configured, output.clone());
    with_default(&dispatch, || {
        let secret = Secret::new("hunter2");
        let _span = info_span!("login", email = "hunter2@example.org").entered();
        error!(?secret, db_password = "hunter2", session_token = "hunter2", user = "ada", "in");
        info!(api_key = ?Some(secret), "again");
    });
    assert!(guard.flush());
    let (text, lines) = (output.text(), output.lines());
    assert!(!text.contains("hunter2"), "{text}");
    assert_eq!((&lines[0]["email"], &lines[0]["user"]), (&"***".into(), &"ada".into()));
}

#[test]
fn should_write_counts_of_tokens() {
    let lines = logged(settings(), |_| {
        info!(input_tokens = 512, output_tokens = 7_u64, cost_of_tokens = 0.25, "used");
        info!(api_tokens = "hunter2", reset_token = 1234, "refused");
    });
    let [used, refused] = lines.as_slice() else { panic!("{lines:?}") };
    let counts = (&used["input_tokens"], &used["output_tokens"], &used["cost_of_tokens"]);
    assert_eq!(counts, (&512.into(), &7.into(), &0.25.into()));
    assert_eq!((&refused["api_tokens"], &refused["reset_token"]), (&"***".into(), &"***".into()));
}

#[test]
fn should_log_what_the_level_and_the_targets_allow_and_change_while_it_runs() {
    let quiet = settings().value("log.level", "warn");
    let quiet = quiet.value("log.targets", serde_json::json!({"lapin": "off"}));
    let lines = logged(quiet, |guard| {
        info!("0");
        warn!("1");
        error!(target: "lapin::channel", "2");
        let now = settings().value("log.level", "debug").load().unwrap();
        guard.log_control().unwrap().set(now.log());
        debug!("3");
        error!(target: "lapin::channel", "4");
        let never = settings().value("log.level", "off").load().unwrap();
        guard.log_control().unwrap().set(never.log());
        error!("5");
    });
    let messages: Vec<_> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert_eq!(messages, ["1", "3", "4"]);
}

#[test]
fn should_not_log_the_data_of_returned_events_unless_asked_to() {
    let log = || warn!(target: "lapin::returned_messages", "returned");
    let debug = || settings().value("log.level", "debug");
    let lapin = serde_json::json!({"lapin": "debug"});
    for silent in [debug(), debug().value("log.targets", lapin)] {
        assert_eq!(logged(silent, |_| log()), [] as [Value; 0]);
    }
    let asked = serde_json::json!({"lapin::returned_messages": "warn"});
    assert_eq!(logged(debug().value("log.targets", asked), |_| log()).len(), 1);
}

#[test]
fn should_leave_the_subscriber_of_the_program_alone() {
    // Installing it is decided once for the process, so this test installs both.
    let (mine, theirs) = (Output::default(), Output::default());
    let (dispatch, guard) = build(settings(), mine.clone());
    let _ = tracing::dispatcher::set_global_default(dispatch);
    let settings = settings().load().unwrap();
    let started = Telemetry::from_settings(&settings).log_output(theirs.clone()).start().unwrap();
    assert!(!started.is_active());
    info!("to whom?");
    assert!(guard.flush() && started.flush());
    assert_eq!(theirs.text(), "");
    drop(started);
}

/// An output that fails, and one that never returns.
struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }
}

struct Gate(Output, mpsc::Receiver<()>);

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Blocks until the test sends, or is over.
        let _ = self.1.recv();
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn should_continue_when_the_log_cannot_be_written() {
    let (dispatch, guard) = build(settings(), Full);
    with_default(&dispatch, || (0..10_000).for_each(|number| info!(number, "lost")));
    assert!(guard.flush());
}

/// An output like a file on a disk that is full after a number of bytes.
struct Disk {
    output: Output,
    room: Arc<AtomicUsize>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.room.load(Ordering::Relaxed).min(bytes.len());
        if room == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.room.fetch_sub(room, Ordering::Relaxed);
        self.output.write(&bytes[..room])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn should_end_a_line_that_did_not_fit_once_there_is_room() {
    let (output, room) = (Output::default(), Arc::new(AtomicUsize::new(1_000)));
    let disk = Disk { output: output.clone(), room: Arc::clone(&room) };
    let (dispatch, guard) = build(settings(), disk);
    for space in [10, 0, usize::MAX / 2] {
        with_default(&dispatch, || (0..100).for_each(|number| info!(number, "much")));
        assert!(guard.flush());
        room.fetch_add(space, Ordering::Relaxed);
    }
    with_default(&dispatch, || info!("later"));
    assert!(guard.flush());
    let lines = output.lines();
    let dropped: u64 = lines.iter().filter_map(|line| line["lines"].as_u64()).sum();
    let written = lines.iter().filter(|line| line["message"] == "much").count() as u64;
    assert_eq!((written + dropped, &lines[lines.len() - 1]["message"]), (300, &json!("later")));
}

#[test]
fn should_drop_and_count_lines_that_wait_too_long() {
    let (output, (open, gate)) = (Output::default(), mpsc::channel());
    let (dispatch, guard) = build(settings(), Gate(output.clone(), gate));
    with_default(&dispatch, || (0..20_000).for_each(|number| info!(number, "much")));
    drop(open);
    assert!(guard.flush());
    with_default(&dispatch, || info!("later"));
    assert!(guard.flush());
    let lines = output.lines();
    let dropped: u64 = lines.iter().filter_map(|line| line["lines"].as_u64()).sum();
    let written = lines.iter().filter(|line| line["message"] == "much").count() as u64;
    assert!(written >= 8_192 && dropped > 0);
    assert_eq!(written + dropped, 20_000);
}

struct Worker;

impl Agent for Worker {
    type Parameters = u32;
    type Output = u32;

    async fn process_task(&self, _: &TaskContext, number: u32) -> Result<u32, TaskError> {
        tokio::task::yield_now().await;
        info!(place = "agent", "working");
        Ok(number)
    }
}

async fn work(context: WorkflowContext, number: u32) -> Result<u32, WorkflowError> {
    info!(place = "workflow begin", "working");
    let number: u32 = context.task("worker", &number).await?;
    let code = || async move {
        tokio::task::yield_now().await;
        info!(place = "step", "working");
        Ok::<_, TaskError>(number)
    };
    let number = context.step("check", code).await?;
    context.signal::<u32>("go").await?;
    info!(place = "workflow end", "working");
    Ok(number)
}

#[tokio::test]
async fn should_name_the_run_in_every_line_of_agents_steps_and_workflows() {
    check_lines_of_a_run(settings()).await;
}

/// The spans of runs are those of a crate whose own lines are off.
#[tokio::test]
async fn should_name_the_run_in_every_line_whatever_the_levels_of_aios_are() {
    let engine = json!({ "aios_agents": "off" });
    check_lines_of_a_run(settings().value("log.targets", engine)).await;
    let program = settings().value("log.targets", json!({ module_path!(): "info" }));
    check_lines_of_a_run(program.value("log.level", "off")).await;
}

/// The subscriber is that of the thread, so the engine runs on one thread.
async fn check_lines_of_a_run(settings: SettingsBuilder) {
    let output = Output::default();
    let (dispatch, guard) = build(settings, output.clone());
    let _second = aios_tests::log::second_subscriber();
    let _default = tracing::dispatcher::set_default(&dispatch);
    let store = aios_store::connect("memory://").await.unwrap();
    let start = async || {
        let runtime = Runtime::builder()
            .store(Arc::clone(&store))
            .broker(aios_broker::connect("memory://").await.unwrap())
            .agent("worker", Worker)
            .workflow("work", work);
        runtime.start().await.unwrap()
    };
    let runtime = start().await;
    let metadata = Metadata {
        correlation_id: Some("corr-1".into()),
        traceparent: Some(PARENT.into()),
        ..Metadata::default()
    };
    runtime.start("work", &7).id("r1").metadata(metadata).await.unwrap();
    let has = |place: &str| output.lines().iter().any(|line| line["place"] == place);
    while !has("step") {
        SystemClock.sleep(Duration::from_millis(10)).await;
        assert!(guard.flush());
    }
    runtime.shutdown(Duration::from_secs(5)).await.unwrap();
    let runtime = start().await;
    let run = runtime.handle("r1").await.unwrap();
    run.signal("go", &1).await.unwrap();
    assert_eq!(run.result::<u32>().await.unwrap(), 7);
    runtime.shutdown(Duration::from_secs(5)).await.unwrap();
    assert!(guard.flush());

    let lines: Vec<_> =
        output.lines().into_iter().filter(|line| line["message"] == "working").collect();
    let places: Vec<_> = lines.iter().map(|line| line["place"].as_str().unwrap()).collect();
    assert_eq!(places, ["workflow begin", "agent", "step", "workflow end"], "a replay is silent");
    for line in &lines {
        for (name, value) in [("run_id", "r1"), ("correlation_id", "corr-1")] {
            assert_eq!(line[name], value, "{name} in {line}");
        }
        assert_eq!(line["trace_id"], "0af7651916cd43dd8448eb211c80319c", "{line}");
        assert!(line["span_id"].as_str().is_some_and(|id| id.len() == 16), "{line}");
    }
    assert_eq!((&lines[1]["agent_type"], &lines[1]["attempt"]), (&"worker".into(), &1.into()));
    assert!(lines[1]["task_id"].as_str().unwrap().contains("r1"), "{}", lines[1]);
    assert!(lines[2]["operation"].is_u64() && lines[2]["attempt"] == 1, "{}", lines[2]);
}
