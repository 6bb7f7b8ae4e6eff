//! Lists the files of a tree.
//!
//! `.gitignore` files apply, including those above the tree, with or without a repository. Rules of
//! a single clone or user (`.git/info/exclude`, git's global list) do not apply, so that the same
//! tree gives the same list everywhere. Hidden files are included, because they often contain
//! secrets.

use std::{
    fmt::Display,
    fs, io,
    path::{Path, PathBuf},
};

use ignore::{DirEntry, WalkBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::own_files::OwnFiles;

/// Folders of version control.
const VERSION_CONTROL: [&str; 5] = [".git", ".hg", ".svn", ".jj", ".bzr"];

/// The files of a tree, both lists sorted by path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Scan {
    /// Files to analyse.
    pub(crate) files: Vec<FileEntry>,
    /// The files that are not analysed, and why.
    pub(crate) skipped: Vec<Skipped>,
}

/// A file to analyse.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub(crate) struct FileEntry {
    /// Its path from the root of the tree, with `/`.
    pub(crate) path: String,
    /// Its size when it was listed.
    pub(crate) bytes: u64,
}

/// A file or folder that is not analysed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Skipped {
    /// Its path from the root of the tree, with `/`; `.` is the root.
    pub(crate) path: String,
    /// The reason.
    pub(crate) reason: SkipReason,
    /// The message of the operating system, if there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) detail: String,
}

/// Why a file or folder is not analysed.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SkipReason {
    /// It cannot be opened or read.
    Unreadable,
    /// It is not text.
    Binary,
    /// It is text in another encoding.
    NotUtf8,
    /// It is larger than the limit.
    TooLarge,
    /// It is a symbolic link, which is never followed.
    Symlink,
    /// It is a socket, a pipe or a device.
    Special,
    /// Its name is not UTF-8; `path` shows the name with replacement characters.
    NameNotUtf8,
    /// The analysis itself failed.
    AnalysisFailed,
    /// It was analysed, but the model did not review it.
    NotReviewedByModel,
    /// Rules in a `.gitignore` file there are invalid. The files themselves are analysed.
    InvalidIgnoreRules,
}

impl Skipped {
    /// A file or folder that is not analysed.
    pub(crate) fn new(path: impl Into<String>, reason: SkipReason) -> Self {
        Self { path: path.into(), reason, detail: String::new() }
    }

    /// Adds the message of the operating system. It must not contain an absolute path.
    pub(crate) fn because(mut self, detail: impl Display) -> Self {
        self.detail = detail.to_string();
        self
    }
}

/// Why there is nothing to list.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScanError {
    /// The root cannot be found or read.
    #[error("can't read {}", path.display())]
    Unreadable {
        /// The root.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The root is a file.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// The root.
        path: PathBuf,
    },
}

/// Finds the root of a tree: an absolute path without symbolic links.
///
/// # Errors
///
/// [`ScanError`] if it is not a directory that can be read.
pub(crate) fn root(path: &Path) -> Result<PathBuf, ScanError> {
    let unreadable = |source| ScanError::Unreadable { path: path.to_owned(), source };
    let root = fs::canonicalize(path).map_err(unreadable)?;
    if !root.is_dir() {
        return Err(ScanError::NotADirectory { path: path.to_owned() });
    }
    fs::read_dir(&root).map_err(unreadable)?;
    Ok(root)
}

/// Lists the files of a tree, except this program's own.
///
/// # Errors
///
/// [`ScanError`] if `tree` is not a readable directory. Unreadable files and folders below it are
/// listed as skipped.
pub(crate) fn scan(tree: &Path, own_files: &OwnFiles) -> Result<Scan, ScanError> {
    let root = root(tree)?;
    let mut scan = Scan::default();
    for entry in walk(&root) {
        match entry {
            Ok(entry) if own_files.contains(entry.path()) => {}
            Ok(entry) => scan.add(&root, &entry),
            Err(error) => scan.skipped.push(describe(&root, &error, SkipReason::Unreadable)),
        }
    }
    scan.files.sort();
    scan.skipped.sort();
    Ok(scan)
}

fn walk(root: &Path) -> ignore::Walk {
    let is_wanted = |entry: &DirEntry| {
        let is_directory = entry.file_type().is_some_and(|kind| kind.is_dir());
        !is_directory || !VERSION_CONTROL.iter().any(|name| entry.file_name() == *name)
    };
    WalkBuilder::new(root)
        .standard_filters(false)
        .git_ignore(true)
        .parents(true)
        .require_git(false)
        .follow_links(false)
        .filter_entry(is_wanted)
        .build()
}

impl Scan {
    fn add(&mut self, root: &Path, entry: &DirEntry) {
        if let Some(error) = entry.error() {
            self.skipped.push(describe(root, error, SkipReason::InvalidIgnoreRules));
        }
        let kind = entry.file_type();
        if kind.is_some_and(|kind| kind.is_dir()) {
            return;
        }
        let (path, is_exact) = relative(root, entry.path());
        match kind {
            _ if !is_exact => self.skip(path, SkipReason::NameNotUtf8),
            Some(kind) if kind.is_symlink() => self.skip(path, SkipReason::Symlink),
            Some(kind) if kind.is_file() => self.add_file(path, entry),
            _ => self.skip(path, SkipReason::Special),
        }
    }

