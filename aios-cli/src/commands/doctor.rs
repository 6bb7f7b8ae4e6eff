//! Finds what is wrong, in the order in which it has to be repaired.

use std::collections::BTreeSet;

use aios_core::{
    Chain,
    broker::Group,
    store::{AgentStatus, RunStatus, StoreError},
};
use aios_service::{
    client::{AgentQuery, Client, ClientError, PageQuery, RunQuery},
    config::Settings,
};
use aios_store::schema_version;
use serde_json::json;

use super::lists::all_engines;
use crate::{
    arguments::Connection,
    error::CliError,
    output::{Output, plain},
    settings,
    target::{Needs, Place, Target, place},
};

/// Most runs and agents that are looked at; a finding says so.
const LOOKED_AT: usize = 1000;
/// Most names in a finding.
const NAMED: usize = 5;

/// The findings so far.
struct Examination<'o> {
    output: &'o mut Output,
    faults: usize,
}

impl Examination<'_> {
    fn write(&mut self, check: &str, text: &str, remedy: Option<&str>) -> Result<(), CliError> {
        let is_fault = remedy.is_some();
        self.faults += usize::from(is_fault);
        if self.output.is_json() {
            let status = if is_fault { "fault" } else { "ok" };
            let line =
                json!({ "check": check, "status": status, "message": text, "remedy": remedy });
            self.output.json(&line)?;
        } else {
            let mark = if is_fault { "FAULT" } else { "ok" };
            self.output.line(format_args!("{mark:<5}  {check:<13}  {}", plain(text)))?;
            if let Some(remedy) = remedy {
                self.output.line(format_args!("       {:<13}  {}", "", plain(remedy)))?;
            }
        }
        Ok(self.output.flush()?)
    }

    fn ok(&mut self, check: &str, text: &str) -> Result<(), CliError> {
        self.write(check, text, None)
    }

    fn fault(&mut self, check: &str, text: &str, remedy: &str) -> Result<(), CliError> {
        self.write(check, text, Some(remedy))
    }

    fn end(self) -> Result<(), CliError> {
        match self.faults {
            0 => Ok(()),
            1 => Err(CliError::Faults("1 fault was found".to_owned())),
            count => Err(CliError::Faults(format!("{count} faults were found"))),
        }
    }
}

pub(super) async fn examine(connection: &Connection, output: &mut Output) -> Result<(), CliError> {
    let mut found = Examination { output, faults: 0 };
    let settings = match settings::load(connection) {
        Ok(settings) => settings,
        Err(error) => {
            found.fault(
                "settings",
                &error.to_string(),
                "correct them, then run `aios config check`",
            )?;
            return found.end();
        }
    };
    found.ok("settings", "no faults")?;
    let needs = match place(connection, &settings) {
        Place::Api(_) => Needs::Broker,
        Place::Store(url) => {
            if !schema(&url, &mut found).await? {
                return found.end();
            }
            broker(&settings, &mut found).await?
        }
    };
    let target = match Target::open(connection, needs).await {
        Ok(target) => target,
        Err(error) => {
            let remedy = error.remedy().unwrap_or("repair the cause that is named");
            found.fault("service", &Chain(&error).to_string(), remedy)?;
            return found.end();
        }
    };
    let client = target.client();
    if service(client, &mut found).await? {
        engines(client, &mut found).await?;
        agents(client, &mut found).await?;
        runs(client, &mut found).await?;
        if needs == Needs::Broker {
            dead_letters(client, &mut found).await?;
        }
    }
    target.close().await;
    found.end()
}

/// Checks the schema of the store. Returns whether the store can be opened.
async fn schema(url: &str, found: &mut Examination<'_>) -> Result<bool, CliError> {
    let version = match schema_version(url).await {
        Ok(version) => version,
        Err(error) => {
            found.fault("store", &Chain(&error).to_string(), store_remedy(&error))?;
            return Ok(false);
        }
    };
    found.ok("store", "reachable")?;
    let text = format!("version {}, this program needs {}", version.found, version.known);
    if version.is_newer() {
        let remedy = "use the version of aios that migrated the database, or a later one";
        found.fault("schema", &text, remedy)?;
    } else if version.is_outdated() {
        found.fault("schema", &text, "run `aios migrate`")?;
    } else {
        found.ok("schema", &text)?;
    }
    Ok(version.found == version.known)
}

