//! The tree to review, and the destination of the report.

use std::{
    num::NonZeroU16,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{cli::Job, own_files::OwnFiles};

/// The agents that analyse files of any language.
pub(crate) const ANALYZER: &str = "analyzer";
/// The agents that analyse Python files, if requested.
const PYTHON_ANALYZER: &str = "python_analyzer";

/// Whether agents of this type analyse files.
pub(crate) fn is_analyzer(agent_type: &str) -> bool {
    [ANALYZER, PYTHON_ANALYZER].contains(&agent_type)
}

/// The input of the workflow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// The tree, and the parts of it that are not reviewed.
    pub(crate) tree: Tree,
    /// How many files are assigned to the analyzers concurrently.
    pub(crate) concurrency: NonZeroU16,
    /// Whether Python files are assigned to a separate agent type.
    #[serde(default)]
    pub(crate) python_agent: bool,
}

/// A tree to review: everything that determines the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Tree {
    /// Absolute, without symbolic links.
    pub(crate) root: PathBuf,
    /// The files that the review itself writes.
    pub(crate) own_files: OwnFiles,
    /// Name of the model that reviews each file too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
}

/// A path that cannot be stored.
#[derive(Debug, thiserror::Error)]
#[error("{} is not UTF-8", path.display())]
pub(crate) struct NotUtf8 {
    path: PathBuf,
}

impl Request {
    /// The request of the command line.
    ///
    /// # Errors
    ///
    /// [`NotUtf8`] if one of its paths is not.
    pub(crate) fn new(job: &Job, root: PathBuf) -> Result<Self, NotUtf8> {
        let own_files = OwnFiles::new(&job.out, job.state_file());
        let tree = Tree { root, own_files, model: job.model.name.clone() };
        let strange = tree.paths().find(|path| path.to_str().is_none()).map(Path::to_owned);
        match strange {
            Some(path) => Err(NotUtf8 { path }),
            None => {
                let concurrency = job.concurrency;
                let python_agent = job.python_agent;
                Ok(Self { tree, concurrency, python_agent })
            }
        }
    }

    /// The type of the agents that analyse a file.
    pub(crate) fn analyzer_of(&self, path: &str) -> &'static str {
        match self.python_agent && path.ends_with(".py") {
            true => PYTHON_ANALYZER,
            false => ANALYZER,
        }
    }
}

impl Tree {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        [self.root.as_path()].into_iter().chain(self.own_files.paths())
    }

    /// Prefix of the ids of the runs that review this tree.
    pub(crate) fn run_prefix(&self) -> String {
        let mut digest = Sha256::new();
        for path in self.paths() {
            digest.update(path.as_os_str().as_encoded_bytes());
            digest.update([0]);
        }
        if let Some(model) = &self.model {
            digest.update(model.as_bytes());
        }
        let digest = format!("{:x}", digest.finalize());
        format!("code-review-{}", digest.get(..16).unwrap_or(&digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(root: &str, out: &str) -> String {
        let own_files = OwnFiles::new(Path::new(out), None);
        Tree { root: root.into(), own_files, model: None }.run_prefix()
    }

    #[test]
    fn should_name_runs_after_everything_that_changes_the_result() {
        assert_eq!(prefix("/a", "/out"), prefix("/a", "/out"));
        assert_ne!(prefix("/a", "/out"), prefix("/b", "/out"));
        assert_ne!(prefix("/a", "/out"), prefix("/a", "/other"));
    }
}
