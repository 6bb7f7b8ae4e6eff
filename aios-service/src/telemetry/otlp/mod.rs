//! Collectors of traces and metrics, which accept them by OTLP, the protocol of OpenTelemetry.

mod collector;
mod error;
#[cfg(feature = "otlp-grpc")]
mod grpc;
mod http;
mod message;

pub(super) use self::{
    collector::Signal,
    error::MAX_WANTED_PAUSE,
    message::{attribute, nanoseconds, resource, scope},
};
pub use self::{
    collector::{Collector, Receipt},
    error::CollectorError,
};
