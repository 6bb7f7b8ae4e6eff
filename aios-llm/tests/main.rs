//! Agents on a runtime in memory, and in processes that are killed.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "these are tests"
)]

mod agent_types;
mod approvals;
mod budgets;
mod clients;
mod compatible;
mod conversations;
mod delegation;
mod errors;
mod faults;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "../../aios-agents/tests/support/faulty.rs"]
mod faulty;
mod forks;
mod guardrails;
mod handovers;
mod kill;
mod loops;
mod middleware;
mod outputs;
mod providers;
mod secrets;
mod sent_back;
mod servers;
mod shape;
mod spans;
mod streams;
mod subjects;
mod support;
mod sweep;
mod teams;
mod tools;
mod trials;
mod writes;
