//! Finds what is wrong, in the order in which it has to be repaired.

use std::collections::BTreeSet;

use aios_core::{
    Chain,
    broker::Group,
    store::{AgentStatus, RunStatus, Store, StoreError},
};
use aios_service::{
    client::{AgentQuery, Client, ClientError, Page, PageQuery, RunQuery},
    config::Settings,
};
use aios_store::schema_version;
use serde_json::json;

use super::{lists::all_engines, readers::Reader};
use crate::{
    arguments::Connection,
    error::CliError,
    output::{Output, plain},
    settings,
    target::{Needs, Place, Target, place},
};

/// Maximum number of runs and agents that are looked at; a finding says so.
const LOOKED_AT: usize = 1000;
/// Maximum number of names in a finding.
const NAMED: usize = 5;
/// A group that no process uses, to ask the broker for.
const NO_GROUP: &str = "aios.doctor";
/// The code of an answer of the broker that there is no such group.
const UNKNOWN: &str = "UNKNOWN_ADDRESS";

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

    /// Makes the failure of a check a fault. The output is the exception: nothing more can be said then.
    fn or_fault(&mut self, check: &str, checked: Result<(), CliError>) -> Result<(), CliError> {
        match checked {
            Err(error) if !matches!(error, CliError::Output(_)) => self.failed(check, &error),
            checked => checked,
        }
    }

    /// A check that could not be made.
    fn failed(&mut self, check: &str, error: &CliError) -> Result<(), CliError> {
        self.fault(check, &Chain(error).to_string(), remedy(error))
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
    let similar: Vec<_> = settings.similar_names().iter().map(ToString::to_string).collect();
    let text = match similar.is_empty() {
        true => "no faults".to_owned(),
        false => format!(
            "no faults; unknown names (misspelt, or belonging to another program): {}",
            similar.join("; ")
        ),
    };
    found.ok("settings", &text)?;
    let place = place(connection, &settings);
    let is_service = matches!(place, Place::Api(_));
    let needs = match place {
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
    if let Some(store) = target.store() {
        let checked = readers(store, &mut found).await;
        found.or_fault("readers", checked)?;
    }
    let checked = of_service(target.client(), is_service, needs, &mut found).await;
    target.close().await;
    checked?;
    found.end()
}

/// Checks the service, what it works with unless that was checked, and what is in its store. A check that
/// fails is a fault, and the next one follows, unless it would say the same.
async fn of_service(
    client: &Client,
    is_service: bool,
    needs: Needs,
    found: &mut Examination<'_>,
) -> Result<(), CliError> {
    if !service(client, found).await? {
        return Ok(());
    }
    let mut has_broker = needs == Needs::Broker;
    if is_service {
        let has_store = store_of_service(client, found).await?;
        has_broker = broker_of_service(client, found).await?;
        if !has_store {
            return Ok(());
        }
    }
    let checked = engines(client, found).await;
    found.or_fault("engines", checked)?;
    let checked = agents(client, found).await;
    found.or_fault("agents", checked)?;
    let checked = runs(client, found).await;
    found.or_fault("runs", checked)?;
    if has_broker {
        let checked = dead_letters(client, found).await;
        found.or_fault("dead letters", checked)?;
    }
    Ok(())
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

/// The remedy for the failure of a check.
fn remedy(error: &CliError) -> &'static str {
    if let Some(remedy) = error.remedy() {
        return remedy;
    }
    match error.code() {
        "PERMISSION_DENIED" => "use credentials that have the permission",
        "RATE_LIMITED" => "wait, then run `aios doctor` again",
        code if is_of_store(code) => {
            "start the database of the service, and check its database.url (AIOS_DATABASE_URL)"
        }
        code if is_of_broker(code) => {
            "start the broker of the service, and check its broker.url (AIOS_BROKER_URL)"
        }
        _ => "see the log of the service",
    }
}

/// Whether a code says that the service can't use its store.
fn is_of_store(code: &str) -> bool {
    code.starts_with("STORE_") || ["NO_STORE", "NEWER_SCHEMA"].contains(&code)
}

/// Whether a code says that the service can't use its broker.
fn is_of_broker(code: &str) -> bool {
    code.starts_with("BROKER_")
}

/// Checks that the service can read its store. Returns false if it can't. Without the permission, nothing is
/// known, and the checks of what the store has follow.
async fn store_of_service(client: &Client, found: &mut Examination<'_>) -> Result<bool, CliError> {
    match client.agent_types().await.map_err(CliError::from) {
        Ok(_) => found.ok("store", "reachable from the service").map(|()| true),
        Err(error) if is_of_store(error.code()) => found.failed("store", &error).map(|()| false),
        Err(_) => Ok(true),
    }
}

/// Checks that the service can use its broker. Returns false if it can't.
async fn broker_of_service(client: &Client, found: &mut Examination<'_>) -> Result<bool, CliError> {
    let Ok(group) = Group::new(NO_GROUP) else { return Ok(true) };
    match client
        .dead_letters(group)
        .list(&PageQuery::new().with_limit(1))
        .await
        .map_err(CliError::from)
    {
        Err(error) if is_of_broker(error.code()) => found.failed("broker", &error).map(|()| false),
        Err(error) if error.code() != UNKNOWN => Ok(true),
        // There is no such group: the broker has been asked.
        _ => found.ok("broker", "reachable from the service").map(|()| true),
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
            found.failed("service", &error.into())?;
            Ok(false)
        }
    }
}

/// Checks that no reader keeps retention from removing what is old. A service does not list its readers.
async fn readers(store: &dyn Store, found: &mut Examination<'_>) -> Result<(), CliError> {
    let readers = Reader::all(store).await?;
    let late: Vec<_> =
        readers.iter().filter(|reader| reader.is_late()).map(ToString::to_string).collect();
    match late.len() {
        0 => found.ok("readers", &format!("{} with a position, none is far behind", readers.len())),
        count => found.fault(
            "readers",
            &format!("{count} behind: {}", named(&late)),
            "start the process that runs it, or see its log; if it never continues, `aios readers retire NAME`: \
             retention waits for it",
        ),
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

async fn runs(client: &Client, found: &mut Examination<'_>) -> Result<(), CliError> {
    let query = |status| {
        let page = PageQuery::new().with_limit(LOOKED_AT);
        RunQuery::new().with_statuses([status]).with_page(page)
    };
    let page = client.runs(&query(RunStatus::Blocked)).await?;
    let more = or_more(&page);
    let blocked = page.items;
    let names: Vec<_> = blocked.iter().map(|run| run.id.clone()).collect();
    match names.len() {
        0 => found.ok("runs", "none is blocked"),
        count => found.fault(
            "runs",
            &format!("{count}{more} blocked: {}", named(&names)),
            "`aios run ID` names the cause; deploy code that matches the journal, then `aios resume ID`",
        ),
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
            Err(ClientError::Service { code, .. }) if code == UNKNOWN => {}
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
fn named(names: &[String]) -> String {
    let first: Vec<_> = names.iter().take(NAMED).map(String::as_str).collect();
    let more = if names.len() > NAMED { " …" } else { "" };
    format!("{}{more}", first.join(", "))
}
