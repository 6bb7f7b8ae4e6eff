//! Store adapters of aios: where the event log, the leases and the read models live.
//!
//! [`memory::MemoryStore`] is always built and keeps everything until the process ends.
//! `sqlite::SqliteStore` (feature `sqlite`) keeps everything in one file and needs no server.

pub mod memory;

mod admission;
mod leases;
mod rows;
