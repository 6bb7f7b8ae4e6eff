//! Code that the benchmarks share.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first error, and prints"
)]

pub mod http;
pub mod peers;
pub mod postgres;
pub mod raw;
pub mod sqlite;
pub mod task;
pub mod workflow;

use std::time::Duration;

use aios_core::event::Event;
use serde_json::json;

/// Prints a measurement and its ceiling, as one line that a script can read.
pub fn ratio(name: &str, ours: f64, ceiling: f64, unit: &str) {
    println!(
        "RATIO {name} ours={ours:.2} ceiling={ceiling:.2} unit={unit} ratio={:.2}",
        ours / ceiling
    );
}

/// Prints a measurement without a ceiling.
pub fn figure(name: &str, value: f64, unit: &str) {
    println!("FIGURE {name} value={value:.2} unit={unit}");
}

/// The median of several measurements; the upper of the two middle ones if their number is even.
#[must_use]
pub fn median(measured: &mut [f64]) -> f64 {
    measured.sort_by(f64::total_cmp);
    measured[measured.len() / 2]
}

/// A rate per second.
#[must_use]
pub fn per_second(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

/// Microseconds per item.
#[must_use]
pub fn micros_each(elapsed: Duration, count: usize) -> f64 {
    elapsed.as_secs_f64() * 1e6 / count as f64
}

/// A step's event with a result of 200 bytes.
#[must_use]
pub fn step(operation: usize) -> Event {
    let data = json!({ "operation": operation, "name": "build", "result": "r".repeat(200) });
    Event::new("workflows.deploy.step_completed".parse().unwrap(), "engine-1", &data).unwrap()
}
