//! Traces of a service at a collector.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use aios_agents::prelude::*;
use aios_core::{
    clock::{Clock, SystemClock},
    failure::Failure,
};
use aios_service::{RunningService, config::SettingsBuilder};
use aios_tests::otlp::{Answer, Collector, Span, text};
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{GENEROUS, stop};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

struct Greeter;

impl Agent for Greeter {
    type Parameters = String;
    type Output = String;

    async fn process_task(&self, context: &TaskContext, name: String) -> Result<String, TaskError> {
        context.set_attribute("app.greeting", "Hello")?;
        context.set_attribute("app.letters", &name.len())?;
        context.set_attribute("app.share", &0.5)?;
        context.set_attribute("app.names", &[&name])?;
        context.set_attribute("app.object", &BTreeSet::from([("not", "supported")]))?;
        // An attribute of aios keeps its value.
        context.set_attribute("aios.attempt", &7)?;
        if name == "missing" {
            return Err(TaskError::terminal(Failure::new("NO_NAME", "there is no name")));
        }
        Ok(format!("Hello, {name}!"))
    }
}

async fn welcome(context: WorkflowContext, name: String) -> Result<String, WorkflowError> {
    let name = context.step("trim", || async { Ok::<_, TaskError>(name.trim().to_owned()) });
    let name = name.await?;
    context.task("greeter", &name).await
}

fn settings(collector: &Collector, store: &str) -> SettingsBuilder {
    super::settings()
        .value("database.url", store)
        .value("telemetry.traces.endpoint", collector.url())
}

async fn start(settings: SettingsBuilder) -> RunningService {
    let service = super::service(settings).agent("greeter", Greeter);
    service.workflow("welcome", welcome).start().await.unwrap()
}

