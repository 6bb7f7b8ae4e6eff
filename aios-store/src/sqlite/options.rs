//! Options of the SQLite store, and its URLs.
//!
//! Setters only store a value. `connect_with` checks them all before it touches the file system.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use aios_core::{
    clock::{Clock, SystemClock},
    store::StoreError,
};

use crate::validation::MAX_EVENT_BYTES;

/// The location of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// A file, which is created if it does not exist.
    File(PathBuf),
    /// A private database, which only the writing connection sees.
    Memory,
}

/// Upper limit of `lock_wait`.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 86_400);
/// Upper limit of `readers`. Each reader is a connection and a thread.
const MOST_READERS: usize = 1_000;
/// Upper limit of `max_event_bytes`. A row of SQLite has less than 2^30 bytes.
const LARGEST_EVENT: usize = 1 << 29;
/// Limits of `max_database_bytes`: the schema needs some pages, and a database has at most 2^32 pages.
const DATABASE_BYTES: (u64, u64) = (1 << 20, 1 << 44);

/// Reserved characters of a URL, by the code that replaces them after `%`.
const ESCAPES: [(&str, char); 4] = [("20", ' '), ("23", '#'), ("25", '%'), ("3F", '?')];

/// When a commit is complete.
///
/// # Examples
///
/// A cache of events that can be loaded again gives up the last commits for faster appends:
///
/// ```
/// use aios_store::sqlite::{SqliteOptions, Synchronous};
///
/// let options = SqliteOptions::file("cache.db").with_synchronous(Synchronous::Normal);
/// # let _ = options;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Synchronous {
    /// When the data is on disk. Commits survive the loss of power.
    #[default]
    Full,
    /// When the operating system has the data. Commits survive a crash of the process. A loss of power
    /// may lose the last commits, but never corrupts the database.
    Normal,
}

impl Synchronous {
    /// The value of SQLite's setting `synchronous`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Normal => "NORMAL",
        }
    }
}

/// Options of a [`SqliteStore`](super::SqliteStore).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_store::sqlite::{SqliteOptions, SqliteStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("orders.db");
/// let options = SqliteOptions::file(&path)
///     .with_lock_wait(Duration::from_secs(10))
///     .with_readers(8);
/// let store = SqliteStore::connect_with(options).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct SqliteOptions {
    pub(super) location: Location,
    pub(super) synchronous: Synchronous,
    pub(super) lock_wait: Duration,
    pub(super) readers: usize,
    pub(super) max_event_bytes: usize,
    pub(super) max_database_bytes: Option<u64>,
    pub(super) clock: Arc<dyn Clock>,
}

impl SqliteOptions {
    /// Creates options for a database in this file. The file is created if it does not exist; its folder
    /// has to exist.
    pub fn file(path: impl AsRef<Path>) -> Self {
        Self::at(Location::File(path.as_ref().to_owned()))
    }

    /// Creates options for a private database in memory, which is dropped with the store.
    pub fn memory() -> Self {
        Self::at(Location::Memory)
    }

    /// The defaults.
    fn at(location: Location) -> Self {
        Self {
            location,
            synchronous: Synchronous::default(),
            lock_wait: Duration::ZERO,
            readers: 4,
            max_event_bytes: MAX_EVENT_BYTES,
            max_database_bytes: None,
            clock: Arc::new(SystemClock),
        }
    }

    /// Sets when a commit is complete. Default [`Synchronous::Full`].
    pub fn with_synchronous(mut self, synchronous: Synchronous) -> Self {
        self.synchronous = synchronous;
        self
    }

    /// Sets how long to wait for another process to close the database, up to 24 days. Default zero.
    pub fn with_lock_wait(mut self, wait: Duration) -> Self {
        self.lock_wait = wait;
        self
    }

    /// Sets the number of concurrent reads, 1 to 1,000. Default 4.
    pub fn with_readers(mut self, readers: usize) -> Self {
        self.readers = readers;
        self
    }

    /// Sets the size limit of an event: payload and metadata together, 1 to 536,870,912 bytes. Default
    /// 16 MiB.
    pub fn with_max_event_bytes(mut self, bytes: usize) -> Self {
        self.max_event_bytes = bytes;
        self
    }

