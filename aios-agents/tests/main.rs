//! Integration tests of the crate, in one binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its helpers too"
)]

mod agent_answers;
mod agent_blocked;
mod agent_caller;
mod agent_faults;
mod agent_held;
mod agent_host;
mod agent_middleware;
mod agent_questions;
mod agent_refusals;
mod agent_slots;
mod agent_supervision;
mod agent_support;
mod agent_typed;
mod declared;
mod engine_blocked;
mod engine_chains;
mod engine_children;
mod engine_clock;
mod engine_commands;
mod engine_discovery;
mod engine_dispatch;
mod engine_faults;
mod engine_fleet;
mod engine_guards;
mod engine_hosting;
mod engine_idle;
mod engine_lean;
mod engine_leases;
mod engine_lookahead;
mod engine_lookahead_faults;
mod engine_measures;
mod engine_pause;
mod engine_postgres;
mod engine_promotion;
mod engine_questions;
mod engine_races;
mod engine_refusals;
mod engine_relay;
mod engine_sizes;
mod engine_stops;
mod engine_takeover;
mod engine_unclaimed;
mod engine_waits;
#[allow(dead_code, reason = "a fixture offers more than every test needs")]
mod faulty;
mod logged;
mod options;
mod outputs;
mod panics;
mod projection;
mod reference;
mod run_ends;
mod run_events;
mod run_metadata;
mod texts;
mod upgrade;
mod workflow_agents;
mod workflow_answers;
mod workflow_attempts;
mod workflow_basic;
mod workflow_chain;
mod workflow_dropped;
mod workflow_durable;
mod workflow_executor;
mod workflow_faults;
mod workflow_forks;
mod workflow_identity;
#[cfg(feature = "testing")]
mod workflow_journals;
mod workflow_names;
mod workflow_nudges;
mod workflow_odd;
mod workflow_polled;
#[cfg(feature = "testing")]
mod workflow_replay;
mod workflow_start;
mod workflow_support;
#[cfg(feature = "testing")]
mod workflow_testing;
