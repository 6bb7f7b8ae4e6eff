//! The sections that every service has.
//!
//! The comments of the fields are a part of the JSON Schema for editors, so they are written for
//! people who edit files.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error};

use super::{HumanDuration, Secret, SecretUrl, TelemetrySettings};
use crate::http::RateLimit;

/// The sections that every service has.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub(super) struct Common {
    pub(super) database: DatabaseSettings,
    pub(super) broker: BrokerSettings,
    pub(super) redis: RedisSettings,
    pub(super) log: LogSettings,
    pub(super) agent: AgentSettings,
    pub(super) http: HttpSettings,
    pub(super) shutdown: ShutdownSettings,
    pub(super) metrics: MetricsSettings,
    pub(super) telemetry: TelemetrySettings,
    pub(super) process: ProcessSettings,
    pub(super) anthropic: AnthropicSettings,
    pub(super) openai: OpenAiSettings,
}

/// The section `database`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
#[non_exhaustive]
pub struct DatabaseSettings {
    /// URL of the store, such as `postgres://user@host/database` or `sqlite://file.db`:
    /// `AIOS_DATABASE_URL`.
    pub url: Option<SecretUrl>,
}

/// The section `broker`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
#[non_exhaustive]
pub struct BrokerSettings {
    /// URL of the broker, such as `amqps://user@host/vhost` or `memory://`: `AIOS_BROKER_URL`.
    pub url: Option<SecretUrl>,
}

/// The section `redis`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
#[non_exhaustive]
pub struct RedisSettings {
    /// URL of the Redis server, such as `redis://host:6379`: `AIOS_REDIS_URL`.
    pub url: Option<SecretUrl>,
}

/// The section `log`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
#[non_exhaustive]
pub struct LogSettings {
    /// The least important level that is logged, `info` by default: `AIOS_LOG_LEVEL`.
    pub level: LogLevel,
    /// The level of single targets and their modules, such as `lapin: off`: `AIOS_LOG_TARGETS__LAPIN`.
    pub targets: BTreeMap<String, LogLevel>,
    /// The form of a line, `auto` by default: `AIOS_LOG_FORMAT`.
    pub format: LogFormat,
    /// Where lines are written, `stderr` by default: `AIOS_LOG_OUTPUT`.
    pub output: LogOutput,
    /// Names of fields whose values are not written, beside those that look like secrets:
    /// `AIOS_LOG_REDACT`.
    pub redact: Vec<String>,
}

/// The form of a line of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, and JSON otherwise.
    #[default]
    Auto,
    /// A JSON object.
    Json,
    /// Text for people.
    Text,
}

/// Where lines of the log are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogOutput {
    /// Standard error.
    #[default]
    Stderr,
    /// Standard output.
    Stdout,
}

/// The importance of a line of the log.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Deserialize,
    Serialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing is logged.
    Off,
    /// Failures that need a person.
    Error,
    /// Failures that the program handles.
    Warn,
    /// Work of the program.
    #[default]
    Info,
    /// Details of the work.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The level as `tracing` and `aios` write it: `info`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The section `agent`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
#[non_exhaustive]
pub struct AgentSettings {
    /// The longest time that an attempt of a task may take, such as `5m` or `300`, in seconds. No
    /// limit by default: `AIOS_AGENT_TIMEOUT`.
    pub timeout: Option<HumanDuration>,
}

/// The section `http`: the server of a [`Service`](crate::Service).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
#[non_exhaustive]
pub struct HttpSettings {
    /// The address and port on which requests are taken, `127.0.0.1:8080` by default; port 0 is any
    /// free one: `AIOS_HTTP_LISTEN`.
    #[schemars(extend("pattern" = ADDRESS, "x-aios-expected" = "an address and a port such as 127.0.0.1:8080"))]
    pub listen: String,
    /// How long a request may take until it is answered with `REQUEST_TIMEOUT`, 30 s by default:
    /// `AIOS_HTTP_REQUEST_TIMEOUT`.
    #[serde(deserialize_with = "above_zero")]
    pub request_timeout: HumanDuration,
    /// Size of the largest body of a request, in bytes, 2 MiB by default: `AIOS_HTTP_MAX_BODY_BYTES`.
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub max_body_bytes: u32,
    /// How many requests each caller may send. No limit by default.
    #[serde(deserialize_with = "possible_rate")]
    pub rate_limit: Option<RateLimitSettings>,
}