    /// Sets the size limit of the database in bytes, 1 MiB to 16 TiB, rounded down to whole pages of
    /// 4 KiB. Beyond the limit, appends fail with [`StoreError::Full`]. Default: the size of the disk.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_core::{event::Event, store::{Append, EventStoreExt, StoreError, StreamId}};
    /// use aios_store::sqlite::{SqliteOptions, SqliteStore};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let options = SqliteOptions::memory().with_max_database_bytes(1 << 20);
    /// let store = SqliteStore::connect_with(options).await?;
    /// let large = Event::new("shop.order.placed".parse()?, "shop", &"x".repeat(2 << 20))?;
    /// let append = Append::new(StreamId::new("orders/7")?, vec![large]);
    /// assert!(matches!(store.append_one(append).await, Err(StoreError::Full { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_max_database_bytes(mut self, bytes: u64) -> Self {
        self.max_database_bytes = Some(bytes);
        self
    }

    /// Sets the clock that decides when leases expire. Default: the wall clock.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Refuses options that are out of range.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let wait = self.lock_wait;
        if wait > LONGEST_WAIT {
            return Err(invalid(format!("lock_wait is {wait:?}; the maximum is {LONGEST_WAIT:?}")));
        }
        check_range("readers", self.readers, (1, MOST_READERS))?;
        check_range("max_event_bytes", self.max_event_bytes, (1, LARGEST_EVENT))?;
        match self.max_database_bytes {
            Some(bytes) => check_range("max_database_bytes", bytes, DATABASE_BYTES),
            None => Ok(()),
        }
    }

    /// The name of the database in errors.
    pub(super) fn database(&self) -> String {
        match &self.location {
            Location::File(path) => path.display().to_string(),
            Location::Memory => ":memory:".to_owned(),
        }
    }
}

/// The error for an invalid option or URL.
fn invalid(reason: String) -> StoreError {
    StoreError::InvalidConfiguration { reason }
}

/// Refuses a value outside a range, both ends included.
fn check_range<T: Copy + PartialOrd + fmt::Display>(
    name: &str,
    value: T,
    (least, most): (T, T),
) -> Result<(), StoreError> {
    if value < least || value > most {
        return Err(invalid(format!("{name} is {value}; it must be between {least} and {most}")));
    }
    Ok(())
}

/// Parses `sqlite:path`, `sqlite://path` (so an absolute path has three slashes), `sqlite::memory:`
/// or `sqlite://:memory:`. In the path, `%3F` stands for `?`, `%23` for `#`, `%25` for `%` and `%20` for
/// a space; everything else is taken literally. A path that begins like `user:password@host` is refused
/// after `//`, because it is probably the URL of a server.
///
/// # Examples
///
/// ```
/// use aios_core::store::StoreError;
/// use aios_store::sqlite::SqliteOptions;
///
/// # fn main() -> Result<(), StoreError> {
/// let _relative: SqliteOptions = "sqlite:data/orders.db".parse()?;
/// let _absolute: SqliteOptions = "sqlite:///var/lib/shop/orders.db".parse()?;
/// let _memory: SqliteOptions = "sqlite::memory:".parse()?;
/// let _escaped: SqliteOptions = "sqlite:is it full%3F.db".parse()?; // the file `is it full?.db`
///
/// let parameters = "sqlite:orders.db?mode=ro".parse::<SqliteOptions>();
/// assert!(matches!(parameters, Err(StoreError::InvalidConfiguration { .. })));
/// # Ok(())
/// # }
/// ```
impl FromStr for SqliteOptions {
    type Err = StoreError;

    fn from_str(url: &str) -> Result<Self, StoreError> {
        // The URL of another database may have a password, so no error shows the URL.
        let rest = url
            .strip_prefix("sqlite:")
            .ok_or_else(|| invalid("a SQLite URL begins with sqlite:".to_owned()))?;
        let fault = match rest.strip_prefix("//").unwrap_or(rest) {
            "" => "it has no path",
            ":memory:" => return Ok(Self::memory()),
            path if path.contains('?') => {
                "parameters are not supported; write ? in a file name as %3F"
            }
            _ if has_password(rest) => {
                "it has a user and a password, as the URL of a server; write sqlite:path for a file"
            }
            path => return Ok(Self::file(unescape(path))),
        };
        Err(invalid(format!("invalid SQLite URL: {fault}")))
    }
}

