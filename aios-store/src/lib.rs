//! Store adapters of aios: where the event log, the leases and the read models live.
//!
//! [`memory::MemoryStore`] is always built and keeps everything until the process ends.
//! `sqlite::SqliteStore` (feature `sqlite`) keeps everything in one file and needs no server.
//! `postgres::PostgresStore` (feature `postgres`) is for many processes at once.

pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;

mod any;
mod connect;
mod leases;
mod retention;
mod rows;
mod validation;

pub use self::{
    any::AnyStore,
    connect::connect,
    retention::{ExpiredEvents, Retention},
};
