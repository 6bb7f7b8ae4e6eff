//! Simulations, and the invariants that must hold in them.

mod seeds;