/// Whether the text after `sqlite:` begins like `//user:password@host`. A single letter is a drive of
/// Windows.
fn has_password(rest: &str) -> bool {
    let user = rest.strip_prefix("//").and_then(|path| path.split_once(':'));
    user.is_some_and(|(user, rest)| user.len() > 1 && !user.contains('/') && rest.contains('@'))
}

/// Replaces the escapes of a path. A `%` that begins none of [`ESCAPES`] stays as it is, so that
/// most file names need no escaping.
fn unescape(path: &str) -> String {
    let mut pieces = path.split('%');
    let mut unescaped = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let escape = ESCAPES
            .iter()
            .find(|(code, _)| piece.get(..2).is_some_and(|begin| begin.eq_ignore_ascii_case(code)));
        unescaped.push(escape.map_or('%', |(_, character)| *character));
        unescaped.push_str(piece.get(escape.map_or(0, |(code, _)| code.len())..).unwrap_or(piece));
    }
    unescaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_parse_urls() {
        for (url, location) in [
            ("sqlite:a.db", Location::File("a.db".into())),
            ("sqlite://a.db", Location::File("a.db".into())),
            ("sqlite:///var/ä b.db", Location::File("/var/ä b.db".into())),
            ("sqlite:/var/a.db", Location::File("/var/a.db".into())),
            ("sqlite:a%3fb%23c%20d%25e.db", Location::File("a?b#c d%e.db".into())),
            ("sqlite:a%253F#%2F%41%.db", Location::File("a%3F#%2F%41%.db".into())),
            ("sqlite:100%", Location::File("100%".into())),
            ("sqlite:me:1@h.db", Location::File("me:1@h.db".into())),
            ("sqlite:///var/me:1@h.db", Location::File("/var/me:1@h.db".into())),
            ("sqlite://me@h.db", Location::File("me@h.db".into())),
            ("sqlite::memory:", Location::Memory),
            ("sqlite://:memory:", Location::Memory),
        ] {
            assert_eq!(url.parse::<SqliteOptions>().unwrap().location, location, "{url}");
        }
    }

    #[test]
    fn should_refuse_invalid_urls() {
        for url in [
            "",
            "a.db",
            "postgres://a:secret@b",
            "sqlite:",
            "sqlite://",
            "sqlite://a.db?mode=ro",
            "sqlite://me:secret@h/d",
            "sqlite://me:se/secret@h/d",
            "sqlite://me:secret@h/d?sslmode=require",
            "sqlite:d?user=me&password=secret",
        ] {
            let error = url.parse::<SqliteOptions>().unwrap_err();
            assert_eq!(error.code(), "INVALID_STORE_CONFIGURATION", "{url}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn should_refuse_options_out_of_range() {
        type Change = fn(SqliteOptions) -> SqliteOptions;
        let refused: [(&str, Change); 9] = [
            ("lock_wait", |it| it.with_lock_wait(Duration::MAX)),
            ("lock_wait", |it| it.with_lock_wait(LONGEST_WAIT + Duration::from_nanos(1))),
            ("readers", |it| it.with_readers(0)),
            ("readers", |it| it.with_readers(usize::MAX)),
            ("max_event_bytes", |it| it.with_max_event_bytes(0)),
            ("max_event_bytes", |it| it.with_max_event_bytes(usize::MAX)),
            ("max_database_bytes", |it| it.with_max_database_bytes(0)),
            ("max_database_bytes", |it| it.with_max_database_bytes(4096)),
            ("max_database_bytes", |it| it.with_max_database_bytes(u64::MAX)),
        ];
        for (name, change) in refused {
            let error = change(SqliteOptions::memory()).check().unwrap_err();
            assert_eq!(error.code(), "INVALID_STORE_CONFIGURATION", "{name}");
            assert!(error.to_string().contains(name), "{error} should name {name}");
            let names_limit = ["the maximum is", "it must be between"]
                .iter()
                .any(|text| error.to_string().contains(text));
            assert!(names_limit, "{error} should name the limit");
        }
        let accepted: [Change; 5] = [
            |it| it,
            |it| it.with_lock_wait(LONGEST_WAIT),
            |it| it.with_readers(1),
            |it| it.with_max_event_bytes(1),
            |it| it.with_max_database_bytes(1 << 20),
        ];
        accepted.into_iter().for_each(|change| change(SqliteOptions::memory()).check().unwrap());
    }
}
