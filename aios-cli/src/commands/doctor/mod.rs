//! Finds what is wrong, in the order in which it has to be repaired.

mod work;

use aios_core::{
    Chain,
    broker::Group,
    catalog::codes,
    store::{Store, StoreError},
};
use aios_service::{
    client::{Client, PageQuery},
    config::Settings,
};
use aios_store::schema_version;
use serde_json::json;

use self::work::named;
use super::readers::Reader;
use crate::{
    arguments::Connection,
    error::CliError,
    output::{Output, plain},
    settings,
    target::{Needs, Place, Target, place},
};

/// A group that no process uses, to ask the broker for.
const NO_GROUP: &str = "aios.doctor";
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
    work::check(client, has_broker, found).await
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
        codes::PERMISSION_DENIED => "use credentials that have the permission",
        codes::RATE_LIMITED => "wait, then run `aios doctor` again",
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
    code.starts_with("STORE_") || [codes::NO_STORE, codes::NEWER_SCHEMA].contains(&code)
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
        Err(error) if error.code() != codes::UNKNOWN_ADDRESS => Ok(true),
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