    fn skip(&mut self, path: String, reason: SkipReason) {
        self.skipped.push(Skipped::new(path, reason));
    }

    fn add_file(&mut self, path: String, entry: &DirEntry) {
        match entry.metadata() {
            Ok(metadata) => self.files.push(FileEntry { path, bytes: metadata.len() }),
            Err(error) => {
                let skipped = Skipped::new(path, SkipReason::Unreadable);
                self.skipped.push(skipped.because(cause(&error)));
            }
        }
    }
}

/// The path from the root with `/`, and whether it is the exact name of the file.
fn relative(root: &Path, path: &Path) -> (String, bool) {
    let path = path.strip_prefix(root).unwrap_or(path);
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    let text = if parts.is_empty() { ".".to_owned() } else { parts.join("/") };
    (text, path.to_str().is_some())
}

fn describe(root: &Path, error: &ignore::Error, reason: SkipReason) -> Skipped {
    let path = place(error).map_or_else(|| ".".to_owned(), |path| relative(root, path).0);
    Skipped::new(path, reason).because(cause(error))
}

/// The place of the error.
fn place(error: &ignore::Error) -> Option<&Path> {
    match error {
        ignore::Error::WithPath { path, .. } => Some(path),
        ignore::Error::Loop { child, .. } => Some(child),
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => {
            place(err)
        }
        ignore::Error::Partial(errors) => errors.iter().find_map(place),
        _ => None,
    }
}

/// The cause of an error, without the absolute path.
fn cause(error: &ignore::Error) -> String {
    match error {
        ignore::Error::WithPath { err, .. } | ignore::Error::WithDepth { err, .. } => cause(err),
        ignore::Error::WithLineNumber { line, err } => format!("line {line}: {}", cause(err)),
        ignore::Error::Partial(errors) => errors.iter().map(cause).collect::<Vec<_>>().join("; "),
        ignore::Error::Io(error) => {
            error.get_ref().map_or_else(|| error.to_string(), |_| error.kind().to_string())
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    fn paths(scan: &Scan) -> Vec<&str> {
        scan.files.iter().map(|file| file.path.as_str()).collect()
    }

    #[test]
    fn should_list_sorted_and_respect_ignore_files_without_a_repository() {
        let folder = tree(&[
            ("b.rs", "12"),
            ("a/z.rs", ""),
            ("a/.gitignore", "skipped\n"),
            ("a/skipped", ""),
            (".env", ""),
            (".git/config", ""),
        ]);
        let scan = scan(folder.path(), &OwnFiles::default()).unwrap();
        assert_eq!(paths(&scan), [".env", "a/.gitignore", "a/z.rs", "b.rs"]);
        assert_eq!(scan.files[3].bytes, 2);
        assert_eq!(scan.skipped, []);
    }

    #[test]
    fn should_leave_out_its_own_files() {
        let folder = tree(&[("report.md", ""), ("a/report.md", ""), ("x.db-wal", ""), ("y", "")]);
        let own_files = OwnFiles::new(folder.path(), Some(&folder.path().join("x.db")));
        let scan = scan(folder.path(), &own_files).unwrap();
        assert_eq!(paths(&scan), ["a/report.md", "y"]);
    }

    #[test]
    fn should_report_invalid_ignore_rules_and_continue() {
        let folder = tree(&[("a/.gitignore", "ok\n[z-a]\n"), ("a/ok", ""), ("a/b", "")]);
        let scan = scan(folder.path(), &OwnFiles::default()).unwrap();
        assert_eq!(paths(&scan), ["a/.gitignore", "a/b"]);
        assert_eq!(scan.skipped.len(), 1, "{:?}", scan.skipped);
        assert_eq!(scan.skipped[0].reason, SkipReason::InvalidIgnoreRules);
        assert_eq!(scan.skipped[0].path, "a/.gitignore");
        assert!(!scan.skipped[0].detail.contains(folder.path().to_str().unwrap()));
    }

    #[cfg(unix)]
    #[test]
    fn should_report_links_sockets_and_strange_names() {
        use std::os::unix::{ffi::OsStrExt, fs::symlink, net::UnixListener};
        let folder = tree(&[("a", "")]);
        symlink("..", folder.path().join("link")).unwrap();
        let _socket = UnixListener::bind(folder.path().join("socket")).unwrap();
        let name = std::ffi::OsStr::from_bytes(b"x\xff");
        fs::write(folder.path().join(name), "").unwrap();
        let scan = scan(folder.path(), &OwnFiles::default()).unwrap();
        assert_eq!(paths(&scan), ["a"]);
        let skipped = [
            Skipped::new("link", SkipReason::Symlink),
            Skipped::new("socket", SkipReason::Special),
            Skipped::new("x\u{fffd}", SkipReason::NameNotUtf8),
        ];
        assert_eq!(scan.skipped, skipped);
    }

    #[test]
    fn should_refuse_a_path_that_is_not_a_directory() {
        let folder = tree(&[("a", "")]);
        let result = |name| scan(&folder.path().join(name), &OwnFiles::default());
        assert!(matches!(result("a"), Err(ScanError::NotADirectory { .. })));
        assert!(matches!(result("gone"), Err(ScanError::Unreadable { .. })));
    }
}
