use std::{
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

/// Where a database lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location {
    File(PathBuf),
    Memory,
}

/// The longest that an option lets anybody wait.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 86_400);
/// Each reader is a connection and a thread.
const MOST_READERS: usize = 1_000;
/// The largest event; a row of SQLite has less than 2^30 bytes.
const LARGEST_EVENT: usize = 1 << 29;
/// The smallest and the largest bound of a database: its schema takes some pages, and it has at most
/// 2^32 of them.
const DATABASE_BYTES: (u64, u64) = (1 << 20, 1 << 44);

/// Characters that mean something in a URL, by the code that stands for them behind `%`.
const ESCAPES: [(&str, char); 4] = [("20", ' '), ("23", '#'), ("25", '%'), ("3F", '?')];

/// When a commit counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Synchronous {
    /// When the disk has it: survives the loss of power.
    #[default]
    Full,
    /// When the operating system has it: survives a crash of the process; the loss of power may cost
    /// the last commits, but never corrupts.
    Normal,
}

impl Synchronous {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Normal => "NORMAL",
        }
    }
}

/// How a [`SqliteStore`](super::SqliteStore) is opened.
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
    /// A database in this file, which is created if it is not there; its folder has to exist.
    pub fn file(path: impl AsRef<Path>) -> Self {
        Self::at(Location::File(path.as_ref().to_owned()))
    }

    /// A database of its own in memory, gone when the store is dropped.
    pub fn memory() -> Self {
        Self::at(Location::Memory)
    }

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

    /// Sets when a commit counts as done. Default [`Synchronous::Full`].
    pub fn with_synchronous(mut self, synchronous: Synchronous) -> Self {
        self.synchronous = synchronous;
        self
    }

    /// Sets how long to wait for another process to let go of the database, up to 24 days. Default:
    /// not at all.
    pub fn with_lock_wait(mut self, wait: Duration) -> Self {
        self.lock_wait = wait;
        self
    }

    /// Sets how many reads run at the same time, 1 to 1,000. Default 4.
    pub fn with_readers(mut self, readers: usize) -> Self {
        self.readers = readers;
        self
    }

    /// Sets how large an event may be: payload and metadata together, 1 to 536,870,912 bytes. Default
    /// 16 MiB.
    pub fn with_max_event_bytes(mut self, bytes: usize) -> Self {
        self.max_event_bytes = bytes;
        self
    }

    /// Sets how large the database may grow, in bytes, rounded down to whole pages of 4 KiB; then
    /// appends are refused with [`StoreError::Full`]. 1 MiB to 16 TiB; default: as large as the disk
    /// allows.
    pub fn with_max_database_bytes(mut self, bytes: u64) -> Self {
        self.max_database_bytes = Some(bytes);
        self
    }

    /// Sets the clock by which leases expire. Default: the wall clock.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Refuses what SQLite can't do, or would never end.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let invalid = |reason| Err(StoreError::InvalidConfiguration { reason });
        let (wait, readers, bytes) = (self.lock_wait, self.readers, self.max_event_bytes);
        if wait > LONGEST_WAIT {
            return invalid(format!("lock_wait is {wait:?}; it is at most {LONGEST_WAIT:?}"));
        }
        if !(1..=MOST_READERS).contains(&readers) {
            return invalid(format!("readers is {readers}; it is 1 to {MOST_READERS}"));
        }
        if !(1..=LARGEST_EVENT).contains(&bytes) {
            return invalid(format!("max_event_bytes is {bytes}; it is 1 to {LARGEST_EVENT}"));
        }
        let (least, most) = DATABASE_BYTES;
        match self.max_database_bytes {
            Some(bytes) if !(least..=most).contains(&bytes) => {
                invalid(format!("max_database_bytes is {bytes}; it is {least} to {most}"))
            }
            _ => Ok(()),
        }
    }

    /// What the database is called in errors.
    pub(super) fn database(&self) -> String {
        match &self.location {
            Location::File(path) => path.display().to_string(),
            Location::Memory => ":memory:".to_owned(),
        }
    }
}

/// Reads `sqlite:path`, `sqlite://path` (so an absolute path has three slashes), `sqlite::memory:`
/// or `sqlite://:memory:`. In the path, `%3F` stands for `?`, `%23` for `#`, `%25` for `%` and `%20` for
/// a space; everything else is taken as it stands.
impl FromStr for SqliteOptions {
    type Err = StoreError;

    fn from_str(url: &str) -> Result<Self, StoreError> {
        // Another URL may have a password, so it is not shown.
        let rest = url.strip_prefix("sqlite:").ok_or_else(|| StoreError::InvalidConfiguration {
            reason: "a SQLite URL begins with sqlite:".to_owned(),
        })?;
        let invalid = |reason: &str| StoreError::InvalidConfiguration {
            reason: format!("{url:?} is no SQLite URL: {reason}"),
        };
        match rest.strip_prefix("//").unwrap_or(rest) {
            "" => Err(invalid("it names no file")),
            ":memory:" => Ok(Self::memory()),
            path if path.contains('?') => {
                Err(invalid("it takes no parameters; a file's name has %3F for ?"))
            }
            path => Ok(Self::file(unescaped(path))),
        }
    }
}

/// The path with the characters that its escapes stand for.
fn unescaped(path: &str) -> String {
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
    fn should_read_urls() {
        for (url, location) in [
            ("sqlite:a.db", Location::File("a.db".into())),
            ("sqlite://a.db", Location::File("a.db".into())),
            ("sqlite:///var/ä b.db", Location::File("/var/ä b.db".into())),
            ("sqlite:/var/a.db", Location::File("/var/a.db".into())),
            ("sqlite:a%3fb%23c%20d%25e.db", Location::File("a?b#c d%e.db".into())),
            ("sqlite:a%253F#%2F%41%.db", Location::File("a%3F#%2F%41%.db".into())),
            ("sqlite:100%", Location::File("100%".into())),
            ("sqlite::memory:", Location::Memory),
            ("sqlite://:memory:", Location::Memory),
        ] {
            assert_eq!(url.parse::<SqliteOptions>().unwrap().location, location, "{url}");
        }
    }

    #[test]
    fn should_refuse_what_is_no_url() {
        for url in
            ["", "a.db", "postgres://a:secret@b", "sqlite:", "sqlite://", "sqlite://a.db?mode=ro"]
        {
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
            assert!(error.to_string().contains("it is"), "{error} should say what is taken");
        }
        let taken: [Change; 5] = [
            |it| it,
            |it| it.with_lock_wait(LONGEST_WAIT),
            |it| it.with_readers(1),
            |it| it.with_max_event_bytes(1),
            |it| it.with_max_database_bytes(1 << 20),
        ];
        taken.into_iter().for_each(|change| change(SqliteOptions::memory()).check().unwrap());
    }
}
