//! Integration tests of the crate, in one binary. Each folder has one subject: the host of agents, tasks,
//! runs, the code of workflows, one engine, a fleet of engines, and the runtime as a whole.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support {
    pub(crate) mod agents;
    #[allow(dead_code, reason = "a fixture offers more than every test needs")]
    pub(crate) mod faulty;
    pub(crate) mod workflows;
}

mod agent {
    mod answers;
    mod blocked;
    mod caller;
    mod faults;
    mod held;
    mod host;
    mod managed;
    mod middleware;
    mod questions;
    mod refusals;
    mod slots;
    mod supervision;
    mod typed;
}

mod task {
    mod answers;
    mod attempts;
    mod dispatch;
    mod misbehaving;
    mod outages;
    mod questions;
    mod unclaimed;
}

mod run {
    mod children;
    mod commands;
    mod continued;
    mod ends;
    mod events;
    mod forks;
    mod identity;
    mod last_moment;
    mod metadata;
    mod pause;
    pub(crate) mod races;
    mod start;
}

mod workflow {
    mod basic;
    mod blocked;
    mod dropped;
    mod durable;
    mod executor;
    mod failures;
    mod faults;
    mod guards;
    #[cfg(feature = "testing")]
    mod journals;
    mod names;
    mod odd;
    mod polled;
    #[cfg(feature = "testing")]
    mod replay;
    #[cfg(feature = "testing")]
    mod testing;
}

mod engine {
    mod clock;
    mod faults;
    mod idle;
    mod lean;
    pub(crate) mod lookahead;
    mod lookahead_faults;
    mod measures;
    mod nudges;
    mod postgres;
    mod promotion;
    mod refusals;
    mod relay;
    pub(crate) mod sizes;
    mod stops;
    mod waits;
}

mod fleet {
    pub(crate) mod discovery;
    mod hosting;
    mod leases;
    mod shards;
    mod takeover;
}

mod sweep;

mod runtime {
    mod cancelled;
    mod declared;
    mod dropped;
    mod options;
    mod outputs;
    mod panics;
    pub(crate) mod projection;
    mod reference;
    mod texts;
    mod upgrade;
    mod workflow_agents;
}
