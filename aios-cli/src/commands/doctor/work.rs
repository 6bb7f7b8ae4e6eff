//! Checks of the work of a service: what does not progress, and why.

use std::collections::{BTreeMap, BTreeSet};

use aios_core::{
    broker::Group,
    catalog::codes,
    store::{AgentStatus, RunStatus, TaskStatus},
};
use aios_service::client::{
    AgentQuery, Client, ClientError, Page, PageQuery, RunQuery, Task, TaskQuery,
};

use super::Examination;
use crate::{
    arguments::Listed,
    commands::{lists::all_engines, runs::Pages},
    error::CliError,
};

/// Maximum number of runs and agents that are looked at; a finding says so.
const LOOKED_AT: usize = 1000;
/// Maximum number of tasks that are looked at. Agents may be busy with many that are not at fault.
const TASKS_LOOKED_AT: u32 = 20_000;
/// Maximum number of names in a finding.
const NAMED: usize = 5;

/// Checks what the service does. A check that fails is a fault, and the next one follows.
pub(super) async fn check(
    client: &Client,
    has_broker: bool,
    found: &mut Examination<'_>,
) -> Result<(), CliError> {
    let checked = engines(client, found).await;
    found.or_fault("engines", checked)?;
    let checked = agents(client, found).await;
    found.or_fault("agents", checked)?;
    let checked = tasks(client, found).await;
    found.or_fault("tasks", checked)?;
    let checked = runs(client, found).await;
    found.or_fault("runs", checked)?;
    if has_broker {
        let checked = dead_letters(client, found).await;
        found.or_fault("dead letters", checked)?;
    }
    Ok(())
}

async fn engines(client: &Client, found: &mut Examination<'_>) -> Result<(), CliError> {
    let engines = all_engines(client).await?;
    let shards = client.shards().await?;
    let free = shards.iter().filter(|shard| shard.engine_id.is_none()).count();
    let text =
        format!("{} alive, {free} of {} shards without an owner", engines.len(), shards.len());
    match (engines.len(), free) {
        (0, _) => {
            found.fault("engines", &text, "start a process with an engine: no run advances without one")
        }
        (_, 0) => found.ok("engines", &text),
        _ => found.fault(
            "engines",
            &text,
            "wait for the lease time (10 s by default); if it persists, see the logs of the engines",
        ),
    }
}

async fn agents(client: &Client, found: &mut Examination<'_>) -> Result<(), CliError> {
    let page = PageQuery::new().with_limit(LOOKED_AT);
    let query = AgentQuery::new().with_status(AgentStatus::Missing).with_page(page);
    let page = client.agents(&query).await?;
    let more = or_more(&page);
    let missing = page.items;
    let names: Vec<_> =
        missing.iter().map(|agent| format!("{} ({})", agent.name, agent.agent_type)).collect();
    match names.len() {
        0 => found.ok("agents", "none is missing"),
        count => found.fault(
            "agents",
            &format!("{count}{more} missing: {}", named(&names)),
            "their processes stopped without notice: start them again, or see their logs",
        ),
    }
}

/// Checks that agents begin the tasks that wait for them. An agent of another type is not missing: its
/// processes may never have been started.
async fn tasks(client: &Client, found: &mut Examination<'_>) -> Result<(), CliError> {
    let query = TaskQuery::new().with_status(TaskStatus::Assigned);
    let mut pages = Pages::new(&Listed { limit: TASKS_LOOKED_AT, all: false, after: None });
    let mut unclaimed = BTreeMap::<String, usize>::new();
    while let Some(page) = pages.next() {
        let tasks = pages.took(client.tasks(&query.clone().with_page(page)).await?);
        for task in tasks.into_iter().filter(is_unclaimed) {
            *unclaimed.entry(task.agent_type).or_default() += 1;
        }
    }
    let count: usize = unclaimed.values().sum();
    let types: Vec<_> =
        unclaimed.iter().map(|(agent_type, count)| format!("{agent_type} ({count})")).collect();
    match count {
        0 => found.ok("tasks", "none is unclaimed"),
        count => found.fault(
            "tasks",
            &format!("{count} that no agent begins, by type: {}", named(&types)),
            "start a process that hosts agents of the type; if one is running, see its log and \
             `aios dead-letters list agents.TYPE`",
        ),
    }
}

