//! The run of the workflow to resume, or to start.

use std::{error::Error, sync::Arc};

use aios_agents::prelude::*;
use aios_core::store::{
    MAX_PAGE, PageRequest, RunFilter, RunRecord, RunStatus, TaskFilter, TaskStatus,
};

use crate::{
    request::{Tree, is_analyzer},
    workflow::{NAME, Progress},
};

/// A run to start or to resume.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// Its id.
    pub(crate) run_id: String,
    /// The latest run of the tree.
    pub(crate) before: Before,
}

/// The state of the latest run that reviewed a tree.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// There is none.
    Nothing,
    /// It is unfinished; this much is done. The total is unknown while the files are being listed.
    Unfinished {
        /// Files that are done.
        done: usize,
        /// All files.
        total: Option<usize>,
    },
    /// It is complete.
    Completed,
    /// It was given up, because it failed or because it does not match this version of the program.
    GivenUp(String),
    /// It was given up, because the user wants to start over.
    Abandoned,
}

/// Chooses the run. `runtime` must not have an engine, so that no run progresses during the choice.
pub(crate) async fn choose(
    runtime: &Runtime,
    store: &Arc<dyn Store>,
    tree: &Tree,
    fresh: bool,
) -> Result<Choice, Box<dyn Error>> {
    let (latest, next_id) = latest(store, &tree.run_prefix()).await?;
    let Some(latest) = latest else {
        return Ok(Choice { run_id: next_id, before: Before::Nothing });
    };
    let before = match latest.status {
        RunStatus::Completed => Before::Completed,
        status if status.is_final() => Before::GivenUp(reason(&latest)),
        RunStatus::Blocked => {
            cancel(runtime, &latest).await?;
            Before::GivenUp(reason(&latest))
        }
        _ if fresh => {
            cancel(runtime, &latest).await?;
            Before::Abandoned
        }
        status => {
            if status == RunStatus::Paused {
                runtime.handle(&latest.id).await?.resume().await?;
            }
            let before = unfinished(store, &latest).await?;
            return Ok(Choice { run_id: latest.id, before });
        }
    };
    Ok(Choice { run_id: next_id, before })
}

/// The latest run whose id begins with `prefix`, and the id of the run after it.
async fn latest(
    store: &Arc<dyn Store>,
    prefix: &str,
) -> Result<(Option<RunRecord>, String), Box<dyn Error>> {
    let mut latest = None;
    for number in 1_u64.. {
        let id = format!("{prefix}-{number}");
        let filter = RunFilter { id: Some(id.clone()), ..RunFilter::default() };
        match store.runs(&filter, &PageRequest::first(1)).await?.rows.pop() {
            Some(run) => latest = Some(run),
            None => return Ok((latest, id)),
        }
    }
    Err("there are too many reviews of this tree".into())
}

async fn cancel(runtime: &Runtime, run: &RunRecord) -> Result<(), Box<dyn Error>> {
    Ok(runtime.handle(&run.id).await?.cancel("the review starts over").await?)
}

fn reason(run: &RunRecord) -> String {
    run.failure.as_ref().map_or_else(|| run.status.to_string(), ToString::to_string)
}

async fn unfinished(store: &Arc<dyn Store>, run: &RunRecord) -> Result<Before, Box<dyn Error>> {
    let total = progress(run).map(|progress| progress.total);
    Ok(Before::Unfinished { done: done(store, &run.id).await?, total })
}

/// The progress that the workflow reports.
pub(crate) fn progress(run: &RunRecord) -> Option<Progress> {
    run.progress.as_ref().and_then(|progress| progress.decode().ok())
}

/// The exact number of completed files of a run.
pub(crate) async fn done(store: &Arc<dyn Store>, run_id: &str) -> Result<usize, Box<dyn Error>> {
    let filter = TaskFilter {
        run_id: Some(run_id.to_owned()),
        status: Some(TaskStatus::Completed),
        ..TaskFilter::default()
    };
    let mut done = 0;
    let mut request = Some(PageRequest::first(MAX_PAGE));
    while let Some(page) = request {
        let found = store.tasks(&filter, &page).await?;
        done += found.rows.iter().filter(|task| is_analyzer(&task.agent_type)).count();
        request = found.next;
    }
    Ok(done)
}

/// How many reviews of other trees resume as soon as an engine runs.
pub(crate) async fn others(store: &Arc<dyn Store>, tree: &Tree) -> Result<usize, Box<dyn Error>> {
    let statuses = vec![RunStatus::Running];
    let filter = RunFilter { workflow: Some(NAME.to_owned()), statuses, ..RunFilter::default() };
    let running = store.runs(&filter, &PageRequest::first(MAX_PAGE)).await?.rows;
    let prefix = tree.run_prefix();
    Ok(running.iter().filter(|run| !run.id.starts_with(&prefix)).count())
}
