//! Wrappers for any agent, one concern each.

use std::sync::Arc;

use aios_core::agent::DynAgent;

/// Wraps agents. What a layer keeps (permits, rates, a circuit) is shared by all agents that it
/// wraps.
pub trait AgentLayer: Send + Sync + 'static {
    /// Wraps one agent.
    fn layer(&self, agent: Arc<dyn DynAgent>) -> Arc<dyn DynAgent>;
}
