//! New values of settings while the service runs.
//!
//! A reload reads all layers again, as the start did. If one of them is invalid, all old values
//! stay. Otherwise the settings in [`RELOADED`] take effect at once, and every other change is
//! logged with a warning that it needs a restart; connections and agents keep what they were
//! created with.
//!
//! The files are read on a thread of their own, so that requests are still served. A file system that does
//! not answer delays this and the following reloads, and nothing else.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::{
    blocking,
    config::{Change, Settings, SettingsError},
    http::{Limits, RateLimit},
    telemetry::LogControl,
};

/// Settings whose new values are taken, with all keys below them.
const RELOADED: [&str; 5] =
    ["log.level", "log.targets", "http.request_timeout", "http.max_body_bytes", "http.rate_limit"];

/// The settings that a service uses, and what takes new values.
#[derive(Debug)]
pub(super) struct Reload {
    /// The values that are in use, from which changes are computed.
    pub(super) settings: Mutex<Settings>,
    /// The limits that the API reads for each request.
    pub(super) limits: Limits,
    /// The levels of the log, if this service writes it.
    pub(super) log: Option<LogControl>,
    /// Locked from reading until the values are taken, so that the newest values are taken last.
    turn: tokio::sync::Mutex<()>,
}

impl Reload {
    /// The settings at the start.
    pub(super) fn new(settings: Settings, limits: Limits, log: Option<LogControl>) -> Self {
        Self { settings: Mutex::new(settings), limits, log, turn: tokio::sync::Mutex::default() }
    }

    /// Reads all layers again, and takes the new values or none.
    pub(super) async fn reload(self: &Arc<Self>) -> Result<Vec<Change>, SettingsError> {
        let _turn = self.turn.lock().await;
        let reload = Arc::clone(self);
        let read = blocking::call(move || {
            let old = reload.current();
            old.reload().map(|new| (old, new))
        });
        let result = match read.await {
            Some(Ok((old, new))) => self.take(&old, new),
            Some(Err(error)) => Err(error),
            None => Err(SettingsError::unreadable("no thread can read it".to_owned())),
        };
        if let Err(error) = &result {
            error!(code = error.code(), %error, "the configuration cannot be reloaded; the old values stay");
        }
        result
    }

    /// The values that are in use.
    fn current(&self) -> Settings {
        self.settings.lock().clone()
    }

    /// Takes new values. A rate limit that has not changed keeps its counters. Changes are logged
    /// at the level that shows more of them: before the new level is set, or after.
    ///
    /// The rate limit is checked first, so that a refused value leaves all others unchanged.
    fn take(&self, old: &Settings, new: Settings) -> Result<Vec<Change>, SettingsError> {
        let limit = rate_limit(&new)?;
        let http = new.http();
        self.limits.set_request_timeout(http.request_timeout.get());
        self.limits.set_max_body_bytes(usize::try_from(http.max_body_bytes).unwrap_or(usize::MAX));
        if http.rate_limit != old.http().rate_limit {
            self.limits.set_rate_limit(limit);
        }
        let changes = new.changes_since(old);
        // Logged at the more verbose of the two levels.
        if new.log().level < old.log().level {
            changes.iter().for_each(report);
        }
        if let Some(log) = &self.log {
            log.set(new.log());
        }
        if new.log().level >= old.log().level {
            changes.iter().for_each(report);
        }
        info!(changes = changes.len(), "the configuration was reloaded");
        *self.settings.lock() = new;
        Ok(changes)
    }
}

/// Logs a change. Values of secrets come hidden from [`Change`].
fn report(change: &Change) {
    let Change { key, before, after, origin } = change;
    let before = before.as_deref();
    let after = after.as_deref();
    let origin = origin.as_ref().map(ToString::to_string);
    let key = key.as_str();
    let origin = origin.as_deref();
    match is_reloaded(key) {
        true => info!(key, before, after, origin, "a setting has changed"),
        false => warn!(key, before, after, origin, "a setting has changed; restart to use it"),
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(super) struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The signals that ask for a reload: SIGHUP, where there is one.
#[derive(Debug)]
pub(super) struct HangUps(#[cfg(unix)] tokio::signal::unix::Signal);

impl HangUps {
    /// Handles the signal from now on. One that comes before [`reload`](Self::reload) is not lost.
    ///
    /// # Errors
    ///
    /// An error of the operating system if the signal cannot be handled.
    #[cfg(unix)]
    pub(super) fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        Ok(Self(signal(SignalKind::hangup())?))
    }

    #[cfg(not(unix))]
    #[allow(clippy::unnecessary_wraps, reason = "as on Unix")]
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self())
    }

    /// Reloads at every signal.
    pub(super) fn reload(mut self, reload: &Arc<Reload>) -> Task {
        let reload = Arc::clone(reload);
        Task(tokio::spawn(async move {
            while self.next().await {
                // Reported by `reload`.
                let _ = reload.reload().await;
            }
        }))
    }

    /// Waits for the next signal; false if there will be none.
    #[cfg(unix)]
    async fn next(&mut self) -> bool {
        self.0.recv().await.is_some()
    }

    #[cfg(not(unix))]
    async fn next(&mut self) -> bool {
        false
    }
}

/// Whether a new value of this setting is taken.
fn is_reloaded(key: &str) -> bool {
    RELOADED.iter().any(|reloaded| {
        key.strip_prefix(reloaded).is_some_and(|below| below.is_empty() || below.starts_with('.'))
    })
}

/// The rate limit of the settings, if there is one.
pub(super) fn rate_limit(settings: &Settings) -> Result<Option<RateLimit>, SettingsError> {
    let key = "http.rate_limit";
    let limit = settings.http().rate_limit.map(|it| RateLimit::new(it.requests, it.per.get()));
    let origin = settings.origin("http.rate_limit.requests");
    limit.transpose().map_err(|error| SettingsError::refused(key, origin, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_know_which_settings_are_taken() {
        for key in ["log.level", "log.targets", "log.targets.aios", "http.rate_limit.per"] {
            assert!(is_reloaded(key), "{key}");
        }
        for key in ["log.format", "log.targets_file", "log.levels", "http.listen"] {
            assert!(!is_reloaded(key), "{key}");
        }
    }
}
