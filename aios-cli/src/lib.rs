//! The program `aios` of [aios](https://github.com/aios-rs/aios), for developers and operators.
//!
//! ```text
//! aios dev                                     a service for development, in one process
//! aios start welcome '"Ada"' --id welcome-ada  start a run
//! aios runs                                    list runs
//! aios journal welcome-ada                     what a run has done
//! ```
//!
//! `aios --help` lists all commands. They work over the HTTP API of a service (`--url`), or directly on
//! a store (`--store`).
//!
//! # Embedding
//!
//! [`main`] is the whole program as a function, for packages that install it under their own name. The
//! Python package `aios` does.
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `sqlite` | `--store sqlite:…` |
//! | `postgres` | `--store postgres:…` |
//! | `rabbitmq` | `--broker amqp:…` |
//!
//! All are on by default.

mod arguments;
mod commands;
mod consent;
mod error;
mod exit;
mod output;
mod program;
mod settings;
mod target;

pub use self::program::main;
