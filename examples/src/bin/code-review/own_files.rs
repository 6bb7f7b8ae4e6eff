//! The files that this program writes, which it does not review.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::report::{JSON, MARKDOWN, TEMPORARY_PREFIX};

/// Suffixes of the files next to a state file.
const STATE_SUFFIXES: [&str; 5] = ["", "-wal", "-shm", "-lock", "-journal"];

/// The files this program writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct OwnFiles {
    /// The folder of the reports.
    out: PathBuf,
    /// The state file, if the store is a file.
    state: Option<PathBuf>,
}

impl OwnFiles {
    /// Reports in `out`, state in `state`. Neither has to exist yet.
    pub(crate) fn new(out: &Path, state: Option<&Path>) -> Self {
        Self { out: resolve(out), state: state.map(resolve) }
    }

    /// The folder of the reports.
    pub(crate) fn out(&self) -> &Path {
        &self.out
    }

    /// The folder of the reports and the state file.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        [self.out.as_path()].into_iter().chain(self.state.as_deref())
    }

    /// Whether this is one of them. `path` must be absolute and without symbolic links.
    pub(crate) fn contains(&self, path: &Path) -> bool {
        self.is_report(path) || self.is_state(path)
    }

    fn is_report(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default();
        let is_temporary = name.to_string_lossy().starts_with(TEMPORARY_PREFIX);
        path.parent() == Some(&self.out) && (is_temporary || name == MARKDOWN || name == JSON)
    }

    fn is_state(&self, path: &Path) -> bool {
        let Some(state) = &self.state else { return false };
        let sibling = |suffix: &&str| [state.as_os_str(), OsStr::new(suffix)].into_iter().collect();
        STATE_SUFFIXES.iter().map(sibling).any(|own: OsString| path == own)
    }
}

/// The path without symbolic links, as far as it exists.
fn resolve(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let existing = absolute.ancestors().find_map(|part| Some((part, fs::canonicalize(part).ok()?)));
    let Some((part, real)) = existing else { return absolute };
    let rest = absolute.strip_prefix(part).unwrap_or(Path::new(""));
    real.iter().chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_know_reports_and_state_files_only() {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap();
        let own_files = OwnFiles::new(&root, Some(&root.join("x.db")));
        for name in ["report.md", "report.json", ".report.tmp-a1", "x.db", "x.db-wal", "x.db-lock"]
        {
            assert!(own_files.contains(&root.join(name)), "{name}");
        }
        for name in ["a/report.md", "a/x.db", "x.db2", "xx.db", "report"] {
            assert!(!own_files.contains(&root.join(name)), "{name}");
        }
    }

    #[test]
    fn should_own_no_state_without_a_state_file() {
        assert!(!OwnFiles::new(Path::new("/a"), None).contains(Path::new("/a/x.db")));
    }

    #[cfg(unix)]
    #[test]
    fn should_see_through_links() {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink("real", root.join("link")).unwrap();
        let own_files = OwnFiles::new(&root.join("link"), None);
        assert!(own_files.contains(&root.join("real/report.md")));
    }
}
