//! The client of the API, against real servers.

mod events;
mod faults;
mod resources;
mod server;
