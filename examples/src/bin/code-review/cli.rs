//! What the command line says.

use std::{
    num::NonZeroU16,
    path::{Path, PathBuf},
};

use clap::Parser;

/// Reviews a source tree: counts lines, finds TODOs, over-long functions, likely secrets and
/// duplicated files, and writes report.md and report.json.
#[derive(Debug, Parser)]
#[command(name = "code-review", version)]
pub(crate) struct Arguments {
    /// Root of the tree to review
    pub(crate) path: PathBuf,
    /// Where the review's progress is kept, so that it goes on after a crash
    #[arg(long, value_name = "URL", default_value = "sqlite://code-review.db")]
    pub(crate) store: String,
    /// Start over instead of going on with an unfinished review
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Folder that gets the reports; it is created if it is missing
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) out: PathBuf,
    /// How many files are analysed at once; a review that is resumed never has more than it began
    /// with
    #[arg(long, value_name = "N", default_value = "16")]
    pub(crate) concurrency: NonZeroU16,
    /// Appends a line to this file for each execution of the analysis, for tests
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) trace_executions: Option<PathBuf>,
}

impl Arguments {
    /// The state file, if the store is one.
    pub(crate) fn state_file(&self) -> Option<&Path> {
        let path = self.store.strip_prefix("sqlite:")?;
        let path = path.strip_prefix("//").unwrap_or(path);
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        (!path.is_empty() && path != ":memory:").then(|| Path::new(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(["code-review"].iter().chain(arguments))
    }

    #[test]
    fn should_have_defaults_for_all_but_the_path() {
        let arguments = parse(&["src"]).unwrap();
        assert_eq!(arguments.path, Path::new("src"));
        assert_eq!(arguments.out, Path::new("."));
        assert_eq!((arguments.fresh, arguments.concurrency.get()), (false, 16));
        assert_eq!(arguments.state_file(), Some(Path::new("code-review.db")));
        assert!(parse(&[]).is_err());
        assert!(parse(&["src", "--concurrency", "0"]).is_err());
    }

    #[test]
    fn should_find_the_state_file_in_the_url() {
        let state = |url| parse(&["src", "--store", url]).unwrap().state_file().map(PathBuf::from);
        assert_eq!(state("sqlite:///a/b.db?mode=rwc"), Some(PathBuf::from("/a/b.db")));
        assert_eq!(state("sqlite:b.db"), Some(PathBuf::from("b.db")));
        assert_eq!(state("sqlite://:memory:"), None);
        assert_eq!(state("sqlite::memory:"), None);
        assert_eq!(state("postgres://localhost/x"), None);
    }
}
