//! The three agents. They know nothing of the workflow that assigns their tasks.

use std::{fs::File, io::Write, num::NonZeroU16, path::PathBuf};

use aios_agents::{agent::AgentDefinition, prelude::*, runtime::RuntimeBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use crate::{
    analysis::{self, Analysis},
    cli::Trace,
    report::{self, Report, Written},
    request::{ANALYZER, Tree},
    scan::{self, Scan, SkipReason, Skipped},
};

/// Adds the three to a runtime; this many files are analysed concurrently.
pub(crate) fn host(
    builder: RuntimeBuilder,
    concurrency: NonZeroU16,
    trace: &Trace,
) -> std::io::Result<RuntimeBuilder> {
    let open = |path| File::options().create(true).append(true).open(path);
    let trace = trace.trace_executions.as_ref().map(open).transpose()?;
    let analyzer =
        AgentDefinition::instance(ANALYZER, Analyzer { trace }).with_concurrency(concurrency.get());
    Ok(builder.agent("scanner", Scanner).agents(analyzer).agent("reporter", Reporter))
}

/// Lists the files of a tree.
pub(crate) struct Scanner;

impl Agent for Scanner {
    type Parameters = Tree;
    type Output = Scan;

    async fn process_task(&self, _: &TaskContext, tree: Tree) -> Result<Scan, TaskError> {
        // Walking a tree blocks, and so do the other two agents.
        let scan = spawn_blocking(move || scan::scan(&tree.root, &tree.own_files)).await?;
        scan.terminal()
    }
}

/// One file to analyse.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct FileOf {
    /// Root of its tree.
    pub(crate) root: PathBuf,
    /// Its path from there.
    pub(crate) path: String,
}

/// Analyses one file.
#[derive(Debug, Default)]
pub(crate) struct Analyzer {
    /// Receives a line for each execution, so that tests can count them.
    pub(crate) trace: Option<File>,
}

impl Agent for Analyzer {
    type Parameters = FileOf;
    type Output = Analysis;

    async fn process_task(&self, _: &TaskContext, file: FileOf) -> Result<Analysis, TaskError> {
        if let Some(mut trace) = self.trace.as_ref() {
            trace.write_all(format!("{}\n", file.path).as_bytes())?;
        }
        let path = file.path.clone();
        let analysis = spawn_blocking(move || analysis::analyze(&file.root, &file.path)).await;
        // A file that cannot be analysed is one line in the report, and does not end the review.
        Ok(analysis
            .unwrap_or_else(|_| Analysis::Skipped(Skipped::new(path, SkipReason::AnalysisFailed))))
    }
}

/// A report and its destination.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ReportFor {
    /// The folder.
    pub(crate) out: PathBuf,
    /// The report.
    pub(crate) report: Report,
}

/// Writes the report.
pub(crate) struct Reporter;

impl Agent for Reporter {
    type Parameters = ReportFor;
    type Output = Written;

    async fn process_task(&self, _: &TaskContext, job: ReportFor) -> Result<Written, TaskError> {
        // Writing the same report again changes nothing, so a second execution is harmless.
        let written = spawn_blocking(move || report::write(&job.report, &job.out)).await?;
        written.terminal()
    }
}
