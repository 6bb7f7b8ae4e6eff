//! Lists of agents, tasks and engines.

use aios_service::client::{AgentQuery, Client, Engine, TaskQuery};

use super::runs::Pages;
use crate::{
    arguments::{Agents, Tasks},
    error::CliError,
    output::{Output, Table, shortened, time},
};

/// Width of the failure in a list, in characters.
const NOTE: usize = 60;

pub(super) async fn agents(
    client: &Client,
    arguments: &Agents,
    output: &mut Output,
) -> Result<(), CliError> {
    let mut query = AgentQuery::new();
    if let Some(agent_type) = &arguments.agent_type {
        query = query.with_agent_type(agent_type);
    }
    if let Some(status) = arguments.status {
        query = query.with_status(status);
    }
    let mut pages = Pages::new(&arguments.listed);
    while let Some(page) = pages.next() {
        let agents = pages.took(client.agents(&query.clone().with_page(page)).await?);
        let mut table = Table::new(&["agent", "type", "name", "status", "last seen"]);
        for agent in &agents {
            if output.is_json() {
                output.json(agent)?;
            }
            table.row([
                agent.id.clone(),
                agent.agent_type.clone(),
                agent.name.clone(),
                agent.status.to_string(),
                agent.last_seen_at.map(time).unwrap_or_default(),
            ]);
        }
        write(&table, output)?;
    }
    pages.end(output);
    Ok(())
}

pub(super) async fn tasks(
    client: &Client,
    arguments: &Tasks,
    output: &mut Output,
) -> Result<(), CliError> {
    let mut query = TaskQuery::new();
    if let Some(run) = &arguments.run {
        query = query.with_run(run);
    }
    if let Some(agent_type) = &arguments.agent_type {
        query = query.with_agent_type(agent_type);
    }
    if let Some(status) = arguments.status {
        query = query.with_status(status);
    }
    let mut pages = Pages::new(&arguments.listed);
    while let Some(page) = pages.next() {
        let tasks = pages.took(client.tasks(&query.clone().with_page(page)).await?);
        let mut table = Table::new(&["task", "type", "status", "attempt", "updated", "failure"]);
        for task in &tasks {
            if output.is_json() {
                output.json(task)?;
            }
            let failure = task.failure.as_ref().map(ToString::to_string).unwrap_or_default();
            table.row([
                task.id.clone(),
                task.agent_type.clone(),
                task.status.to_string(),
                task.attempt.to_string(),
                time(task.updated_at),
                shortened(&failure, NOTE),
            ]);
        }
        write(&table, output)?;
    }
    pages.end(output);
    Ok(())
}

pub(super) async fn engines(client: &Client, output: &mut Output) -> Result<(), CliError> {
    let engines = all_engines(client).await?;
    let mut table = Table::new(&["engine", "slot", "shards", "relay", "lease until"]);
    for engine in &engines {
        if output.is_json() {
            output.json(engine)?;
        }
        table.row([
            engine.id.clone(),
            engine.slot.to_string(),
            engine.shards.len().to_string(),
            if engine.is_relay { "yes".to_owned() } else { "no".to_owned() },
            time(engine.expires_at),
        ]);
    }
    write(&table, output)
}

/// All engines that are alive.
pub(super) async fn all_engines(client: &Client) -> Result<Vec<Engine>, CliError> {
    let mut pages = Pages::all();
    let mut engines = Vec::new();
    while let Some(page) = pages.next() {
        engines.extend(pages.took(client.engines(&page).await?));
    }
    Ok(engines)
}

/// Writes a table, unless its rows were written as JSON.
fn write(table: &Table, output: &mut Output) -> Result<(), CliError> {
    if !output.is_json() {
        table.write(output)?;
    }
    Ok(output.flush()?)
}
