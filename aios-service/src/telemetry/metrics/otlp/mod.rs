//! Export of metrics by OTLP.

mod batch;
mod exporter;
mod message;
mod worker;

pub use self::exporter::MetricsExporter;
