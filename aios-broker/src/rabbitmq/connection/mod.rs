//! Connections to the server: opening, watching and opening them again.

mod health;
mod link;
mod runtime_kit;
mod url;

pub(crate) use self::{
    health::{Part, Reporter},
    link::Link,
};
