//! The conformance suite of stores on each adapter of this crate, and the tests of single adapters.

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod memory;
#[cfg(test)]
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(test)]
#[cfg(feature = "sqlite")]
mod sqlite;
