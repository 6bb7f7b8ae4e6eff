//! Metrics of a service at a collector.

use std::{collections::BTreeMap, time::Duration};

use aios_agents::{prelude::*, trace::TraceParent};
use aios_core::clock::{Clock, SystemClock};
use aios_service::{
    RunningService, Service,
    config::SettingsBuilder,
    telemetry::{Metrics, Telemetry},
};
use aios_tests::otlp::{
    Answer, Collector, Data, ExportMetricsServiceRequest, Metric, metric, number_data_point::Value,
};
use prost::Message;

use super::{GENEROUS, Output, stop};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn welcome(context: WorkflowContext, name: String) -> Result<String, WorkflowError> {
    context.step("greet", || async { Ok::<_, TaskError>(format!("Hello, {name}!")) }).await
}

fn settings(collector: &Collector) -> SettingsBuilder {
    super::settings()
        .value("telemetry.service_name", "orders")
        .value("telemetry.metrics.endpoint", collector.url())
        .value("telemetry.metrics.interval", "1s")
}

fn service(settings: SettingsBuilder) -> Service {
    super::service(settings).workflow("welcome", welcome)
}

async fn run(service: &RunningService, id: &str) {
    let run = service.runtime().start("welcome", "Ada").id(id).await.unwrap();
    assert_eq!(run.result::<String>().await.unwrap(), "Hello, Ada!");
}

/// Waits until it is true.
async fn until(what: impl Fn() -> bool) {
    let looking = async {
        while !what() {
            SystemClock.sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(GENEROUS, looking).await.unwrap();
}

fn named<'e>(export: &'e ExportMetricsServiceRequest, name: &str) -> &'e Metric {
    metric(export, name).unwrap_or_else(|| panic!("no {name}: {export:#?}"))
}

/// The values of a counter or gauge by the texts of their attributes.
fn values(export: &ExportMetricsServiceRequest, name: &str) -> BTreeMap<String, f64> {
    let points = match &named(export, name).data {
        Some(Data::Sum(sum)) => &sum.data_points,
        Some(Data::Gauge(gauge)) => &gauge.data_points,
        other => panic!("{name} is {other:?}"),
    };
    let text = |attributes: &[_]| format!("{attributes:?}");
    let value = |value: &Option<Value>| match value {
        Some(Value::AsInt(number)) => f64::from(i32::try_from(*number).unwrap()),
        Some(Value::AsDouble(number)) => *number,
        None => panic!("{name} has no value"),
    };
    points.iter().map(|point| (text(&point.attributes), value(&point.value))).collect()
}

/// How many exports ended with an outcome.
fn outcomes(export: &ExportMetricsServiceRequest, outcome: &str) -> f64 {
    let values = values(export, "aios_metrics_exports_total");
    let of = values.iter().filter(|(text, _)| text.contains(&format!("\"{outcome}\"")));
    of.map(|(_, count)| count).sum()
}

/// Checks a counter, its unit and its times.
fn check_counter(exports: &[ExportMetricsServiceRequest]) {
    let mut starts = Vec::new();
    for export in exports {
        let Some(runs) = metric(export, "aios_runs_started_total") else { continue };
        let Some(Data::Sum(sum)) = &runs.data else { panic!("{runs:?}") };
        assert!(sum.is_monotonic && sum.aggregation_temporality == 2, "cumulative: {sum:?}");
        assert_eq!(
            (&*runs.unit, &*runs.description),
            ("", "Runs that were started by this process")
        );
        let [point] = &sum.data_points[..] else { panic!("{sum:?}") };
        assert!(point.start_time_unix_nano <= point.time_unix_nano, "{point:?}");
        starts.push(point.start_time_unix_nano);
    }
    assert!(!starts.is_empty() && starts.iter().all(|start| *start == starts[0]), "{starts:?}");
}

