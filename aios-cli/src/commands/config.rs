use aios_service::config::{Settings, SettingsBuilder, SettingsError};
use serde_json::json;

use crate::{
    arguments::{Config, Folder},
    error::CliError,
    output::{Output, Table},
    settings::{ApiSettings, SECTION},
};

pub(super) fn execute(command: &Config, output: &mut Output) -> Result<(), CliError> {
    match command {
        Config::Check(folder) => check(&load(folder)?, output),
        Config::Show(folder) => show(&load(folder)?, output),
        Config::Schema => {
            let schema = builder().schema();
            let text = serde_json::to_string_pretty(&schema).map_err(std::io::Error::from)?;
            Ok(output.line(text)?)
        }
    }
}

fn builder() -> SettingsBuilder {
    Settings::builder().section::<ApiSettings>(SECTION).other_sections()
}

fn load(folder: &Folder) -> Result<Settings, SettingsError> {
    match &folder.folder {
        Some(folder) => builder().folder(folder).load(),
        None => builder().load(),
    }
}

fn check(settings: &Settings, output: &mut Output) -> Result<(), CliError> {
    let others = settings.other_sections();
    let ignored = settings.ignored_variables();
    let similar: Vec<_> = settings.similar_names().iter().map(ToString::to_string).collect();
    if output.is_json() {
        let found = json!({
            "not_checked": others,
            "ignored_variables": ignored,
            "similar_names": similar,
        });
        return Ok(output.json(&found)?);
    }
    output.line("the configuration has no faults")?;
    if !others.is_empty() {
        output
            .line(format_args!("not checked, as aios does not know them: {}", others.join(", ")))?;
    }
    if !ignored.is_empty() {
        output.line(format_args!("variables without effect: {}", ignored.join(", ")))?;
    }
    for name in similar {
        output.line(format_args!(
            "unknown name (misspelt, or belonging to another program): {name}"
        ))?;
    }
    Ok(())
}

fn show(settings: &Settings, output: &mut Output) -> Result<(), CliError> {
    let mut table = Table::new(&["key", "value", "origin"]);
    for entry in settings.entries() {
        let origin = entry.origin.to_string();
        if output.is_json() {
            let entry = json!({ "key": entry.key, "value": entry.value, "origin": origin });
            output.json(&entry)?;
        }
        table.row([entry.key.clone(), entry.value.clone(), origin]);
    }
    match output.is_json() {
        true => Ok(()),
        false => Ok(table.write(output)?),
    }
}
