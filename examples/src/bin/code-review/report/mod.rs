//! Combines all analyses and writes the report.

mod json;
mod markdown;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    analysis::{Analysis, FileReview, Findings, Lines},
    scan::Skipped,
};

/// Name of the report for people.
pub(crate) const MARKDOWN: &str = "report.md";
/// Name of the report for programs.
pub(crate) const JSON: &str = "report.json";
/// Prefix of the names of reports that are being written.
pub(crate) const TEMPORARY_PREFIX: &str = ".report.tmp-";

/// The results for a tree. The same tree gives the same report, byte for byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Report {
    /// The totals of all files.
    pub(crate) total: Totals,
    /// Files by language, most code first.
    pub(crate) languages: Vec<LanguageTotals>,
    /// Files with findings, by path.
    pub(crate) findings: Vec<FileFindings>,
    /// Files with the same content, largest first. Empty files are not included.
    pub(crate) duplicates: Vec<Duplicate>,
    /// The files that were not analysed, by path.
    pub(crate) skipped: Vec<Skipped>,
}

/// Sums over files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Totals {
    /// The number of files.
    pub(crate) files: u64,
    /// Their total size.
    pub(crate) bytes: u64,
    /// Their lines.
    pub(crate) lines: Lines,
}

/// Sums over the files of a language.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct LanguageTotals {
    /// The language.
    pub(crate) language: String,
    /// The sums.
    pub(crate) total: Totals,
}

/// Findings in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct FileFindings {
    /// The file.
    pub(crate) path: String,
    /// The findings.
    pub(crate) findings: Findings,
}

/// Files with the same content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Duplicate {
    /// SHA-256 of the content, in hexadecimal.
    pub(crate) sha256: String,
    /// Size of each of them.
    pub(crate) bytes: u64,
    /// The files, sorted; at least two.
    pub(crate) paths: Vec<String>,
}

/// The paths of the reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Written {
    /// The report for people.
    pub(crate) markdown: PathBuf,
    /// The report for programs.
    pub(crate) json: PathBuf,
}

/// Why a report was not written.
#[derive(Debug, thiserror::Error)]
#[error("can't write {}", path.display())]
pub(crate) struct WriteError {
    path: PathBuf,
    source: io::Error,
}

impl Report {
    /// Combines the skipped files of the scan and the results of each file, in any order.
    pub(crate) fn new(skipped: Vec<Skipped>, analyses: impl IntoIterator<Item = Analysis>) -> Self {
        let mut gathered = Gathered { skipped, ..Gathered::default() };
        analyses.into_iter().for_each(|analysis| gathered.add(analysis));
        gathered.into_report()
    }
}

/// Writes both reports into a folder, which is created if it is missing. Each report is written
/// completely or not at all, and writing the same ones again changes nothing.
///
/// # Errors
///
/// [`WriteError`] if one can't be written; the other may have been.
pub(crate) fn write(report: &Report, out: &Path) -> Result<Written, WriteError> {
    let failed = |source| WriteError { path: out.to_owned(), source };
    fs::create_dir_all(out).map_err(failed)?;
    let written = Written { markdown: out.join(MARKDOWN), json: out.join(JSON) };
    write_whole(out, &written.json, &json::render(report))?;
    write_whole(out, &written.markdown, &markdown::render(report))?;
    Ok(written)
}

fn write_whole(folder: &Path, path: &Path, text: &str) -> Result<(), WriteError> {
    let write = || -> io::Result<()> {
        let mut file = temporary_file().tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|source| WriteError { path: path.to_owned(), source })
}

/// A file with the default permissions of new files, not only the owner's.
fn temporary_file() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

#[derive(Default)]
struct Gathered {
    total: Totals,
    languages: BTreeMap<String, Totals>,
    findings: Vec<FileFindings>,
    by_content: BTreeMap<(String, u64), Vec<String>>,
    skipped: Vec<Skipped>,
}

impl Gathered {
    fn add(&mut self, analysis: Analysis) {
        match analysis {
            Analysis::Skipped(skipped) => self.skipped.push(skipped),
            Analysis::Reviewed(review) => self.add_review(review),
        }
    }

