//! Numbers within the limits of a schema.

use serde_json::{Map, Number, Value};

/// Multiples of a fraction that are tried until one is an integer.
const MOST_MULTIPLES: i128 = 1000;

/// Integers: the least one, or the largest one if only that is limited and below 0.
#[allow(clippy::cast_precision_loss, reason = "an inexact candidate is not valid, and left out")]
pub(super) fn integers(fields: &Map<String, Value>, seed: u64) -> Vec<Value> {
    let step = fields.get("multipleOf").and_then(Value::as_f64).map_or(1, |step| {
        let is_whole = |times: &i128| (step * *times as f64).fract() == 0.0;
        let times = (1..=MOST_MULTIPLES).find(is_whole).unwrap_or(1);
        ceil(step * times as f64).max(1)
    });
    let bound = |name: &str, towards: fn(f64) -> f64, shift: i128| {
        fields.get(name).map(|limit| whole(limit, towards) + shift)
    };
    let least = [bound("minimum", f64::ceil, 0), bound("exclusiveMinimum", f64::floor, 1)];
    let most = [bound("maximum", f64::floor, 0), bound("exclusiveMaximum", f64::ceil, -1)];
    let least = least.into_iter().flatten().max();
    let most = most.into_iter().flatten().min();
    let seed = i128::from(seed);
    let (first, towards) = match (least, most) {
        (Some(least), _) => (least + (-least).rem_euclid(step), step),
        (None, Some(most)) if most < 0 => (most - most.rem_euclid(step), -step),
        _ => (0, step),
    };
    [first + seed * towards, first].into_iter().filter_map(json).collect()
}

/// Numbers that need not be integers.
#[allow(clippy::cast_precision_loss, reason = "an inexact candidate is not valid, and left out")]
pub(super) fn numbers(fields: &Map<String, Value>, seed: u64) -> Vec<Value> {
    let limit = |name: &str| fields.get(name).and_then(Value::as_f64);
    let tighter =
        |one: Option<f64>, other: Option<f64>, choose: fn(f64, f64) -> f64| match (one, other) {
            (Some(one), Some(other)) => Some(choose(one, other)),
            (one, other) => one.or(other),
        };
    let least = tighter(limit("minimum"), limit("exclusiveMinimum"), f64::max);
    let most = tighter(limit("maximum"), limit("exclusiveMaximum"), f64::min);
    let seed = seed as f64;
    let mut candidates = match (least, most) {
        (Some(least), Some(most)) => {
            let part = (most - least) * (seed + 1.0) / (seed + 2.0);
            vec![least + seed, least + seed + 1.0, least + part, most]
        }
        (Some(least), None) => vec![least + seed, least + seed + 1.0],
        (None, Some(most)) if most <= 0.0 => vec![most - seed, most - seed - 1.0],
        _ => vec![seed, 0.0],
    };
    if let Some(step) = limit("multipleOf") {
        let times: Vec<_> = candidates.iter().map(|it| (it / step).ceil()).collect();
        // Without the rounding errors of the multiplication.
        let multiple = |times: f64| format!("{:.12}", times * step).parse().unwrap_or(0.0);
        candidates =
            times.into_iter().flat_map(|it| [it, it + seed, it - 1.0]).map(multiple).collect();
    }
    candidates.into_iter().filter_map(Number::from_f64).map(Value::Number).collect()
}

/// A limit as an integer.
fn whole(limit: &Value, towards: fn(f64) -> f64) -> i128 {
    let exact = limit.as_i64().map(i128::from).or_else(|| limit.as_u64().map(i128::from));
    exact.unwrap_or_else(|| ceil(towards(limit.as_f64().unwrap_or(0.0))))
}

/// The least integer that is not less.
#[allow(clippy::cast_possible_truncation, reason = "the cast saturates")]
fn ceil(number: f64) -> i128 {
    // A smaller range, so that sums do not overflow.
    i128::from(number.ceil() as i64)
}

/// An integer as JSON, if it has no more than 64 bits.
fn json(integer: i128) -> Option<Value> {
    let signed = i64::try_from(integer).ok().map(Value::from);
    signed.or_else(|| u64::try_from(integer).ok().map(Value::from))
}
