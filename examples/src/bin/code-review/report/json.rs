//! The report for programs.

use super::Report;

/// The report as indented JSON. The order of keys is that of the fields.
#[expect(clippy::expect_used, reason = "a report has no maps and no floats, so it is always JSON")]
pub(super) fn render(report: &Report) -> String {
    let text = serde_json::to_string_pretty(report).expect("a report should be JSON");
    format!("{text}\n")
}