/// A host and a port from 0 to 65535.
const ADDRESS: &str =
    "^.+:([0-9]{1,4}|[1-5][0-9]{4}|6([0-4][0-9]{3}|5([0-4][0-9]{2}|5([0-2][0-9]|3[0-5]))))$";

/// Reads a duration that is not 0.
fn above_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HumanDuration, D::Error> {
    let duration = HumanDuration::deserialize(deserializer)?;
    match duration.get().is_zero() {
        false => Ok(duration),
        true => Err(D::Error::custom("expected a duration of at least 1ms, found 0")),
    }
}

/// Reads a rate that can be a limit.
fn possible_rate<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<RateLimitSettings>, D::Error> {
    let limit = Option::<RateLimitSettings>::deserialize(deserializer)?;
    if let Some(limit) = limit {
        RateLimit::new(limit.requests, limit.per.get()).map_err(D::Error::custom)?;
    }
    Ok(limit)
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            request_timeout: HumanDuration::seconds(30),
            max_body_bytes: 2 * 1024 * 1024,
            rate_limit: None,
        }
    }
}

/// The mapping `rate_limit` in the section `http`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct RateLimitSettings {
    /// How many requests a caller may send in the time `per`: `AIOS_HTTP_RATE_LIMIT__REQUESTS`.
    #[schemars(range(min = 1))]
    pub requests: u32,
    /// The time, 1 s by default and at most a day: `AIOS_HTTP_RATE_LIMIT__PER`.
    #[serde(default = "a_second")]
    pub per: HumanDuration,
}

/// The default time of a rate.
fn a_second() -> HumanDuration {
    HumanDuration::seconds(1)
}

/// The section `shutdown`: how a [`Service`](crate::Service) ends.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
#[non_exhaustive]
pub struct ShutdownSettings {
    /// How long connections are still accepted once the process reports that it is not ready, so that
    /// load balancers notice. 0 by default: `AIOS_SHUTDOWN_ACCEPT_DELAY`.
    pub accept_delay: HumanDuration,
    /// How long tasks and steps in progress may take to end, 30 s by default:
    /// `AIOS_SHUTDOWN_DEADLINE`.
    pub deadline: HumanDuration,
}

impl Default for ShutdownSettings {
    fn default() -> Self {
        Self { accept_delay: HumanDuration::default(), deadline: HumanDuration::seconds(30) }
    }
}

/// The section `metrics`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
#[non_exhaustive]
pub struct MetricsSettings {
    /// Whether a [`Service`](crate::Service) counts what it does and answers `/metrics`, true by
    /// default: `AIOS_METRICS_ENABLED`.
    pub enabled: bool,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// The section `process`: which parts of a [`Service`](crate::Service) this process runs.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
#[non_exhaustive]
pub struct ProcessSettings {
    /// The parts, at least one, and all of them by default: `AIOS_PROCESS_ROLES`.
    #[schemars(length(min = 1))]
    pub roles: Vec<Role>,
}

impl Default for ProcessSettings {
    fn default() -> Self {
        Self { roles: vec![Role::Engine, Role::Api, Role::Agents] }
    }
}

impl ProcessSettings {
    /// Whether this process runs the part.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

/// A part of a [`Service`](crate::Service).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// Advances runs. Needs the store and the broker.
    Engine,
    /// Serves the HTTP API. Needs the store and the broker.
    Api,
    /// Hosts agents. Needs the broker only.
    Agents,
}

/// The section `anthropic`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
#[non_exhaustive]
pub struct AnthropicSettings {
    /// Key of the API of Anthropic: `AIOS_ANTHROPIC_API_KEY`.
    pub api_key: Option<Secret>,
}

/// The section `openai`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
#[non_exhaustive]
pub struct OpenAiSettings {
    /// Key of the API of OpenAI: `AIOS_OPENAI_API_KEY`.
    pub api_key: Option<Secret>,
}
