//! OpenMetrics text, version 1.0.
//!
//! Families are sorted by name and values by labels, so that two texts can be compared.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

use metrics::Key;

use super::{
    catalog,
    histogram::{Buckets, Exemplar},
    recorder::{Series, Value},
};

/// Values of one metric, by their labels as text.
type Family = BTreeMap<String, Value>;

/// Writes all values, and the end that the format requires.
pub(super) fn render(series: &Series) -> String {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for (key, value) in series.values() {
        let name = name(key.name());
        families.entry(name).or_default().insert(labels(&key), value);
    }
    let mut text = String::new();
    for (name, family) in &families {
        write_family(&mut text, name, family, series);
    }
    text + "# EOF\n"
}

/// Writes a metric: type, unit, meaning, and values.
fn write_family(text: &mut String, name: &str, family: &Family, series: &Series) {
    let Some(kind) = family.values().next().map(Value::kind) else { return };
    let base = match kind {
        "counter" => name.strip_suffix("_total").unwrap_or(name),
        _ => name,
    };
    // Writing to a String never fails.
    let _ = writeln!(text, "# TYPE {base} {kind}");
    if let Some(unit) = catalog::unit(base) {
        let _ = writeln!(text, "# UNIT {base} {unit}");
    }
    let help = catalog::help(name).map(Into::into).or_else(|| series.description(name));
    if let Some(help) = help {
        let _ = writeln!(text, "# HELP {base} {}", escape(&help));
    }
    // A name that is used for two kinds is shown as the first; the rest would be invalid.
    for (labels, value) in family.iter().filter(|(_, value)| value.kind() == kind) {
        match value {
            Value::Counter(value) => {
                let _ = writeln!(text, "{base}_total{} {value}", braces(labels, None));
            }
            Value::Seconds(value) => {
                let _ = writeln!(text, "{base}_total{} {}", braces(labels, None), number(*value));
            }
            Value::Gauge(value) => {
                let _ = writeln!(text, "{base}{} {}", braces(labels, None), number(*value));
            }
            Value::Histogram(buckets) => write_histogram(text, base, labels, buckets),
        }
    }
}

/// Writes the buckets of a histogram, each with the number of values up to its bound.
fn write_histogram(text: &mut String, base: &str, labels: &str, buckets: &Buckets) {
    let snapshot = buckets.snapshot();
    for ((bound, count), exemplar) in snapshot.buckets.iter().zip(&snapshot.exemplars) {
        let labels = braces(labels, Some(&number(*bound)));
        let _ = write!(text, "{base}_bucket{labels} {count}");
        let _ = match exemplar {
            Some(exemplar) => write_exemplar(text, exemplar),
            None => writeln!(text),
        };
    }
    let labels = braces(labels, None);
    let _ = writeln!(text, "{base}_count{labels} {}", snapshot.count);
    let _ = writeln!(text, "{base}_sum{labels} {}", number(snapshot.sum));
}

/// Writes the exemplar after its bucket.
fn write_exemplar(text: &mut String, exemplar: &Exemplar) -> fmt::Result {
    let Exemplar { trace, value, at } = exemplar;
    let trace_id = trace.trace_id;
    let micros = at.as_micros();
    let seconds = micros.div_euclid(1_000_000);
    let fraction = micros.rem_euclid(1_000_000);
    writeln!(text, " # {{trace_id=\"{trace_id}\"}} {} {seconds}.{fraction:06}", number(*value))
}

/// The labels in braces, with the bound of a bucket as the last one.
fn braces(labels: &str, bound: Option<&str>) -> String {
    match (labels, bound) {
        ("", None) => String::new(),
        ("", Some(bound)) => format!("{{le=\"{bound}\"}}"),
        (labels, None) => format!("{{{labels}}}"),
        (labels, Some(bound)) => format!("{{{labels},le=\"{bound}\"}}"),
    }
}

/// The labels, sorted by name.
fn labels(key: &Key) -> String {
    let mut labels: Vec<_> = key
        .labels()
        .map(|label| format!("{}=\"{}\"", name(label.key()), escape(label.value())))
        .collect();
    labels.sort_unstable();
    labels.join(",")
}

/// A valid name: every other character becomes an underscore.
fn name(text: &str) -> String {
    text.chars().map(|it| if it.is_ascii_alphanumeric() || it == '_' { it } else { '_' }).collect()
}

/// Escapes a text.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A number, as the format writes it.
fn number(value: f64) -> String {
    match value {
        value if value.is_nan() => "NaN".to_owned(),
        value if value.is_infinite() => if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
        value => format!("{value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use aios_agents::trace::TraceParent;
    use metrics::with_local_recorder;

    use super::super::Metrics;

    #[test]
    fn should_write_every_kind() {
        let metrics = Metrics::new();
        with_local_recorder(&metrics, || {
            metrics::counter!("shop_orders_total", "kind" => "a\"b\\c\nd").increment(2);
            metrics::gauge!("shop.open").set(0.5);
            metrics::describe_gauge!("shop_open", "Whether it is open");
            metrics::histogram!("shop_wait_seconds").record(0.002);
        });
        let text = metrics.render();
        for part in [
            "# TYPE shop_open gauge\n# HELP shop_open Whether it is open\nshop_open 0.5\n",
            "# TYPE shop_orders counter\nshop_orders_total{kind=\"a\\\"b\\\\c\\nd\"} 2\n",
            "# TYPE shop_wait_seconds histogram\n# UNIT shop_wait_seconds seconds\n",
            "shop_wait_seconds_bucket{le=\"0.001\"} 0\nshop_wait_seconds_bucket{le=\"0.0025\"} 1\n",
            "shop_wait_seconds_bucket{le=\"+Inf\"} 1\nshop_wait_seconds_count 1\nshop_wait_seconds_sum 0.002\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(text.ends_with("\n# EOF\n"));
    }

    #[test]
    fn should_name_the_last_sampled_trace_of_each_bucket() {
        let metrics = Metrics::new();
        let record = |trace: &str, value: f64| {
            let trace: TraceParent = trace.parse().unwrap();
            trace.in_scope(|| metrics::histogram!("shop_wait_seconds").record(value));
        };
        with_local_recorder(&metrics, || {
            record("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", 0.3);
            record("00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", 0.4);
            record("00-2af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", 0.5);
            metrics::histogram!("shop_wait_seconds").record(2.0);
        });
        let text = metrics.render();
        let exemplars: Vec<_> = text.lines().filter(|line| line.contains(" # ")).collect();
        let [line] = exemplars[..] else { panic!("{text}") };
        let expected = "shop_wait_seconds_bucket{le=\"0.5\"} 3 \
                        # {trace_id=\"1af7651916cd43dd8448eb211c80319c\"} 0.4 ";
        let at = line.strip_prefix(expected).unwrap_or_else(|| panic!("{line}"));
        assert!(at.parse::<f64>().is_ok_and(|seconds| seconds > 1.7e9), "{line}");
    }

    #[test]
    fn should_bound_the_number_of_series() {
        let metrics = Metrics::new();
        with_local_recorder(&metrics, || {
            for number in 0..10_000_u32 {
                metrics::counter!("shop_total", "id" => number.to_string()).increment(1);
            }
        });
        let text = metrics.render();
        let lines = text.lines().filter(|line| line.starts_with("shop_total{")).count();
        assert_eq!(lines, 257);
        assert!(text.contains("shop_total{id=\"other\"} 9744\n"), "{text}");
    }
}
