//! The report for people: the same facts, with long lists truncated.

use std::fmt::Write;

use super::{Duplicate, FileFindings, Report, Totals};
use crate::{
    analysis::{Findings, MAX_FUNCTION_LINES, SecretKind},
    scan::{SkipReason, Skipped},
};

/// The most items of a list; the JSON report has all.
const MAX_ITEMS: usize = 200;

/// The report as Markdown.
pub(super) fn render(report: &Report) -> String {
    let remarks = remarks(report);
    let sections = [
        Some("# Code review\n".to_owned()),
        Some(languages(report)),
        (!remarks.is_empty()).then(|| section("Remarks of the model", &remarks)),
        Some(section("Likely secrets", &secrets(report))),
        Some(section(
            &format!("Functions over {MAX_FUNCTION_LINES} lines"),
            &long_functions(report),
        )),
        Some(section("TODO and FIXME", &markers(report))),
        Some(section("Duplicated files", &all(&report.duplicates, duplicate))),
        Some(section("Not reviewed", &all(&report.skipped, skipped))),
    ];
    sections.into_iter().flatten().collect::<Vec<_>>().join("\n")
}

fn languages(report: &Report) -> String {
    let mut text = "| language | files | code | comment | blank | bytes |\n".to_owned();
    text.push_str("|---|---:|---:|---:|---:|---:|\n");
    for language in &report.languages {
        text.push_str(&row(&language.language, &language.total));
    }
    text.push_str(&row("**all**", &report.total));
    text
}

fn row(name: &str, total: &Totals) -> String {
    let lines = total.lines;
    let counts = [total.files, lines.code, lines.comment, lines.blank, total.bytes];
    let cells: String = counts.iter().map(|count| format!(" {count} |")).collect();
    format!("| {name} |{cells}\n")
}

fn section(title: &str, items: &[String]) -> String {
    let count = items.len();
    let mut text = format!("## {title} ({count})\n\n");
    if items.is_empty() {
        text.push_str("None.\n");
    }
    for item in items.iter().take(MAX_ITEMS) {
        writeln!(text, "- {item}").unwrap_or_default();
    }
    if count > MAX_ITEMS {
        writeln!(text, "- … and {} more, see `report.json`", count - MAX_ITEMS).unwrap_or_default();
    }
    text
}

fn all<T>(items: &[T], text: fn(&T) -> String) -> Vec<String> {
    items.iter().map(text).collect()
}

fn remarks(report: &Report) -> Vec<String> {
    located(report, |findings| {
        findings.remarks.iter().map(|remark| (remark.line, code(&remark.text))).collect()
    })
}

fn secrets(report: &Report) -> Vec<String> {
    located(report, |findings| {
        let items = findings.secrets.iter();
        items.map(|secret| (secret.line, secret_name(secret.kind).to_owned())).collect()
    })
}

fn long_functions(report: &Report) -> Vec<String> {
    located(report, |findings| {
        let items = findings.long_functions.iter();
        items
            .map(|long| (long.line, format!("{} has {} lines", code(&long.name), long.lines)))
            .collect()
    })
}

fn markers(report: &Report) -> Vec<String> {
    located(report, |findings| {
        let items = findings.markers.iter();
        items
            .map(|marker| (marker.line, code(format!("{} {}", marker.mark, marker.note).trim())))
            .collect()
    })
}

/// One item for each finding, preceded by its place.
fn located(report: &Report, items: fn(&Findings) -> Vec<(u64, String)>) -> Vec<String> {
    let in_file = |file: &FileFindings| {
        let path = file.path.clone();
        let place = move |line| code(&format!("{path}:{line}"));
        items(&file.findings).into_iter().map(move |(line, text)| format!("{} {text}", place(line)))
    };
    report.findings.iter().flat_map(in_file).collect()
}

fn duplicate(duplicate: &Duplicate) -> String {
    let paths: Vec<_> = duplicate.paths.iter().take(MAX_ITEMS).map(|path| code(path)).collect();
    format!("{} × {} bytes: {}", duplicate.paths.len(), duplicate.bytes, paths.join(", "))
}

fn skipped(skipped: &Skipped) -> String {
    let reason = match skipped.reason {
        SkipReason::Unreadable => "can't be read",
        SkipReason::Binary => "binary",
        SkipReason::NotUtf8 => "not UTF-8",
        SkipReason::TooLarge => "too large",
        SkipReason::Symlink => "symbolic link",
        SkipReason::Special => "not a regular file",
        SkipReason::NameNotUtf8 => "its name is not UTF-8",
        SkipReason::AnalysisFailed => "its analysis failed",
        SkipReason::NotReviewedByModel => "not reviewed by the model",
        SkipReason::InvalidIgnoreRules => "invalid ignore rules",
    };
    match skipped.detail.as_str() {
        "" => format!("{} {reason}", code(&skipped.path)),
        detail => format!("{} {reason}: {}", code(&skipped.path), code(detail)),
    }
}

fn secret_name(kind: SecretKind) -> &'static str {
    match kind {
        SecretKind::AwsKey => "AWS key",
        SecretKind::GithubToken => "GitHub token",
        SecretKind::GitlabToken => "GitLab token",
        SecretKind::GoogleApiKey => "Google API key",
        SecretKind::PrivateKey => "private key",
        SecretKind::SlackToken => "Slack token",
        SecretKind::StripeKey => "Stripe key",
        SecretKind::Assignment => "a random-looking value with a telling name",
    }
}

/// The text as inline code on one line, which Markdown leaves unchanged.
fn code(text: &str) -> String {
    let printable = |character: char| if character.is_control() { '\u{fffd}' } else { character };
    let text: String = text.chars().map(printable).collect();
    let longest = text.split(|character| character != '`').map(str::len).max().unwrap_or(0);
    match longest {
        0 => format!("`{text}`"),
        _ => {
            let fence = "`".repeat(longest + 1);
            format!("{fence} {text} {fence}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{Marker, Secret};

    #[test]
    fn should_show_findings_with_their_places() {
        let marker = Marker { line: 7, mark: "TODO".to_owned(), note: "`x`".to_owned() };
        let secret = Secret { line: 9, kind: SecretKind::AwsKey };
        let findings =
            Findings { markers: vec![marker], secrets: vec![secret], ..Findings::default() };
        let file = FileFindings { path: "a\n.rs".to_owned(), findings };
        let text = render(&Report { findings: vec![file], ..Report::default() });
        assert!(text.contains("- `a\u{fffd}.rs:7` `` TODO `x` ``\n"), "{text}");
        assert!(text.contains("- `a\u{fffd}.rs:9` AWS key\n"), "{text}");
        assert!(text.contains("## Duplicated files (0)\n\nNone.\n"), "{text}");
    }

    #[test]
    fn should_cut_long_lists() {
        let text = section("Many", &vec!["x".to_owned(); MAX_ITEMS + 3]);
        assert!(text.ends_with("- … and 3 more, see `report.json`\n"));
        assert_eq!(text.matches("- x\n").count(), MAX_ITEMS);
    }
}
