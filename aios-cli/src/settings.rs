//! The settings of the program: those of services, and a section of its own.

use aios_service::config::{Secret, Settings, SettingsError};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::arguments::Connection;

/// Name of the section of the program.
pub(crate) const SECTION: &str = "api";

/// The section `api`: the service with which the program works.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct ApiSettings {
    /// URL of the HTTP API: `AIOS_API_URL`.
    pub(crate) url: Option<String>,
    /// Bearer token: `AIOS_API_TOKEN`.
    pub(crate) token: Option<Secret>,
    /// API key: `AIOS_API_KEY`.
    pub(crate) key: Option<Secret>,
}

/// Loads the settings. Sections of other programs are left unread, and arguments override all layers.
pub(crate) fn load(connection: &Connection) -> Result<Settings, SettingsError> {
    let mut builder = Settings::builder().section::<ApiSettings>(SECTION).other_sections();
    let arguments = [
        ("api.url", &connection.url),
        ("database.url", &connection.store),
        ("broker.url", &connection.broker),
    ];
    for (key, value) in arguments {
        if let Some(value) = value {
            builder = builder.value(key, value.clone());
        }
    }
    builder.load()
}
