//! Tests of the HTTP API, on the stores in memory and SQLite, and of the configuration.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that can't continue fails"
)]

mod access;
mod agents;
mod audit;
#[cfg(feature = "client")]
mod client;
mod commands;
mod conditions;
mod config;
mod contract;
mod conventions;
mod converging;
mod cors;
mod document;
mod engines;
mod faults;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "../../aios-agents/tests/support/faulty.rs"]
mod faulty;
mod following;
mod idempotency;
mod killed;
mod limits;
mod lists;
#[cfg(feature = "oidc")]
mod oidc;
mod outputs;
mod projections;
#[cfg(feature = "oidc")]
mod provider;
mod refusals;
mod resources;
mod scaling;
mod server;
mod service;
mod signer;
mod streams;
mod support;
mod sweep;
mod telemetry;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "token-endpoint")]
mod token_endpoint;
mod tokens;
mod traces;
mod transport;