fn store_remedy(error: &StoreError) -> &'static str {
    match error {
        StoreError::Corrupt { .. } => {
            "check that database.url (AIOS_DATABASE_URL) names a store of aios; if it does, restore a backup"
        }
        StoreError::InvalidConfiguration { .. } => "correct database.url (AIOS_DATABASE_URL)",
        StoreError::Locked { .. } => {
            "check the service that has it open with --url, or stop that process first"
        }
        _ => "start the database, and check database.url (AIOS_DATABASE_URL)",
    }
}

/// Checks the broker. Returns what later checks may use.
async fn broker(settings: &Settings, found: &mut Examination<'_>) -> Result<Needs, CliError> {
    let Some(url) = settings.broker().url.as_ref() else {
        found.ok("broker", "not set, so dead letters are not checked; set AIOS_BROKER_URL")?;
        return Ok(Needs::Store);
    };
    if url.expose().starts_with("memory:") {
        found.ok("broker", "in memory of each process, so dead letters are not checked")?;
        return Ok(Needs::Store);
    }
    match aios_broker::connect(url.expose()).await {
        Ok(_) => {
            found.ok("broker", "reachable")?;
            Ok(Needs::Broker)
        }
        Err(error) => {
            let remedy = "start the broker, and check broker.url (AIOS_BROKER_URL)";
            found.fault("broker", &Chain(&error).to_string(), remedy)?;
            Ok(Needs::Store)
        }
    }
}

/// Checks that the service answers with these credentials.
async fn service(client: &Client, found: &mut Examination<'_>) -> Result<bool, CliError> {
    match client.me().await {
        Ok(caller) => {
            found.ok("service", &format!("answers, caller {}", caller.id))?;
            Ok(true)
        }
        Err(error) => {
            let error = CliError::from(error);
            let remedy = error.remedy().unwrap_or("see the log of the service");
            found.fault("service", &Chain(&error).to_string(), remedy)?;
            Ok(false)
        }
    }
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
    let missing = client.agents(&query).await?.items;
    let names: Vec<_> =
        missing.iter().map(|agent| format!("{} ({})", agent.name, agent.agent_type)).collect();
    match names.len() {
        0 => found.ok("agents", "none is missing"),
        count => found.fault(
            "agents",
            &format!("{count} missing: {}", named(&names)),
            "their processes stopped without notice: start them again, or see their logs",
        ),
    }
}

async fn runs(client: &Client, found: &mut Examination<'_>) -> Result<(), CliError> {
    let query = |status| {
        let page = PageQuery::new().with_limit(LOOKED_AT);
        RunQuery::new().with_statuses([status]).with_page(page)
    };
    let blocked = client.runs(&query(RunStatus::Blocked)).await?.items;
    let names: Vec<_> = blocked.iter().map(|run| run.id.clone()).collect();
    match names.len() {
        0 => found.ok("runs", "none is blocked"),
        count => found.fault(
            "runs",
            &format!("{count} blocked: {}", named(&names)),
            "`aios run ID` names the cause; deploy code that matches the journal, then `aios resume ID`",
        ),
    }
}

async fn dead_letters(client: &Client, found: &mut Examination<'_>) -> Result<(), CliError> {
    let page = PageQuery::new().with_limit(LOOKED_AT);
    let agents = client.agents(&AgentQuery::new().with_page(page)).await?.items;
    let types: BTreeSet<_> = agents.into_iter().map(|agent| agent.agent_type).collect();
    let mut counts = Vec::new();
    for agent_type in types {
        let Ok(group) = Group::new(format!("agents.{agent_type}")) else { continue };
        match client.dead_letters(group.clone()).list(LOOKED_AT).await {
            Ok(letters) if letters.is_empty() => {}
            Ok(letters) => counts.push(format!("{group} has {}", letters.len())),
            // The agents of this type have never been started with this broker.
            Err(ClientError::Service { code, .. }) if code == "UNKNOWN_ADDRESS" => {}
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

/// The first names of a list.
fn named(names: &[String]) -> String {
    let first: Vec<_> = names.iter().take(NAMED).map(String::as_str).collect();
    let more = if names.len() > NAMED { " …" } else { "" };
    format!("{}{more}", first.join(", "))
}
