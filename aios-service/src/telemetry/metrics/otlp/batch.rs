//! Batches of metrics that are small enough for a collector.

use std::mem;

use opentelemetry_proto::tonic::metrics::v1::{Gauge, Histogram, Metric, Sum, metric::Data};
use prost::Message;

/// The largest batch, in bytes. Collectors refuse messages of more than 4 MiB by default.
const MAX_BATCH: usize = 2 << 20;

/// All metrics in as few batches as possible. One batch is empty if there are none.
pub(super) fn batches(metrics: impl Iterator<Item = Metric>) -> Vec<Vec<Metric>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut size = 0;
    for part in metrics.flat_map(parts) {
        let length = part.encoded_len();
        if size + length > MAX_BATCH && !batch.is_empty() {
            batches.push(mem::take(&mut batch));
            size = 0;
        }
        size += length;
        batch.push(part);
    }
    batches.push(batch);
    batches
}

/// A metric in parts that fit into a batch, each with some of the values. A single value is not divided.
fn parts(mut metric: Metric) -> Vec<Metric> {
    if metric.encoded_len() <= MAX_BATCH {
        return vec![metric];
    }
    let Some(half) = metric.data.as_mut().and_then(take_half) else { return vec![metric] };
    let half = Metric {
        name: metric.name.clone(),
        description: metric.description.clone(),
        unit: metric.unit.clone(),
        data: Some(half),
        ..Metric::default()
    };
    [parts(metric), parts(half)].concat()
}

/// Takes the second half of the values, unless there is only one.
fn take_half(data: &mut Data) -> Option<Data> {
    Some(match data {
        Data::Sum(sum) => Data::Sum(Sum { data_points: split(&mut sum.data_points)?, ..*sum }),
        Data::Gauge(gauge) => Data::Gauge(Gauge { data_points: split(&mut gauge.data_points)? }),
        Data::Histogram(histogram) => Data::Histogram(Histogram {
            data_points: split(&mut histogram.data_points)?,
            ..*histogram
        }),
        _ => return None,
    })
}

/// Takes the second half of a list, unless it has one element.
fn split<T>(points: &mut Vec<T>) -> Option<Vec<T>> {
    (points.len() > 1).then(|| points.split_off(points.len() / 2))
}
