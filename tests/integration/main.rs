//! The adapters and the runtime, on private servers that a test may kill.

#[cfg(test)]
#[path = "../../aios-agents/tests/logged.rs"]
mod logged;
#[cfg(test)]
mod rabbitmq;
