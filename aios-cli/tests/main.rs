//! Tests of the program `aios`: each executes the real binary.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that can't continue fails"
)]

mod dev;
mod direct;
mod engine;
mod faults;
mod guide;
mod maintenance;
mod operations;
mod readers;
mod refusals;
mod support;
mod trace;
