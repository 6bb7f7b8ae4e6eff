//! The layers of a configuration: files and environment variables, as trees of values with their origins.

mod environment;
pub(super) mod files;
mod node;
mod origin;
mod reference;
mod yaml;

pub use self::origin::{Origin, Position};
pub(crate) use self::{
    environment::{CONFIG_DIR, ENV, Environment, Meaning, meaning, variable},
    node::{Content, Node, display},
    reference::{ReferenceError, literal, substitute},
};
