//! aios-py
