//! Settings from files, the environment and code.

mod bad;
mod files;
mod good;
mod guide;
mod layers;
mod others;
mod secrets;

use std::{collections::BTreeMap, path::Path};

use aios_service::config::{
    HumanDuration, Secret, SecretUrl, Settings, SettingsBuilder, SettingsError,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A section of a user, with a value of each kind.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
struct Mail {
    host: String,
    port: u16,
    weight: f64,
    enabled: bool,
    password: Option<Secret>,
    proxy: Option<SecretUrl>,
    patience: HumanDuration,
    #[schemars(range(min = 1, max = 10))]
    attempts: u8,
    #[schemars(length(min = 1, max = 3))]
    recipients: Vec<String>,
    labels: BTreeMap<String, String>,
    tokens: Vec<Secret>,
    tls: Option<Tls>,
    format: Format,
    transport: Transport,
    anything: serde_json::Value,
    language: Language,
    key_file: Option<String>,
}

impl Default for Mail {
    fn default() -> Self {
        Self {
            host: "localhost".to_owned(),
            port: 25,
            weight: 0.5,
            enabled: true,
            password: None,
            proxy: None,
            patience: HumanDuration::default(),
            attempts: 3,
            recipients: vec!["ops".to_owned()],
            labels: BTreeMap::new(),
            tokens: Vec::new(),
            tls: None,
            format: Format::Text,
            transport: Transport::Local,
            anything: serde_json::Value::Null,
            language: Language("en".to_owned()),
            key_file: None,
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Tls {
    authority: String,
    #[serde(default)]
    verify: bool,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    Text,
    /// With a comment, the schema of an enumeration has another form.
    Html,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Transport {
    Local,
    Smtp { relay: String, port: u16 },
}

/// A type whose own check is not in its schema.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(try_from = "String")]
struct Language(String);

impl TryFrom<String> for Language {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.len() == 2 { Ok(Self(text)) } else { Err(format!("{text:?} is not a language")) }
    }
}

/// A section with a value that has no default.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
struct Shop {
    name: String,
    owner: Owner,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
struct Owner {
    id: u32,
}

/// Files below a folder of their own, and the settings that are read from there.
struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    /// `config/…` are the files of the folder, and any other path is beside it.
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("config")).unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `DIR/` in a variable is the folder of the files.
    fn builder(&self, environment: &[(&str, &str)]) -> SettingsBuilder {
        let folder = format!("{}/", self.path().display());
        let variables = environment.iter();
        let variables = variables.map(|(name, value)| (*name, value.replace("DIR/", &folder)));
        Settings::builder().folder(self.path().join("config")).environment(variables)
    }

    /// The faults, with paths relative to the folder.
    fn faults(&self, error: &SettingsError) -> Vec<String> {
        let folder = format!("{}/", self.path().display());
        error.faults().iter().map(|fault| fault.to_string().replace(&folder, "")).collect()
    }

    /// The values that are not defaults, as `key = value (origin)`, with relative paths.
    fn values(&self, settings: &Settings) -> Vec<String> {
        let folder = format!("{}/", self.path().display());
        let entries = settings.entries().iter();
        let lines = entries.map(|entry| {
            format!("{} = {} ({})", entry.key, entry.value, entry.origin).replace(&folder, "")
        });
        lines.filter(|line| !line.ends_with("(default)")).collect()
    }
}
