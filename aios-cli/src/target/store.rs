use aios_service::config::SecretUrl;
use aios_store::{AnyStore, schema_version};

use crate::{arguments::Connection, error::CliError, settings};

/// The URL of the store, for commands that work on nothing else. A service that the arguments name is
/// refused: the store of the settings may be that of another one.
pub(crate) fn store_url(connection: &Connection) -> Result<SecretUrl, CliError> {
    if connection.url.is_some() {
        let reason = "this command works on a store, not on a service: give --store instead";
        return Err(CliError::argument("--url", reason));
    }
    let settings = settings::load(connection)?;
    settings.database().url.clone().ok_or_else(|| {
        let reason = "missing; this command works on a store, not on a service: give --store, or set \
                      AIOS_DATABASE_URL";
        CliError::argument("--store", reason)
    })
}

/// The part of the URL of a store that a message may show: the path of a file, and nothing of a database.
fn shown(url: &str) -> &str {
    let path = url.strip_prefix("sqlite:").map(|path| path.strip_prefix("//").unwrap_or(path));
    path.unwrap_or("in this database")
}

/// Opens a store that exists and has the schema of this program. Nothing is migrated.
pub(crate) async fn open_store(url: &str) -> Result<AnyStore, CliError> {
    if url.starts_with("memory:") || url.ends_with(":memory:") {
        let reason = "a store in memory has nothing that another program has written";
        return Err(CliError::argument("--store", reason));
    }
    let version = schema_version(url).await?;
    if version.is_outdated() {
        let reason = match version.found {
            0 => format!("there is no store {}; create it with `aios migrate`", shown(url)),
            found => format!(
                "the store has schema version {found}, this program needs {}; migrate it with `aios \
                 migrate`",
                version.known
            ),
        };
        return Err(CliError::argument("--store", reason));
    }
    Ok(AnyStore::connect(url).await?)
}
