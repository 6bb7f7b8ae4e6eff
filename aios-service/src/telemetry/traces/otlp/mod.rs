//! Export of traces by OTLP.

mod cache;
mod delivery;
mod exporter;
mod message;
mod queue;

use self::delivery::{Delivery, Phase};
pub use self::{exporter::TraceExporter, queue::RequestExporter};
