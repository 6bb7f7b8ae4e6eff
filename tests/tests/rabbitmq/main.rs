//! The RabbitMQ adapter on private servers.

#[cfg(test)]
mod chaos;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tls;
