//! aios-store
