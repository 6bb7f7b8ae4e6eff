//! Configuration by convention: files, environment variables and mounted secrets, read once and
//! checked as a whole.
//!
//! ```
//! use aios_service::config::{Secret, Settings};
//! use schemars::JsonSchema;
//! use serde::Deserialize;
//!
//! #[derive(Deserialize, JsonSchema)]
//! struct Mail {
//!     host: String,
//!     #[serde(default = "port")]
//!     port: u16,
//!     password: Option<Secret>,
//! }
//!
//! fn port() -> u16 {
//!     25
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Settings::builder()
//!     .section::<Mail>("mail")
//!     .default_value("database.url", "sqlite://shop.db")
//!     // Without this line, the environment of the process.
//!     .environment([("AIOS_MAIL_HOST", "mx.example.org"), ("AIOS_AGENT_TIMEOUT", "5m")])
//!     .load()?;
//! let mail = settings.section::<Mail>("mail").ok_or("no section")?;
//! assert_eq!((mail.host.as_str(), mail.port), ("mx.example.org", 25));
//! assert_eq!(settings.agent().timeout.map(|timeout| timeout.get().as_secs()), Some(300));
//! let origin = settings.origin("mail.host").map(ToString::to_string);
//! assert_eq!(origin.as_deref(), Some("AIOS_MAIL_HOST"));
//! # Ok(())
//! # }
//! ```
//!
//! # Layers
//!
//! A later layer overrides an earlier one. Mappings are merged key by key; lists are replaced. A
//! null means that a value is not set.
//!
//! 1. defaults of the types, then [`default_value`](SettingsBuilder::default_value)
//! 2. `config/base.yaml`
//! 3. `config/{AIOS_ENV}.yaml`, such as `config/production.yaml`
//! 4. the files `*.yaml` and `*.yml` in the folder `AIOS_CONFIG_DIR`, such as a mounted ConfigMap, in
//!    the order of their names
//! 5. environment variables
//! 6. files that variables `…_FILE` name, such as mounted secrets
//! 7. [`value`](SettingsBuilder::value)
//!
//! ```
//! use aios_service::config::Settings;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! std::fs::write(folder.join("base.yaml"), "log:\n  level: info\nagent:\n  timeout: 5m\n")?;
//! std::fs::write(folder.join("production.yaml"), "log:\n  level: warn\n")?;
//!
//! let settings =
//!     Settings::builder().folder(folder).environment([("AIOS_ENV", "production")]).load()?;
//! assert_eq!(settings.log().level.as_str(), "warn"); // of the later file
//! assert!(settings.agent().timeout.is_some()); // mappings are merged key by key
//! let origin = settings.origin("log.level").ok_or("no origin")?.to_string();
//! assert!(origin.ends_with("production.yaml:2:3"));
//! # Ok(())
//! # }
//! ```
//!
//! # Names
//!
//! The variable of a key is `AIOS_`, the section and the key; deeper levels are separated by `__`.
//! `AIOS_DATABASE_URL` sets `database.url`, and `AIOS_MAIL_TLS__CA` sets `mail.tls.ca`.
//! `AIOS_DATABASE_URL_FILE` is the path of a file with the value. In a mapping with arbitrary keys, a
//! variable ending in `_FILE` always names a file, so a key ending in `_file` can only be set in a
//! configuration file. The value of a variable is converted to the type of its key; the items of a list
//! are separated by commas.
//!
//! | key | variable | |
//! |---|---|---|
//! | `database.url` | `AIOS_DATABASE_URL` | URL of the store |
//! | `broker.url` | `AIOS_BROKER_URL` | URL of the broker |
//! | `redis.url` | `AIOS_REDIS_URL` | URL of Redis |
//! | `log.level` | `AIOS_LOG_LEVEL` | `off`, `error`, `warn`, `info` (default), `debug`, `trace` |
//! | `log.targets` | `AIOS_LOG_TARGETS__LAPIN` | levels of single targets |
//! | `log.format` | `AIOS_LOG_FORMAT` | `auto` (default), `json`, `text` |
//! | `log.output` | `AIOS_LOG_OUTPUT` | `stderr` (default), `stdout` |
//! | `log.redact` | `AIOS_LOG_REDACT` | names of fields whose values are not written |
//! | `agent.timeout` | `AIOS_AGENT_TIMEOUT` | limit of each attempt of a task, such as `5m` or `300` |
//! | `http.listen` | `AIOS_HTTP_LISTEN` | address and port of the server, `127.0.0.1:8080` by default |
//! | `http.request_timeout` | `AIOS_HTTP_REQUEST_TIMEOUT` | limit of a request, 30 s by default |
//! | `http.max_body_bytes` | `AIOS_HTTP_MAX_BODY_BYTES` | size of the largest body, 2 MiB by default |
//! | `http.rate_limit.requests` | `AIOS_HTTP_RATE_LIMIT__REQUESTS` | requests of each caller; no limit by default |
//! | `http.rate_limit.per` | `AIOS_HTTP_RATE_LIMIT__PER` | the time for them, 1 s by default |
//! | `metrics.enabled` | `AIOS_METRICS_ENABLED` | whether `/metrics` is answered, true by default |
//! | `telemetry.service_name` | `AIOS_TELEMETRY_SERVICE_NAME` | name of the service in traces and metrics, `aios` by default |
//! | `telemetry.traces.endpoint` | `AIOS_TELEMETRY_TRACES__ENDPOINT` | URL of a collector of traces; none by default |
//! | `telemetry.traces.headers` | `AIOS_TELEMETRY_TRACES__HEADERS__X_API_KEY` | secret headers for the collector |
//! | `telemetry.traces.protocol` | `AIOS_TELEMETRY_TRACES__PROTOCOL` | `http/protobuf` (default) or `grpc` |
//! | `telemetry.metrics.endpoint` | `AIOS_TELEMETRY_METRICS__ENDPOINT` | URL of a collector of metrics; none by default |
//! | `telemetry.metrics.headers` | `AIOS_TELEMETRY_METRICS__HEADERS__X_API_KEY` | secret headers for the collector |
//! | `telemetry.metrics.protocol` | `AIOS_TELEMETRY_METRICS__PROTOCOL` | `http/protobuf` (default) or `grpc` |
//! | `telemetry.metrics.interval` | `AIOS_TELEMETRY_METRICS__INTERVAL` | how often metrics are sent, 60 s by default |
//! | `process.roles` | `AIOS_PROCESS_ROLES` | parts of a service that this process runs: `engine`, `api`, `agents`; all by default |
//! | `shutdown.accept_delay` | `AIOS_SHUTDOWN_ACCEPT_DELAY` | how long connections are accepted after SIGTERM, 0 by default |
//! | `shutdown.deadline` | `AIOS_SHUTDOWN_DEADLINE` | how long tasks may take to end, 30 s by default |
//! | `anthropic.api_key` | `AIOS_ANTHROPIC_API_KEY` | secret |
//! | `openai.api_key` | `AIOS_OPENAI_API_KEY` | secret |
//!
//! A variable of a known section whose key is unknown, or whose name is nearly that of a known one,
//! is a fault. Other variables that begin with `AIOS_` are
//! [listed](Settings::ignored_variables), and so are those that Kubernetes sets for services, such as
//! `AIOS_API_SERVICE_HOST`, unless they name a key of a section. A program
//! that reads the configuration of another one leaves
//! [all unknown names](SettingsBuilder::other_sections) unread.
//!
//! # References
//!
//! A text in a file may contain `${NAME}`, an environment variable that must be set, and
//! `${NAME:-default}`. `$${` stands for `${`. The result gets the type of its key. Values of variables
//! are taken as they are. A default may contain references, up to 8 levels deep, such as
//! `${DATABASE:-sqlite://${FILE}}`. They are replaced only if the default is taken. Every `{` in a default
//! needs its `}`.
//!
//! # Secrets
//!
//! A value of type [`Secret`] or the password of a [`SecretUrl`] in a file is a fault, unless it is a
//! reference whose default, if it has one, consists of such references. Neither type prints its secret, and
//! no report contains one.
//!
//! # Faults
//!
//! All values are checked by the schema of their types before a type is read, so one report has all
//! faults. Limits of a type are written as attributes of its schema:
//!
//! ```
//! use aios_service::config::{HumanDuration, Settings};
//! use schemars::JsonSchema;
//! use serde::Deserialize;
//!
//! #[derive(Deserialize, JsonSchema)]
//! struct Import {
//!     sources: Vec<String>,
//!     #[schemars(range(min = 1, max = 64))]
//!     workers: u8,
//!     pause: Option<HumanDuration>,
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let builder = Settings::builder().section::<Import>("import");
//! let variables = [("AIOS_IMPORT_SOURCES", "north, south"), ("AIOS_IMPORT_WORKERS", "8")];
//! let settings = builder.clone().environment(variables).load()?;
//! let import = settings.section::<Import>("import").ok_or("no section")?;
//! assert_eq!((import.sources.len(), import.workers), (2, 8));
//! assert!(import.pause.is_none());
//!
//! let error = builder.environment([("AIOS_IMPORT_WORKERS", "100")]).load().unwrap_err();
//! let faults: Vec<_> = error.faults().iter().map(|fault| fault.key.as_str()).collect();
//! assert_eq!(faults, ["import.sources", "import.workers"]); // one is missing, one is too large
//! # Ok(())
//! # }
//! ```
//!
//! # Tests
//!
//! A test that takes nothing from its surroundings: no file, no variable of the process:
//!
//! ```
//! use aios_service::config::Settings;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let empty = tempfile::tempdir()?;
//! let settings = Settings::builder()
//!     .folder(empty.path())
//!     .environment([("AIOS_DATABASE_URL", "postgres://shop:s3cr3t@db.example.org/shop")])
//!     .value("http.listen", "127.0.0.1:0")
//!     .load()?;
//! let url = settings.database().url.as_ref().ok_or("no URL")?;
//! assert!(url.expose().contains("s3cr3t"));
//! assert!(!format!("{settings:?}").contains("s3cr3t"));
//! assert_eq!(settings.http().listen, "127.0.0.1:0");
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! - Nothing is read before [`load`](SettingsBuilder::load) is called, and nothing after it unless
//!   [`reload`](Settings::reload) is called.
//! - One [`SettingsError`] lists all faults: the file, line and key or the variable, what is expected,
//!   and the nearest known name. Of the values that a type itself refuses, it lists the first of each
//!   section.
//! - A file has at most 1 MiB, 32 levels and 20,000 values, with those that aliases repeat; a folder
//!   has at most 100 files. Files that are not regular, such as pipes, are refused.

mod builder;
mod change;
mod check;
mod duration;
mod entries;
mod fingerprint;
mod redaction;
mod resolve;
mod schema;
mod secret;
mod secret_name;
mod secret_url;
mod section;
mod sections;
mod settings;
mod sources;
mod telemetry;
mod unread;

pub(crate) use self::check::nearest;
#[cfg(feature = "otlp")]
pub(crate) use self::telemetry::EXPORT_INTERVALS;
pub use self::{
    builder::{Settings, SettingsBuilder},
    change::Change,
    check::{Fault, FaultKind, SettingsError},
    duration::{HumanDuration, InvalidDuration},
    entries::Entry,
    redaction::Redaction,
    secret::Secret,
    secret_url::{InvalidUrl, SecretUrl},
    sections::{
        AgentSettings, AnthropicSettings, BrokerSettings, DatabaseSettings, HttpSettings,
        LogFormat, LogLevel, LogOutput, LogSettings, MetricsSettings, OpenAiSettings,
        ProcessSettings, RateLimitSettings, RedisSettings, Role, ShutdownSettings,
    },
    sources::{Origin, Position},
    telemetry::{MetricsExportSettings, Protocol, TelemetrySettings, TracesSettings},
};
