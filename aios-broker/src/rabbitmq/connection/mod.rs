//! Connections to the server: opening, watching and opening them again.
//!
//! A broker has two links, one that publishes and one that consumes. Each has a supervisor task, and
//! both report to one [`Reporter`]. A channel belongs to the connection that was current when it was
//! opened. Its user also waits for `Link::lost`, and so learns that the supervisor or another user has
//! replaced the connection.

mod health;
mod link;
mod runtime_kit;
mod url;

pub(crate) use self::{
    health::{Part, Reporter},
    link::{Link, OwnedLink},
};
