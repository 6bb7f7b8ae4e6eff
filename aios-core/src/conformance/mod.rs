//! Suites that every adapter of a port must pass, with one test per case.

pub mod broker;
pub mod store;
