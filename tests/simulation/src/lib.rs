//! Several engines, agent hosts and clients in one process, on one thread and in virtual time,
//! under seeded faults. `README.md` explains how to use it.
#![allow(
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a simulation is a test, and fails by panicking"
)]

mod broker;
mod check;
mod client;
mod executor;
mod fault;
mod fleet;
mod invariant;
mod perform;
mod plant;
mod program;
mod random;
mod run;
mod scenario;
mod store;
mod watcher;
mod world;

pub use self::{
    fault::Fault,
    invariant::{Invariant, Violation},
    plant::Plant,
    program::{Expected, Generator, Part, Program},
    random::Random,
    scenario::{Outcome, Role, Scenario},
    world::Rates,
};
