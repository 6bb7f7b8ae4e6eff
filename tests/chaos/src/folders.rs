//! The folders and the threads of a run of this program.

use std::{path::Path, process::ExitCode, time::Duration};

/// Runs `work` with the folder of its logs, which is `out` or a temporary one, and a folder for its
/// sockets. The logs of a failure are kept.
pub(crate) fn run(out: Option<&Path>, work: impl AsyncFnOnce(&Path, &Path) -> bool) -> ExitCode {
    let folder = tempfile::tempdir().expect("making a folder");
    let logs = out.unwrap_or(folder.path());
    std::fs::create_dir_all(logs).expect("making a folder");
    let tokio =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let is_good = tokio.block_on(work(logs, folder.path()));
    tokio.shutdown_timeout(Duration::from_secs(5));
    if is_good {
        return ExitCode::SUCCESS;
    }
    if out.is_none() {
        println!("the logs are in {}", folder.keep().display());
    }
    ExitCode::FAILURE
}
