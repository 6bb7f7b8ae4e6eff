//! The client of the API, against real servers.

mod events;
mod faults;
mod managed;
mod resources;
mod server;