/// Whether the engine has reported that no agent begins the current attempt of a task.
fn is_unclaimed(task: &Task) -> bool {
    let Some(failure) = &task.failure else { return false };
    match failure.code.as_str() {
        codes::TASK_UNCLAIMED => failure.details.get("attempt") == Some(task.attempt),
        codes::AGENT_NOT_FOUND => true,
        _ => false,
    }
}

/// Checks that no run is blocked. There is one finding for each code, because each has its remedy.
async fn runs(client: &Client, found: &mut Examination<'_>) -> Result<(), CliError> {
    let page = PageQuery::new().with_limit(LOOKED_AT);
    let query = RunQuery::new().with_statuses([RunStatus::Blocked]).with_page(page);
    let page = client.runs(&query).await?;
    let more = or_more(&page);
    let mut blocked = BTreeMap::<String, Vec<String>>::new();
    for run in page.items {
        let code = run.failure.map_or_else(|| "an unknown cause".to_owned(), |it| it.code);
        blocked.entry(code).or_default().push(run.id);
    }
    if blocked.is_empty() {
        return found.ok("runs", "none is blocked");
    }
    blocked.iter().try_for_each(|(code, ids)| {
        let text = format!("{}{more} blocked by {code}: {}", ids.len(), named(ids));
        found.fault("runs", &text, &format!("`aios run ID` names the cause; {}", remedy(code)))
    })
}

/// The remedy for runs that are blocked with a code.
fn remedy(code: &str) -> &'static str {
    match code {
        codes::JOURNAL_MISMATCH | codes::WORKFLOW_NOT_FOUND | codes::UNKNOWN_VERSION => {
            "deploy code that matches the journal, then `aios resume ID`"
        }
        codes::FOREIGN_AWAIT
        | codes::OPERATION_OUTSIDE_WORKFLOW
        | codes::RUN_PANICKED
        | codes::WORKFLOW_BUSY
        | codes::WORKFLOW_PANICKED => {
            "correct the code of the workflow, deploy it, then `aios resume ID`"
        }
        codes::JOURNAL_UNREADABLE => {
            "deploy the version of aios that wrote the journal, or a later one, then `aios resume ID`"
        }
        codes::EVENT_TOO_LARGE => "return less, or raise `max_event_bytes`, then `aios resume ID`",
        _ => "remove it, then `aios resume ID`",
    }
}

async fn dead_letters(client: &Client, found: &mut Examination<'_>) -> Result<(), CliError> {
    let types: BTreeSet<_> = client.agent_types().await?.into_iter().map(|it| it.id).collect();
    let page = PageQuery::new().with_limit(LOOKED_AT);
    let mut counts = Vec::new();
    for agent_type in types {
        let Ok(group) = Group::new(format!("agents.{agent_type}")) else { continue };
        match client.dead_letters(group.clone()).list(&page).await {
            Ok(letters) if letters.items.is_empty() => {}
            Ok(letters) => {
                counts.push(format!("{group} has {}{}", letters.items.len(), or_more(&letters)));
            }
            // The agents of this type have never been started with this broker.
            Err(ClientError::Service { code, .. }) if code == codes::UNKNOWN_ADDRESS => {}
            Err(error) => return Err(error.into()),
        }
    }
    match counts.is_empty() {
        true => found.ok("dead letters", "none for agents"),
        false => found.fault(
            "dead letters",
            &counts.join(", "),
            "`aios dead-letters list GROUP` names the reasons; repair, then `aios dead-letters redrive`",
        ),
    }
}

/// Added to the number of items that were looked at, if there are more.
fn or_more<T>(page: &Page<T>) -> &'static str {
    if page.next.is_some() { " or more" } else { "" }
}

/// The first names of a list.
pub(super) fn named(names: &[String]) -> String {
    let first: Vec<_> = names.iter().take(NAMED).map(String::as_str).collect();
    let more = if names.len() > NAMED { " …" } else { "" };
    format!("{}{more}", first.join(", "))
}
