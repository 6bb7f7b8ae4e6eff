//! Runs the examples as a user does.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that can't continue fails"
)]

mod code_review;
mod rest_service;
mod service;
