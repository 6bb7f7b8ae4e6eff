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

use crate::admission::MAX_EVENT_BYTES;

/// Where a database lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location {
    File(PathBuf),
    Memory,
}

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

    /// Sets how long to wait for another process to let go of the database. Default: not at all.
    pub fn with_lock_wait(mut self, wait: Duration) -> Self {
        self.lock_wait = wait;
        self
    }

    /// Sets how many reads run at the same time, at least 1. Default 4.
    pub fn with_readers(mut self, readers: usize) -> Self {
        self.readers = readers.max(1);
        self
    }

    /// Sets how large an event may be: payload and metadata together, in bytes. Default 16 MiB.
    pub fn with_max_event_bytes(mut self, bytes: usize) -> Self {
        self.max_event_bytes = bytes;
        self
    }

    /// Sets how large the database may grow, in bytes, rounded down to whole pages of 4 KiB; then
    /// appends are refused with [`StoreError::Full`]. Default: as large as the disk allows.
    pub fn with_max_database_bytes(mut self, bytes: u64) -> Self {
        self.max_database_bytes = Some(bytes);
        self
    }

    /// Sets the clock by which leases expire. Default: the wall clock.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
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
}