/// Checks a histogram of two values and its exemplar.
fn check_histogram(export: &ExportMetricsServiceRequest) {
    let metric = named(export, "shop_wait_seconds");
    assert_eq!((&*metric.unit, &*metric.description), ("s", "How long it waits"));
    let Some(Data::Histogram(histogram)) = &metric.data else { panic!("{metric:?}") };
    assert_eq!(histogram.aggregation_temporality, 2, "cumulative");
    let [point] = &histogram.data_points[..] else { panic!("{histogram:?}") };
    assert_eq!((point.count, point.sum), (2, Some(100_000.3)));
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count, "each value once");
    assert_eq!(point.bucket_counts.last(), Some(&1), "above every bound");
    let [exemplar] = &point.exemplars[..] else { panic!("{point:?}") };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&exemplar.trace_id), TRACE[3..35]);
    assert_eq!(hex(&exemplar.span_id), TRACE[36..52]);
}

/// The recorder is that of the thread, so the service runs on one thread.
#[tokio::test]
async fn should_export_every_kind_of_metric() {
    let collector = Collector::start(Answer::Status(200));
    let metrics = Metrics::new();
    let _recorder = metrics::set_default_local_recorder(&metrics);
    let service = service(settings(&collector)).metrics(metrics.clone()).start().await.unwrap();
    run(&service, "r1").await;
    metrics::describe_histogram!("shop_wait_seconds", "How long it waits");
    let trace: TraceParent = TRACE.parse().unwrap();
    trace.in_scope(|| metrics::histogram!("shop_wait_seconds").record(0.3));
    metrics::histogram!("shop_wait_seconds").record(100_000.0);
    metrics::gauge!("shop.open", "door" => "front").set(0.5);
    let before = collector.exports().len();
    until(|| collector.exports().len() > before + 1).await;
    stop(service).await;

    let exports = collector.exports();
    check_counter(&exports);
    let last = exports.last().unwrap();
    check_histogram(last);
    assert_eq!(values(last, "aios_runs_started_total").into_values().sum::<f64>(), 1.0);
    assert_eq!(values(last, "shop.open").into_values().sum::<f64>(), 0.5);
    assert_eq!(values(last, "aios_broker_connected").into_values().sum::<f64>(), 1.0);
    assert_eq!(named(last, "aios_run_seconds").unit, "s");
    let [resource] = &last.resource_metrics[..] else { panic!("{last:?}") };
    let attributes = format!("{:?}", resource.resource);
    assert!(attributes.contains("\"orders\"") && attributes.contains("service.instance.id"));
    #[cfg(target_os = "linux")]
    assert_eq!(
        (
            &*named(last, "process_resident_memory_bytes").unit,
            &*named(last, "process_cpu_seconds_total").unit
        ),
        ("By", "s")
    );
}

#[tokio::test]
async fn should_send_the_newest_values_once_the_collector_is_back() {
    for refusal in [Answer::Status(503), Answer::Status(400), Answer::Nothing] {
        let collector = Collector::start(refusal);
        let metrics = Metrics::new();
        let _recorder = metrics::set_default_local_recorder(&metrics);
        let service = service(settings(&collector)).metrics(metrics.clone()).start().await.unwrap();
        until(|| collector.requests() > 0).await;
        run(&service, "r1").await;
        collector.set_answer(Answer::Status(200));
        stop(service).await;
        let exports = collector.exports();
        let last = exports.last().unwrap_or_else(|| panic!("nothing after {refusal:?}"));
        assert_eq!(values(last, "aios_runs_started_total").into_values().sum::<f64>(), 1.0);
    }
}

#[tokio::test]
async fn should_send_more_than_a_collector_takes_at_once() {
    const LIMIT: usize = 4 << 20;

    let collector = Collector::start(Answer::Status(200));
    let metrics = Metrics::new();
    let _recorder = metrics::set_default_local_recorder(&metrics);
    let settings = settings(&collector).value("telemetry.metrics.interval", "1h");
    let service = service(settings).metrics(metrics.clone()).start().await.unwrap();
    until(|| collector.requests() > 0).await;
    let long = "x".repeat(50_000);
    for number in 0..200 {
        metrics::counter!("shop_orders_total", "id" => format!("{number}{long}")).increment(1);
    }
    metrics::histogram!("shop_wait_seconds").record(0.3);
    stop(service).await;

    let exports = collector.exports();
    assert!(exports.iter().all(|export| export.encoded_len() < LIMIT));
    let orders = exports.iter().filter(|export| metric(export, "shop_orders_total").is_some());
    let orders: Vec<_> = orders.flat_map(|export| values(export, "shop_orders_total")).collect();
    assert_eq!(orders.len(), 200, "every value once");
    let waits = exports.iter().filter(|export| metric(export, "shop_wait_seconds").is_some());
    assert_eq!(waits.count(), 1);
}

