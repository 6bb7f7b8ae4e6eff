//! Access to loaded settings.

use std::fmt;

use super::{
    AgentSettings, AnthropicSettings, BrokerSettings, Change, DatabaseSettings, Entry, Fault,
    HttpSettings, LogSettings, MetricsSettings, OpenAiSettings, Origin, ProcessSettings,
    RedisSettings, Settings, ShutdownSettings, TelemetrySettings, change::changes,
};

impl Settings {
    /// The values that differ from those of `before`, sorted by key. A secret, the password of a URL or a
    /// variable in a text that has changed is one of them, with the same hidden value before and after.
    #[must_use]
    pub fn changes_since(&self, before: &Self) -> Vec<Change> {
        changes(&before.entries, &self.entries)
    }

    /// The fingerprints of the values that [`entries`](Self::entries) hides, by key, for bindings that compare
    /// loads themselves. Equal values have equal fingerprints in one process, and others in the next one.
    pub fn fingerprints(&self) -> impl Iterator<Item = (&str, u64)> {
        self.entries.hidden.iter().map(|(key, fingerprint)| (&**key, *fingerprint))
    }

    /// Name of the environment, `AIOS_ENV`, such as `production`. `None` if it is not set.
    #[must_use]
    pub fn environment(&self) -> Option<&str> {
        self.environment.as_deref()
    }

    /// The section `database`.
    #[must_use]
    pub fn database(&self) -> &DatabaseSettings {
        &self.common.database
    }

    /// The section `broker`.
    #[must_use]
    pub fn broker(&self) -> &BrokerSettings {
        &self.common.broker
    }

    /// The section `redis`.
    #[must_use]
    pub fn redis(&self) -> &RedisSettings {
        &self.common.redis
    }

    /// The section `log`.
    #[must_use]
    pub fn log(&self) -> &LogSettings {
        &self.common.log
    }

    /// The section `agent`.
    #[must_use]
    pub fn agent(&self) -> &AgentSettings {
        &self.common.agent
    }

    /// The section `http`.
    #[must_use]
    pub fn http(&self) -> &HttpSettings {
        &self.common.http
    }

    /// The section `shutdown`.
    #[must_use]
    pub fn shutdown(&self) -> &ShutdownSettings {
        &self.common.shutdown
    }

    /// The section `telemetry`.
    #[must_use]
    pub fn telemetry(&self) -> &TelemetrySettings {
        &self.common.telemetry
    }

    /// The section `metrics`.
    #[must_use]
    pub fn metrics(&self) -> &MetricsSettings {
        &self.common.metrics
    }

    /// The section `process`.
    #[must_use]
    pub fn process(&self) -> &ProcessSettings {
        &self.common.process
    }

    /// The section `anthropic`.
    #[must_use]
    pub fn anthropic(&self) -> &AnthropicSettings {
        &self.common.anthropic
    }

    /// The section `openai`.
    #[must_use]
    pub fn openai(&self) -> &OpenAiSettings {
        &self.common.openai
    }

    /// A section of your own type. `None` if
    /// [`section`](super::SettingsBuilder::section) was not called with this name and this type.
    ///
    /// A section of [`section_schema`](super::SettingsBuilder::section_schema) has the type
    /// `serde_json::Value`.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_service::config::Settings;
    /// use serde_json::{Value, json};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let schema = json!({
    ///     "type": "object",
    ///     "properties": {
    ///         "host": { "type": "string", "default": "localhost" },
    ///         "password": { "type": "string", "writeOnly": true },
    ///     },
    ///     "required": ["password"],
    /// });
    /// let settings = Settings::builder()
    ///     .section_schema("mail", schema)
    ///     .environment([("AIOS_MAIL_PASSWORD", "s3cr3t")])
    ///     .load()?;
    /// let mail = settings.section::<Value>("mail").ok_or("no section")?;
    /// assert_eq!(mail["password"], "s3cr3t");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Defaults of the schema are listed by [`entries`](Self::entries), and are not written into
    /// the value.
    #[must_use]
    pub fn section<T: 'static>(&self, name: &str) -> Option<&T> {
        self.sections.get(name)?.downcast_ref()
    }

    /// Where the value of a key comes from, such as `database.url`. `None` if it has no value.
    #[must_use]
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.entries.shown.iter().find(|entry| entry.key == key).map(|entry| &entry.origin)
    }

    /// The values that are set or have a default, sorted by key, without secrets.
    ///
    /// # Examples
    ///
    /// The values for the log of the start, each with the layer that decided it:
    ///
    /// ```
    /// use aios_service::config::Settings;
    ///
    /// # fn main() -> Result<(), aios_service::config::SettingsError> {
    /// let settings = Settings::builder()
    ///     .environment([("AIOS_OPENAI_API_KEY", "s3cr3t"), ("AIOS_HTTP_LISTEN", "0.0.0.0:80")])
    ///     .load()?;
    /// for entry in settings.entries() {
    ///     println!("{} = {} ({})", entry.key, entry.value, entry.origin);
    /// }
    /// let key = settings.entries().iter().find(|entry| entry.key == "openai.api_key");
    /// assert_eq!(key.map(|key| key.value.as_str()), Some("***"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries.shown
    }

    /// The environment variables that begin with `AIOS_` and set nothing, because no section has a
    /// similar name, or because [`other_sections`](super::SettingsBuilder::other_sections) leaves
    /// unknown names unread.
    ///
    /// Log them at the start: one of them may be a misspelt variable of a section that does not
    /// exist either.
    #[must_use]
    pub fn ignored_variables(&self) -> &[String] {
        &self.unread.variables
    }

    /// The sections of the files that were left unread; see
    /// [`other_sections`](super::SettingsBuilder::other_sections).
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_service::config::Settings;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// std::fs::write(folder.join("base.yaml"), "database:\n  url: sqlite:shop.db\nmail:\n  host: mx\n")?;
    /// let builder = Settings::builder().folder(folder).environment::<&str, &str>([]);
    /// assert!(builder.clone().load().is_err()); // no section is named mail
    /// assert_eq!(builder.other_sections().load()?.other_sections(), ["mail"]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn other_sections(&self) -> &[String] {
        &self.unread.sections
    }

    /// The sections and variables among [`other_sections`](Self::other_sections) and
    /// [`ignored_variables`](Self::ignored_variables) that may be misspelt: each as the fault that it
    /// is for a program without [`other_sections`](super::SettingsBuilder::other_sections).
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_service::config::Settings;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let settings =
    ///     Settings::builder().environment([("AIOS_LOGS_LEVEL", "debug")]).other_sections().load()?;
    /// let similar: Vec<_> = settings.similar_names().iter().map(ToString::to_string).collect();
    /// assert_eq!(similar, ["AIOS_LOGS_LEVEL: unknown name; did you mean AIOS_LOG_LEVEL?"]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn similar_names(&self) -> &[Fault] {
        &self.unread.similar
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Settings")
            .field("environment", &self.environment)
            .field("entries", &self.entries.shown)
            .finish_non_exhaustive()
    }
}
