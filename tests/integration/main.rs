//! The adapters and the runtime, on private servers that a test may kill.

#[cfg(test)]
mod rabbitmq;
