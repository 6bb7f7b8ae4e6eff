//! Suites that every adapter of a port must pass: one test a case.

pub mod broker;
pub mod store;
