//! The analysis of one file, which is pure except for reading it.

mod functions;
mod language;
mod lexer;
mod lines;
mod markers;
mod secrets;

use std::path::Path;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(crate) use self::{
    functions::{LongFunction, MAX_LINES as MAX_FUNCTION_LINES},
    lines::Lines,
    markers::Marker,
    secrets::{Secret, SecretKind},
};
use self::{language::Language, lines::LineIndex};
use crate::{
    read::{self, Content},
    reviewer::Remark,
    scan::Skipped,
};

/// The most findings of a kind that are kept for a file; the rest are counted.
const MAX_FINDINGS: usize = 100;

/// The outcome of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Analysis {
    /// The file was analysed.
    Reviewed(FileReview),
    /// The file was skipped, and why.
    Skipped(Skipped),
}

/// The results for a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct FileReview {
    /// Its path from the root of the tree, with `/`.
    pub(crate) path: String,
    /// The language it is written in, or `Other`.
    pub(crate) language: String,
    /// Its size.
    pub(crate) bytes: u64,
    /// SHA-256 of its content, in hexadecimal.
    pub(crate) sha256: String,
    /// Its lines.
    pub(crate) lines: Lines,
    /// Findings for a person to review.
    #[serde(default, skip_serializing_if = "Findings::is_empty")]
    pub(crate) findings: Findings,
}

/// Findings for a person to review; each list is sorted by line and has at most 100 items.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Findings {
    /// Notes in comments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) markers: Vec<Marker>,
    /// Functions that are too long.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) long_functions: Vec<LongFunction>,
    /// Likely secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) secrets: Vec<Secret>,
    /// Remarks of the model, if one reviews.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) remarks: Vec<Remark>,
    /// The number of findings that did not fit into the lists.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) omitted: u64,
}

impl Findings {
    /// Whether nothing was found.
    pub(crate) fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

/// Reads and analyses one file. A file that cannot be analysed is [`Analysis::Skipped`], never an
/// error.
///
/// `path` must come from [`scan`](crate::scan::scan): relative, with `/`, without `..`.
pub(crate) fn analyze(root: &Path, path: &str) -> Analysis {
    match read::read(root, path) {
        Ok(content) => Analysis::Reviewed(review(path, &content)),
        Err(skipped) => Analysis::Skipped(skipped),
    }
}

fn review(path: &str, content: &Content) -> FileReview {
    let source = content.text();
    let language = language::detect(path, source);
    let spans = lexer::split(source, &language.syntax);
    FileReview {
        path: path.to_owned(),
        language: language.name.to_owned(),
        bytes: content.bytes(),
        sha256: format!("{:x}", Sha256::digest(content.as_bytes())),
        lines: lines::count(source, &spans),
        findings: findings(source, &spans, language),
    }
}

fn findings(source: &str, spans: &[lexer::Span], language: &Language) -> Findings {
    let syntax = &language.syntax;
    let index = LineIndex::new(source);
    let code = lexer::code_only(source, spans);
    let secrets = secrets::find(source, &index);
    let everywhere = !syntax.has_comments();
    let markers = markers::find(source, spans, &index, everywhere).into_iter().map(|mut marker| {
        if secrets.iter().any(|secret| secret.line == marker.line) {
            marker.note.clear();
        }
        marker
    });
    let mut findings = Findings::default();
    let omitted = &mut findings.omitted;
    findings.markers = keep(markers, omitted);
    findings.long_functions = keep(functions::find_long(&code, syntax.functions, &index), omitted);
    findings.secrets = keep(secrets.iter().cloned(), omitted);
    findings
}

/// The first findings; the rest are counted.
fn keep<T>(found: impl IntoIterator<Item = T>, omitted: &mut u64) -> Vec<T> {
    let mut found = found.into_iter();
    let kept = found.by_ref().take(MAX_FINDINGS).collect();
    *omitted += u64::try_from(found.count()).unwrap_or(u64::MAX);
    kept
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A pattern that is part of this program.
#[expect(clippy::expect_used, reason = "a constant pattern, which the tests compile")]
fn compile(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the pattern should be valid")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::SkipReason;

    fn analyzed(name: &str, content: &[u8]) -> Analysis {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), content).unwrap();
        analyze(folder.path(), name)
    }

    fn reviewed(name: &str, content: &str) -> FileReview {
        match analyzed(name, content.as_bytes()) {
            Analysis::Reviewed(review) => review,
            Analysis::Skipped(skipped) => panic!("{skipped:?}"),
        }
    }

    #[test]
    fn should_review_a_file() {
        let review = reviewed("a.rs", "// TODO: x\nfn f() {}\n");
        assert_eq!((review.language.as_str(), review.bytes), ("Rust", 21));
        assert_eq!(review.lines, Lines { code: 1, comment: 1, blank: 0 });
        assert_eq!(review.findings.markers.len(), 1);
        assert_eq!(
            review.sha256,
            "2203d42d1ac8deec19b7fbde42eecb7bbebcd69e16181436dd4a5cb4f801f6cc"
        );
    }

    #[test]
    fn should_never_quote_a_secret() {
        let secret = concat!("hunter2", "Xy!q9");
        let review = reviewed("a.rs", &format!("// TODO change password = \"{secret}\"\n"));
        assert_eq!(review.findings.secrets.len(), 1);
        assert_eq!(review.findings.markers.len(), 1);
        assert!(!serde_json::to_string(&review).unwrap().contains("hunter2"));
    }

    #[test]
    fn should_bound_findings_and_count_the_rest() {
        let review = reviewed("a.md", &"TODO\n".repeat(MAX_FINDINGS + 5));
        assert_eq!((review.findings.markers.len(), review.findings.omitted), (MAX_FINDINGS, 5));
    }

    #[test]
    fn should_skip_files_that_are_not_text() {
        for (content, reason) in [
            (&b"a\0b"[..], SkipReason::Binary),
            (&b"\xff\xfea\0"[..], SkipReason::NotUtf8),
            (&b"caf\xe9"[..], SkipReason::NotUtf8),
        ] {
            match analyzed("a.rs", content) {
                Analysis::Skipped(skipped) => assert_eq!(skipped.reason, reason),
                Analysis::Reviewed(review) => panic!("{review:?}"),
            }
        }
    }

    #[test]
    fn should_survive_a_round_trip_through_json() {
        let analysis = analyzed("a.rs", b"// FIXME\n");
        let text = serde_json::to_string(&analysis).unwrap();
        assert_eq!(serde_json::from_str::<Analysis>(&text).unwrap(), analysis);
    }
}
