//! Metrics as messages of OTLP, with cumulative values.

use std::collections::BTreeMap;

use aios_core::event::Timestamp;
use metrics::Key;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{KeyValue, any_value::Value as Text},
    metrics::v1::{
        AggregationTemporality, Exemplar as ExemplarMessage, Gauge, Histogram, HistogramDataPoint,
        Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
        exemplar::Value as ExemplarValue, metric::Data, number_data_point::Value as Number,
    },
    resource::v1::Resource,
};

use super::batch::batches;
use crate::telemetry::{
    metrics::{
        catalog,
        histogram::{Buckets, Exemplar},
        process,
        recorder::{Series, Value},
    },
    otlp::{attribute, nanoseconds, resource, scope},
};

/// Requests with all values at a time, none of which is larger than collectors take. `service` and
/// `instance` name the process.
pub(super) fn requests(
    service: &str,
    instance: &str,
    series: &Series,
    now: Timestamp,
) -> Vec<ExportMetricsServiceRequest> {
    let resource = resource(vec![
        text("service.name", service),
        // The values of several processes are not those of one.
        text("service.instance.id", instance),
    ]);
    let batches = batches(metrics(series, now)).into_iter();
    batches.map(|metrics| request(resource.clone(), metrics)).collect()
}

/// A request with a batch of metrics.
fn request(resource: Resource, metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    let scope = Some(scope());
    let scope_metrics = vec![ScopeMetrics { scope, metrics, ..ScopeMetrics::default() }];
    let resource = Some(resource);
    let resource_metrics =
        vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }];
    ExportMetricsServiceRequest { resource_metrics }
}

/// The metrics with all their values, by name.
fn metrics(series: &Series, now: Timestamp) -> impl Iterator<Item = Metric> {
    let mut families: BTreeMap<String, Vec<(Key, Value)>> = BTreeMap::new();
    for (key, value) in series.values() {
        families.entry(key.name().to_owned()).or_default().push((key, value));
    }
    families.into_iter().filter_map(move |(name, values)| {
        let since = process::since(&name).unwrap_or(series.since);
        // The clock of the system may have been set back.
        let window = Window { start: nanoseconds(since), end: nanoseconds(now.max(since)) };
        Some(Metric {
            description: description(series, &name),
            unit: unit(&name).to_owned(),
            data: Some(data(&values, window)?),
            name,
            ..Metric::default()
        })
    })
}

/// The time in which cumulative values were counted, in nanoseconds since 1970.
#[derive(Clone, Copy)]
struct Window {
    /// When they were 0.
    start: u64,
    /// When they were read.
    end: u64,
}

/// The meaning of a metric: ours, or the one that the program has described.
fn description(series: &Series, name: &str) -> String {
    let known = catalog::help(name).map(Into::into).or_else(|| series.description(name));
    known.map(|text| text.to_string()).unwrap_or_default()
}

/// The unit of a name, as UCUM writes it.
fn unit(name: &str) -> &'static str {
    match catalog::unit(name.strip_suffix("_total").unwrap_or(name)) {
        Some("seconds") => "s",
        Some("bytes") => "By",
        _ => "",
    }
}

/// The values of one name. Those of another kind than the first are left out, as in the text.
fn data(values: &[(Key, Value)], window: Window) -> Option<Data> {
    let (_, first) = values.first()?;
    let temporality = AggregationTemporality::Cumulative.into();
    Some(match first {
        Value::Counter(_) | Value::Seconds(_) => Data::Sum(Sum {
            data_points: values.iter().filter_map(|it| count(it, window)).collect(),
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
        Value::Gauge(_) => Data::Gauge(Gauge {
            data_points: values.iter().filter_map(|it| state(it, window)).collect(),
        }),
        Value::Histogram(_) => Data::Histogram(Histogram {
            data_points: values.iter().filter_map(|it| distribution(it, window)).collect(),
            aggregation_temporality: temporality,
        }),
    })
}

/// The value of a counter.
fn count((key, value): &(Key, Value), window: Window) -> Option<NumberDataPoint> {
    let count = match value {
        Value::Counter(count) => Number::AsInt(i64::try_from(*count).unwrap_or(i64::MAX)),
        Value::Seconds(seconds) => Number::AsDouble(*seconds),
        Value::Gauge(_) | Value::Histogram(_) => return None,
    };
    Some(NumberDataPoint {
        attributes: attributes(key),
        start_time_unix_nano: window.start,
        time_unix_nano: window.end,
        value: Some(count),
        ..NumberDataPoint::default()
    })
}

/// The value of a gauge.
fn state((key, value): &(Key, Value), window: Window) -> Option<NumberDataPoint> {
    let Value::Gauge(state) = value else { return None };
    Some(NumberDataPoint {
        attributes: attributes(key),
        time_unix_nano: window.end,
        value: Some(Number::AsDouble(*state)),
        ..NumberDataPoint::default()
    })
}

/// The value of a histogram. OTLP counts each bucket by itself.
fn distribution((key, value): &(Key, Value), window: Window) -> Option<HistogramDataPoint> {
    let Value::Histogram(buckets) = value else { return None };
    let snapshot = Buckets::snapshot(buckets);
    let mut below = 0;
    let bucket_counts = snapshot.buckets.iter().map(|(_, up_to)| {
        let count = up_to - below;
        below = *up_to;
        count
    });
    let bounds = snapshot.buckets.iter().map(|(bound, _)| *bound);
    Some(HistogramDataPoint {
        attributes: attributes(key),
        start_time_unix_nano: window.start,
        time_unix_nano: window.end,
        count: snapshot.count,
        sum: Some(snapshot.sum),
        bucket_counts: bucket_counts.collect(),
        explicit_bounds: bounds.filter(|bound| bound.is_finite()).collect(),
        exemplars: snapshot.exemplars.iter().flatten().map(exemplar).collect(),
        ..HistogramDataPoint::default()
    })
}

/// The exemplar of a bucket.
fn exemplar(exemplar: &Exemplar) -> ExemplarMessage {
    ExemplarMessage {
        time_unix_nano: nanoseconds(exemplar.at),
        trace_id: exemplar.trace.trace_id.to_bytes().to_vec(),
        span_id: exemplar.trace.span_id.to_bytes().to_vec(),
        value: Some(ExemplarValue::AsDouble(exemplar.value)),
        ..ExemplarMessage::default()
    }
}

/// The labels. Of two with the same name, the last one counts.
fn attributes(key: &Key) -> Vec<KeyValue> {
    let labels: BTreeMap<_, _> = key.labels().map(|label| (label.key(), label.value())).collect();
    labels.into_iter().map(|(name, value)| text(name, value)).collect()
}

/// A text attribute.
fn text(name: &str, value: &str) -> KeyValue {
    attribute(name, Text::StringValue(value.to_owned()))
}
