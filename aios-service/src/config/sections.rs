use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{HumanDuration, Secret, SecretUrl};

/// The sections that every service has.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub(super) struct Common {
    pub(super) database: DatabaseSettings,
    pub(super) broker: BrokerSettings,
    pub(super) redis: RedisSettings,
    pub(super) log: LogSettings,
    pub(super) agent: AgentSettings,
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
