//! Export of traces by OTLP over HTTP.

mod cache;
mod collector;
mod delivery;
mod exporter;
mod message;
mod queue;

use self::delivery::{Delivery, Phase};
pub(crate) use self::queue::SpanQueue;
pub use self::{
    collector::{Collector, CollectorError},
    exporter::TraceExporter,
};
