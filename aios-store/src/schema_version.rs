//! The facts that tools need before they open a store: whether opening it migrates it, and whether
//! this version can open it at all.

/// The version of a database's schema, and the one that this version of aios needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SchemaVersion {
    /// The version of the database; 0 if it has no schema of aios, or if the SQLite file does not exist.
    pub found: u32,
    /// The version that this version of aios needs, and to which it migrates older databases.
    pub known: u32,
}

impl SchemaVersion {
    /// Whether opening the store migrates its schema.
    #[must_use]
    pub fn is_outdated(self) -> bool {
        self.found < self.known
    }

    /// Whether a newer version of aios migrated the database, which this version can't open.
    #[must_use]
    pub fn is_newer(self) -> bool {
        self.found > self.known
    }
}
