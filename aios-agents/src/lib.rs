//! aios-agents
