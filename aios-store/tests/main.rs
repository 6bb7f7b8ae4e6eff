//! The suite that every store passes, on each adapter of this crate, and what is special to each.

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
