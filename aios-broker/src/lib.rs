//! aios-broker
