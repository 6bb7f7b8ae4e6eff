//! The RabbitMQ adapter on private servers.

#[cfg(test)]
mod chaos;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod groups;
#[cfg(test)]
mod long_task;
#[cfg(test)]
mod publishing;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod traffic;
#[cfg(test)]
mod watchdog;