/// Starts a run through the API.
async fn post_run(service: &RunningService, id: &str, traceparent: Option<&str>) -> String {
    let mut stream = TcpStream::connect(service.address()).await.unwrap();
    let body = format!(r#"{{"input":"Ada","run_id":"{id}"}}"#);
    let trace = traceparent.map(|it| format!("traceparent: {it}\r\n")).unwrap_or_default();
    let head = format!(
        "POST /api/v1/workflows/welcome/actions/execute HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         {trace}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    answer
}

async fn run(service: &RunningService, id: &str) {
    let run = service.runtime().handle(id).await.unwrap();
    assert_eq!(run.result::<String>().await.unwrap(), "Hello, Ada!");
}

fn named<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name}: {spans:#?}"))
}

/// The attributes of an attempt, as they were sent.
fn attributes(spans: &[Span]) -> BTreeMap<&str, Option<Value>> {
    let attempt = named(spans, "task greeter attempt");
    let value = |it: &KeyValue| it.value.clone().and_then(|it| it.value);
    attempt.attributes.iter().map(|it| (it.key.as_str(), value(it))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn should_send_the_attributes_that_an_agent_sets() {
    for name in ["Ada", "missing"] {
        let collector = Collector::start(Answer::Status(200));
        let service = start(settings(&collector, "memory://")).await;
        let run = service.runtime().start("welcome", name).await.unwrap();
        assert_eq!(run.result::<String>().await.is_err(), name == "missing");
        stop(service).await;
        let spans = collector.spans();
        let attributes = attributes(&spans);
        let of = |name: &str| attributes.get(name).cloned().flatten();
        let text = |text: &str| Value::StringValue(text.to_owned());
        assert_eq!(of("app.greeting"), Some(text("Hello")));
        assert_eq!(of("app.letters"), Some(Value::IntValue(i64::try_from(name.len()).unwrap())));
        assert_eq!(of("app.share"), Some(Value::DoubleValue(0.5)));
        let values = vec![AnyValue { value: Some(text(name)) }];
        assert_eq!(of("app.names"), Some(Value::ArrayValue(ArrayValue { values })));
        assert_eq!(of("app.object"), None);
        assert_eq!(of("aios.attempt"), Some(Value::IntValue(1)));
        assert_eq!(of("error.type"), Some(text("NO_NAME")).filter(|_| name == "missing"));
    }
}

fn has(spans: &[Span], run_id: &str) -> bool {
    spans.iter().any(|span| text(span, "aios.run_id") == Some(run_id))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn should_send_one_trace_from_the_request_to_the_agent() {
    let collector = Collector::start(Answer::Status(200));
    let service = start(settings(&collector, "memory://")).await;
    let answer = post_run(&service, "r1", Some(PARENT)).await;
    run(&service, "r1").await;
    stop(service).await;

    let spans = collector.spans();
    let request = named(&spans, "POST /api/v1/workflows/{workflow}/actions/execute");
    assert_eq!(hex(&request.trace_id), PARENT[3..35]);
    assert_eq!(hex(&request.parent_span_id), PARENT[36..52]);
    assert!(answer.contains(&hex(&request.span_id)), "traceresponse has the span: {answer}");
    assert_eq!(named(&spans, "workflow welcome").parent_span_id, request.span_id);
    let names: BTreeSet<_> = spans.iter().map(|span| span.name.as_str()).collect();
    let expected = [
        "POST /api/v1/workflows/{workflow}/actions/execute",
        "step trim",
        "task greeter",
        "task greeter attempt",
        "workflow welcome",
    ];
    assert_eq!(names, expected.into());
    let ids: BTreeSet<_> = spans.iter().map(|span| &span.span_id).collect();
    assert_eq!((ids.len(), spans.len()), (5, 5), "{spans:#?}");
    for span in &spans {
        assert_eq!(span.trace_id, request.trace_id);
        assert!(span.span_id == request.span_id || ids.contains(&span.parent_span_id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_leave_out_traces_that_are_not_recorded() {
    let collector = Collector::start(Answer::Status(200));
    let service = start(settings(&collector, "memory://")).await;
    post_run(&service, "hidden", Some(&PARENT.replace("-01", "-00"))).await;
    run(&service, "hidden").await;
    post_run(&service, "shown", None).await;
    run(&service, "shown").await;
    stop(service).await;
    let spans = collector.spans();
    assert!(has(&spans, "shown") && !has(&spans, "hidden"), "{spans:#?}");
    assert!(spans.iter().all(|span| hex(&span.trace_id) != PARENT[3..35]), "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_send_after_the_next_start_what_no_collector_took() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("sqlite://{}", folder.path().join("aios.db").display());
    for refusal in [Answer::Status(503), Answer::Nothing] {
        let collector = Collector::start(refusal);
        let service = start(settings(&collector, &store)).await;
        let id = format!("{refusal:?}").replace(['(', ')'], "-");
        post_run(&service, &id, None).await;
        run(&service, &id).await;
        stop(service).await;
        assert!(collector.requests() > 0);

        collector.set_answer(Answer::Status(200));
        let service = start(settings(&collector, &store)).await;
        let _ = collector.wait_for("run", |spans| has(spans, &id));
        stop(service).await;
        let spans = collector.spans();
        let of_run = spans.iter().filter(|span| !span.name.starts_with("POST"));
        assert_eq!(of_run.clone().count(), 4, "{spans:#?}");
        assert_eq!(of_run.map(|span| &span.span_id).collect::<BTreeSet<_>>().len(), 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_drop_what_a_collector_refuses_and_continue() {
    let collector = Collector::start(Answer::Status(400));
    let service = start(settings(&collector, "memory://")).await;
    post_run(&service, "refused", None).await;
    run(&service, "refused").await;
    let asked = async {
        while collector.requests() < 2 {
            SystemClock.sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(GENEROUS, asked).await.unwrap();
    // All requests that are in progress are refused too.
    stop(service).await;
    assert_eq!(collector.spans(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_begin_with_the_runs_of_now() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("sqlite://{}", folder.path().join("aios.db").display());
    let service = start(super::settings().value("database.url", store.as_str())).await;
    post_run(&service, "before", None).await;
    run(&service, "before").await;
    stop(service).await;

    let collector = Collector::start(Answer::Status(200));
    let service = start(settings(&collector, &store)).await;
    post_run(&service, "after", None).await;
    run(&service, "after").await;
    stop(service).await;
    let spans = collector.spans();
    assert!(has(&spans, "after") && !has(&spans, "before"), "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_name_what_is_wrong_with_the_collector() {
    let collector = Collector::start(Answer::Status(200));
    let with =
        |endpoint| settings(&collector, "memory://").value("telemetry.traces.endpoint", endpoint);
    let text = with("ftp://user:hunter2@collector").load().unwrap_err().to_string();
    assert!(text.contains("http://") && !text.contains("hunter2"), "{text}");
    let settings = with("http://user:hunter2@collector:99999");
    let error = super::service(settings).start().await.unwrap_err();
    assert_eq!(error.code(), "TELEMETRY_FAILED");
    let text = error.to_string();
    assert!(text.contains("invalid port") && !text.contains("hunter2"), "{text}");
}
