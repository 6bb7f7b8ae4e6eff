use aios_core::event::Payload;
use aios_service::client::{Client, Page, PageQuery, Run, RunQuery};
use serde_json::json;

use crate::{
    arguments::{Listed, Run as RunArguments, Runs},
    error::CliError,
    output::{Details, Output, Table, plain, shortened, time},
};

/// Largest page that a service answers.
const PAGE: usize = 1000;
/// Width of the failure in a list, in characters.
const NOTE: usize = 60;

/// Lists runs.
pub(super) async fn list(
    client: &Client,
    arguments: &Runs,
    output: &mut Output,
) -> Result<(), CliError> {
    let mut query = RunQuery::new().with_statuses(arguments.status.iter().copied());
    if let Some(workflow) = &arguments.workflow {
        query = query.with_workflow(workflow);
    }
    if arguments.deleted {
        query = query.with_deleted();
    }
    let mut pages = Pages::new(&arguments.listed);
    while let Some(page) = pages.next() {
        let runs = client.runs(&query.clone().with_page(page)).await?;
        let runs = pages.took(runs);
        if output.is_json() {
            runs.iter().try_for_each(|run| output.json(run))?;
        } else {
            table(&runs, output)?;
        }
        output.flush()?;
    }
    pages.end(output);
    Ok(())
}

fn table(runs: &[Run], output: &mut Output) -> Result<(), CliError> {
    let mut table = Table::new(&["run", "workflow", "status", "updated", "note"]);
    for run in runs {
        let failure = run.failure.as_ref().map(ToString::to_string);
        let note = failure.or_else(|| run.status_text.clone()).unwrap_or_default();
        table.row([
            run.id.clone(),
            format!("{}@{}", run.workflow, run.workflow_version),
            run.status.to_string(),
            time(run.updated_at),
            shortened(&note, NOTE),
        ]);
    }
    Ok(table.write(output)?)
}

/// Shows a run, or waits for its result.
pub(super) async fn show(
    client: &Client,
    arguments: &RunArguments,
    output: &mut Output,
) -> Result<(), CliError> {
    if arguments.wait {
        return result(client, &arguments.run, output).await;
    }
    let run = client.run(&arguments.run).status().await?;
    if output.is_json() {
        return Ok(output.json(&run)?);
    }
    let details = Details::default()
        .with("run", Some(&run.id))
        .with("workflow", Some(format!("{}@{}", run.workflow, run.workflow_version)))
        .with("status", Some(run.status))
        .with("note", run.status_text.as_ref())
        .with("waits for", run.waits_for.as_ref())
        .with("progress", run.progress.as_ref().map(Payload::as_str))
        .with("result", run.result.as_ref().map(Payload::as_str))
        .with("failure", run.failure.as_ref())
        .with("parent", run.parent_run_id.as_ref())
        .with("continues", run.first_run_id.as_ref())
        .with("position", Some(run.position))
        .with("created", Some(run.created_at))
        .with("updated", Some(run.updated_at))
        .with("deleted", run.deleted_at);
    Ok(details.write(output)?)
}

/// Waits for the end of a run and writes its result.
pub(super) async fn result(
    client: &Client,
    run: &str,
    output: &mut Output,
) -> Result<(), CliError> {
    let result: Payload = client.run(run).result().await?;
    Ok(output.line(result.as_str())?)
}

/// The pages of a list, up to the number of items that is asked for.
pub(super) struct Pages {
    left: usize,
    after: Option<String>,
    is_over: bool,
    unreadable: Vec<String>,
}

impl Pages {
    pub(super) fn new(listed: &Listed) -> Self {
        let limit = usize::try_from(listed.limit).unwrap_or(usize::MAX);
        let left = if listed.all { usize::MAX } else { limit };
        Self { left, after: listed.after.clone(), is_over: false, unreadable: Vec::new() }
    }

    /// All pages.
    pub(super) fn all() -> Self {
        Self { left: usize::MAX, after: None, is_over: false, unreadable: Vec::new() }
    }

    /// The next page to ask for; `None` at the end.
    pub(super) fn next(&self) -> Option<PageQuery> {
        let query = PageQuery::new().with_limit(self.left.min(PAGE));
        (!self.is_over && self.left > 0).then(|| match &self.after {
            Some(after) => query.with_after(after),
            None => query,
        })
    }

    /// The items of a page.
    pub(super) fn took<T>(&mut self, page: Page<T>) -> Vec<T> {
        self.left = self.left.saturating_sub(page.items.len());
        self.is_over = page.next.is_none();
        self.after = page.next;
        self.unreadable.extend(page.unreadable);
        page.items
    }

    /// Says which rows the list has left out because they can't be read, and how it continues.
    pub(super) fn end(self, output: &Output) {
        if !self.unreadable.is_empty() {
            let ids = plain(&self.unreadable.join(", "));
            let text = format_args!("left out, because they can't be read: {ids}");
            output.lacks(&json!({ "unreadable": self.unreadable }), text);
        }
        if let Some(after) = self.after {
            let text = format_args!("more with --after {after}, or --all");
            output.lacks(&json!({ "next": after }), text);
        }
    }
}
