//! The suite that every broker passes, on each adapter of this crate.

#[cfg(test)]
mod memory;
