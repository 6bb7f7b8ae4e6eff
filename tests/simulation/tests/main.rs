//! Simulations, and what has to hold in them.

mod seeds;
