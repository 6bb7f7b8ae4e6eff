//! The durable part: which agent gets which task, and when.

use std::{path::PathBuf, time::Duration};

use aios_agents::prelude::*;
use futures_util::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};

use crate::{
    agents::{FileOf, ReportFor},
    analysis::Analysis,
    report::{Report, Written},
    request::Request,
    reviewer,
    scan::Scan,
};

/// Name of the workflow.
pub(crate) const NAME: &str = "code_review";

const SCAN_TIMEOUT: Duration = Duration::from_secs(60 * 60);
const FILE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// How often a task is attempted: for a quarter of an hour, if there is no agent that takes it.
const ATTEMPTS: u32 = 20;

/// The progress of a review.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Completed files.
    pub(crate) done: usize,
    /// All files.
    pub(crate) total: usize,
}

/// The outcome of a review.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// How many files were analysed.
    pub(crate) files: u64,
    /// The path of the report for people.
    pub(crate) markdown: PathBuf,
}

/// Reviews a tree.
pub(crate) async fn code_review(
    context: WorkflowContext,
    request: Request,
) -> Result<Outcome, WorkflowError> {
    context.set_status("listing files");
    let scan = context.task("scanner", &request.tree).timeout(SCAN_TIMEOUT);
    let Scan { files, mut skipped } = scan.retry(patient()).await?;

    let total = files.len();
    let root = &request.tree.root;
    let context = &context;
    let has_model = request.tree.model.is_some();
    let tasks = files.into_iter().map(|file| {
        let file = FileOf { root: root.clone(), path: file.path };
        let task = context.task::<Analysis>(request.analyzer_of(&file.path), &file);
        let task = task.timeout(FILE_TIMEOUT).retry(patient());
        async move {
            let analysis = task.await?;
            Ok::<_, WorkflowError>(match has_model {
                true => reviewer::review(context, &file, analysis).await,
                false => (analysis, None),
            })
        }
    });
    // Tasks are assigned and results taken in the order of the files, so a replay does the same.
    let mut results = stream::iter(tasks).buffered(request.concurrency.get().into());
    let mut analyses = Vec::with_capacity(total);
    tell(context, 0, total)?;
    while let Some(result) = results.next().await {
        let (analysis, not_reviewed) = result?;
        analyses.push(analysis);
        skipped.extend(not_reviewed);
        if analyses.len() % (total / 100).max(1) == 0 {
            tell(context, analyses.len(), total)?;
        }
    }

    context.set_status("writing the report");
    let report = Report::new(skipped, analyses);
    let files = report.total.files;
    let job = ReportFor { out: request.tree.own_files.out().to_owned(), report };
    let written = context.task("reporter", &job).timeout(FILE_TIMEOUT);
    let Written { markdown, .. } = written.retry(patient()).await?;
    Ok(Outcome { files, markdown })
}

/// Gives agents time to start.
fn patient() -> RetryPolicy {
    RetryPolicy::new().with_max_attempts(ATTEMPTS)
}

fn tell(context: &WorkflowContext, done: usize, total: usize) -> Result<(), WorkflowError> {
    context.set_progress("analysing files", &Progress { done, total })
}