#[tokio::test]
async fn should_end_although_no_collector_answers() {
    let collector = Collector::start(Answer::Nothing);
    let service = service(settings(&collector)).metrics(Metrics::new()).start().await.unwrap();
    until(|| collector.requests() > 0).await;
    run(&service, "r1").await;
    stop(service).await;
    assert_eq!(collector.exports(), []);
}

#[tokio::test]
async fn should_send_the_last_values_although_the_collector_of_traces_is_silent() {
    let collector = Collector::start(Answer::Status(200));
    let silent = Collector::start(Answer::Nothing);
    let metrics = Metrics::new();
    let _recorder = metrics::set_default_local_recorder(&metrics);
    let settings = settings(&collector)
        .value("telemetry.metrics.interval", "1h")
        .value("telemetry.traces.endpoint", silent.url());
    let service = service(settings).metrics(metrics.clone()).start().await.unwrap();
    until(|| collector.requests() > 0).await;
    run(&service, "r1").await;
    stop(service).await;
    assert!(silent.requests() > 0);
    let last = collector.exports().pop().unwrap();
    assert_eq!(values(&last, "aios_runs_started_total").into_values().sum::<f64>(), 1.0);
}

#[tokio::test]
async fn should_log_and_count_an_outcome_when_it_changes() {
    let collector = Collector::start(Answer::Status(503));
    let log = Output::default();
    let all = settings(&collector).load().unwrap();
    let _second = aios_tests::log::second_subscriber();
    let (dispatch, guard) = Telemetry::from_settings(&all).log_output(log.clone()).build().unwrap();
    let _subscriber = tracing::dispatcher::set_default(&dispatch);
    let service = service(settings(&collector)).metrics(Metrics::new()).start().await.unwrap();
    until(|| collector.requests() >= 2).await;
    collector.set_answer(Answer::Rejects(3));
    until(|| collector.exports().len() >= 2).await;
    collector.set_answer(Answer::Status(200));
    stop(service).await;
    assert!(guard.flush());

    let last = collector.exports().pop().unwrap();
    assert!(outcomes(&last, "refused") >= 2.0 && outcomes(&last, "partial") >= 2.0, "{last:#?}");
    let text = log.text();
    let times = |part: &str| text.lines().filter(|line| line.contains(part)).count();
    assert_eq!(times("could not send metrics"), 1, "{text}");
    assert_eq!(times("answers with status 503"), 1, "{text}");
    assert_eq!(times("does not accept every value"), 1, "{text}");
    assert_eq!(times("too old"), 1, "{text}");
    assert_eq!(times("accepts values again"), 1, "{text}");
}

async fn refused(service: Service) -> String {
    let error = service.start().await.unwrap_err();
    assert_eq!(error.code(), "TELEMETRY_FAILED");
    error.to_string()
}

#[tokio::test]
async fn should_name_what_prevents_an_export() {
    let collector = Collector::start(Answer::Status(200));
    let error = refused(service(settings(&collector).value("metrics.enabled", false))).await;
    assert!(error.contains("metrics.enabled is false"), "{error}");
    let with = |key: &str, value: &str| {
        service(settings(&collector).value(key, value)).metrics(Metrics::new())
    };
    let url = "http://user:hunter2@collector:99999";
    let error = refused(with("telemetry.metrics.endpoint", url)).await;
    assert!(error.contains("can't send metrics") && error.contains("invalid port"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    let error = refused(with("telemetry.metrics.headers.content_type", "text/plain")).await;
    assert!(error.contains("content-type is set by the protocol"), "{error}");
}
