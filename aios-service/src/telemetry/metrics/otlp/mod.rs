//! Export of metrics by OTLP.

mod exporter;
mod message;
mod worker;

pub use self::exporter::MetricsExporter;
