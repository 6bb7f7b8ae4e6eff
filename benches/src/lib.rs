//! What the benchmarks share.

/// Prints a measurement beside its ceiling, as one line that a script can read.
#[allow(clippy::print_stdout, reason = "the output of a benchmark")]
pub fn ratio(name: &str, ours: f64, ceiling: f64, unit: &str) {
    println!(
        "RATIO {name} ours={ours:.2} ceiling={ceiling:.2} unit={unit} ratio={:.2}",
        ours / ceiling
    );
}
