//! The section `telemetry`.

use std::{collections::BTreeMap, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, de::Error};

use super::{HumanDuration, Secret, SecretUrl};

/// The section `telemetry`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
#[non_exhaustive]
pub struct TelemetrySettings {
    /// Name of the service in traces and exported metrics, `aios` by default:
    /// `AIOS_TELEMETRY_SERVICE_NAME`.
    #[schemars(length(min = 1))]
    pub service_name: String,
    /// Where traces are sent.
    pub traces: TracesSettings,
    /// Where metrics are sent.
    pub metrics: MetricsExportSettings,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self {
            service_name: "aios".to_owned(),
            traces: TracesSettings::default(),
            metrics: MetricsExportSettings::default(),
        }
    }
}

/// How a collector is spoken to, with the names of OpenTelemetry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[non_exhaustive]
pub enum Protocol {
    /// Protobuf over HTTP: `http/protobuf`.
    #[default]
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
    /// gRPC, with the feature `otlp-grpc`: `grpc`.
    #[serde(rename = "grpc")]
    Grpc,
}

/// The mapping `traces` in the section `telemetry`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
#[non_exhaustive]
pub struct TracesSettings {
    /// URL of a collector that accepts traces by OTLP, such as `http://collector:4318`. No traces
    /// are sent by default: `AIOS_TELEMETRY_TRACES__ENDPOINT`.
    #[schemars(schema_with = "collector")]
    pub endpoint: Option<SecretUrl>,
    /// Headers of the requests to the collector, by name, such as the key of a hosted one. A `_` in the
    /// name stands for `-`: `AIOS_TELEMETRY_TRACES__HEADERS__X_API_KEY`.
    pub headers: BTreeMap<String, Secret>,
    /// The protocol of the collector, `http/protobuf` by default, or `grpc`:
    /// `AIOS_TELEMETRY_TRACES__PROTOCOL`.
    pub protocol: Protocol,
}

/// The mapping `metrics` in the section `telemetry`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
#[non_exhaustive]
pub struct MetricsExportSettings {
    /// URL of a collector that accepts metrics by OTLP, such as `http://collector:4318`. No
    /// metrics are sent by default: `AIOS_TELEMETRY_METRICS__ENDPOINT`.
    #[schemars(schema_with = "collector")]
    pub endpoint: Option<SecretUrl>,
    /// Headers of the requests to the collector, by name, such as the key of a hosted one. A `_` in the
    /// name stands for `-`: `AIOS_TELEMETRY_METRICS__HEADERS__X_API_KEY`.
    pub headers: BTreeMap<String, Secret>,
    /// The protocol of the collector, `http/protobuf` by default, or `grpc`:
    /// `AIOS_TELEMETRY_METRICS__PROTOCOL`.
    pub protocol: Protocol,
    /// How often metrics are sent, from 1 s to a day, 60 s by default:
    /// `AIOS_TELEMETRY_METRICS__INTERVAL`.
    #[serde(deserialize_with = "possible_interval")]
    pub interval: HumanDuration,
}

impl Default for MetricsExportSettings {
    fn default() -> Self {
        Self {
            endpoint: None,
            headers: BTreeMap::new(),
            protocol: Protocol::default(),
            interval: HumanDuration::seconds(60),
        }
    }
}

/// Shortest and longest interval.
pub(crate) const EXPORT_INTERVALS: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(86_400));

/// Reads an interval of exports.
fn possible_interval<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<HumanDuration, D::Error> {
    let (shortest, longest) = EXPORT_INTERVALS;
    let interval = HumanDuration::deserialize(deserializer)?;
    match (shortest..=longest).contains(&interval.get()) {
        true => Ok(interval),
        false => {
            Err(D::Error::custom(format!("expected a duration from 1s to 1d, found {interval}")))
        }
    }
}

/// The URL of a collector.
fn collector(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = SecretUrl::json_schema(generator);
    schema.insert("type".to_owned(), serde_json::json!(["string", "null"]));
    schema.insert("pattern".to_owned(), "^[Hh][Tt][Tt][Pp][Ss]?://".into());
    schema.insert("x-aios-expected".to_owned(), "a URL such as http://collector:4318".into());
    schema
}
