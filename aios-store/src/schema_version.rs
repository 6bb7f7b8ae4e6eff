use aios_core::store::StoreError;

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

/// Reads the version of the schema of the store that a URL names. Unlike [`connect`](crate::connect), it
/// migrates nothing, creates nothing, and reads a SQLite file that another process has open.
///
/// # Errors
///
/// [`StoreError::InvalidConfiguration`] if the URL is invalid, or names a store in memory. Otherwise the
/// error that the store reports.
///
/// # Cancel safety
///
/// Cancel safe: nothing is written.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let url = format!("sqlite:{}", folder.path().join("new.db").display());
/// # #[cfg(feature = "sqlite")]
/// # {
/// assert!(aios_store::schema_version(&url).await?.is_outdated());
/// aios_store::connect(&url).await?; // migrates
/// assert!(!aios_store::schema_version(&url).await?.is_outdated());
/// # }
/// # Ok(())
/// # }
/// ```
pub async fn schema_version(url: &str) -> Result<SchemaVersion, StoreError> {
    match url.split_once(':').map(|(scheme, _)| scheme) {
        #[cfg(feature = "sqlite")]
        Some("sqlite") => crate::sqlite::schema_version(&url.parse()?).await,
        #[cfg(feature = "postgres")]
        Some("postgres" | "postgresql") => {
            let options = crate::postgres::PostgresOptions::new(url)?;
            crate::postgres::PostgresStore::schema_version(options).await
        }
        Some("memory") => {
            let reason = "a store in memory has no schema".to_owned();
            Err(StoreError::InvalidConfiguration { reason })
        }
        // Explains what is wrong with the URL.
        _ => match crate::AnyStore::connect(url).await {
            Ok(_) => Ok(SchemaVersion { found: 0, known: 0 }),
            Err(error) => Err(error),
        },
    }
}