    fn add_review(&mut self, review: FileReview) {
        let FileReview { path, language, bytes, sha256, lines, findings } = review;
        self.total.add(bytes, lines);
        self.languages.entry(language).or_default().add(bytes, lines);
        if bytes > 0 {
            self.by_content.entry((sha256, bytes)).or_default().push(path.clone());
        }
        if !findings.is_empty() {
            self.findings.push(FileFindings { path, findings });
        }
    }

    fn into_report(mut self) -> Report {
        self.findings.sort_by(|one, other| one.path.cmp(&other.path));
        self.skipped.sort();
        Report {
            total: self.total,
            languages: sorted_languages(self.languages),
            findings: self.findings,
            duplicates: sorted_duplicates(self.by_content),
            skipped: self.skipped,
        }
    }
}

impl Totals {
    fn add(&mut self, bytes: u64, lines: Lines) {
        self.files += 1;
        self.bytes += bytes;
        self.lines += lines;
    }
}

fn sorted_languages(languages: BTreeMap<String, Totals>) -> Vec<LanguageTotals> {
    let totals = languages.into_iter().map(|(language, total)| LanguageTotals { language, total });
    let mut sorted: Vec<_> = totals.collect();
    sorted.sort_by_key(|language| std::cmp::Reverse(language.total.lines.code));
    sorted
}

fn sorted_duplicates(by_content: BTreeMap<(String, u64), Vec<String>>) -> Vec<Duplicate> {
    let several = by_content.into_iter().filter(|(_, paths)| paths.len() > 1);
    let mut duplicates: Vec<_> = several
        .map(|((sha256, bytes), mut paths)| {
            paths.sort();
            Duplicate { sha256, bytes, paths }
        })
        .collect();
    duplicates.sort_by(|one, other| other.bytes.cmp(&one.bytes).then(one.paths.cmp(&other.paths)));
    duplicates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::SkipReason;

    fn reviewed(path: &str, language: &str, code: u64, sha256: &str) -> Analysis {
        Analysis::Reviewed(FileReview {
            path: path.to_owned(),
            language: language.to_owned(),
            bytes: code,
            sha256: sha256.to_owned(),
            lines: Lines { code, comment: 1, blank: 0 },
            findings: Findings::default(),
        })
    }

    fn sample() -> Vec<Analysis> {
        vec![
            reviewed("b.rs", "Rust", 5, "x"),
            reviewed("a.py", "Python", 9, "y"),
            reviewed("a.rs", "Rust", 5, "x"),
            reviewed("e.rs", "Rust", 0, "e"),
            reviewed("f.rs", "Rust", 0, "e"),
            Analysis::Skipped(Skipped::new("c.png", SkipReason::Binary)),
        ]
    }

    #[test]
    fn should_sum_up_by_language_and_find_duplicates() {
        let report = Report::new(vec![Skipped::new("b", SkipReason::Symlink)], sample());
        assert_eq!((report.total.files, report.total.lines.code), (5, 19));
        let languages: Vec<_> = report.languages.iter().map(|l| l.language.as_str()).collect();
        assert_eq!(languages, ["Rust", "Python"]);
        assert_eq!(report.duplicates.len(), 1);
        assert_eq!(report.duplicates[0].paths, ["a.rs", "b.rs"]);
        let skipped: Vec<_> = report.skipped.iter().map(|skipped| skipped.path.as_str()).collect();
        assert_eq!(skipped, ["b", "c.png"]);
    }

    #[test]
    fn should_not_depend_on_the_order_of_the_analyses() {
        let mut reversed = sample();
        reversed.reverse();
        assert_eq!(Report::new(Vec::new(), sample()), Report::new(Vec::new(), reversed));
    }

    #[test]
    fn should_write_both_reports_and_leave_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let report = Report::new(Vec::new(), sample());
        write(&report, folder.path()).unwrap();
        let written = write(&report, folder.path()).unwrap();
        let text = fs::read_to_string(&written.json).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn should_create_the_folder_or_say_what_it_could_not_write() {
        let folder = tempfile::tempdir().unwrap();
        let written = write(&Report::default(), &folder.path().join("a/b")).unwrap();
        let error = write(&Report::default(), &written.json).unwrap_err();
        assert!(error.to_string().ends_with("a/b/report.json"), "{error}");
    }
}
