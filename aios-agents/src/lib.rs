//! aios-agents

pub mod agent;
pub mod middleware;
