//! The RabbitMQ adapter on private servers.

mod agents;
mod cancelled;
mod chaos;
mod cluster;
mod conformance;
mod dead_letters;
mod delays;
mod footprint;
mod groups;
mod long_task;
mod opening;
mod proxy;
mod publishing;
mod readers;
mod refused;
mod sizes;
mod temporary;
mod tls;
mod traffic;
mod watchdog;
