//! Runs what a user runs, from outside.

mod code_review;
mod envelope;
mod examples;
#[cfg(unix)]
mod kill_sweep;
mod review;
