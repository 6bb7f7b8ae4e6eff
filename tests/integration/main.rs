//! Adapters and the runtime together, on private servers that a test may kill.

#[cfg(test)]
mod rabbitmq;
