//! The keys of an issuer, as they were fetched last.
//!
//! | the keys are | a token with a known key | a token with an unknown key |
//! |---|---|---|
//! | younger than their lifetime | is verified at once | waits for a fetch, if one is allowed |
//! | due | is verified at once, and a fetch begins in the background | the same |
//! | beyond the stale time, or never fetched | waits for a fetch | the same |
//!
//! A fetch is allowed once per refresh interval, whatever its result. Tokens with invented keys
//! therefore can't make this process flood the issuer. One fetch runs at a time: others wait for
//! the lock of the fetch and then find that it was done.
//!
//! A fetch runs in a task of its own, so that it survives the request that caused it. A failed
//! fetch leaves the known keys in use.

use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::{keys::KeySet, source::KeySource};
use crate::auth::AuthError;

/// When keys are fetched, and how long they are used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    /// How long the source may take.
    pub(super) fetch_timeout: Duration,
    /// The least time between the beginnings of two fetches.
    pub(super) refresh_interval: Duration,
    /// After which time keys are due.
    pub(super) key_lifetime: Duration,
    /// How long they are used beyond that, while they can't be fetched.
    pub(super) stale_if_error: Duration,
}

/// Fetches keys, at most one fetch at a time, and keeps them.
#[derive(Debug)]
pub(super) struct KeyCache {
    /// The value of `iss`.
    issuer: String,
    /// Where keys come from.
    source: Box<dyn KeySource>,
    /// The keys. Locked only to clone or replace.
    state: RwLock<State>,
    /// When the last fetch began. Held while fetching.
    fetching: Mutex<Option<Duration>>,
}

/// The result of the last fetches.
#[derive(Clone, Debug, Default)]
struct State {
    /// The keys of the last fetch that succeeded; empty before.
    keys: Arc<KeySet>,
    /// When it began.
    fetched_at: Option<Duration>,
    /// The lifetime that the issuer asks for.
    max_age: Option<Duration>,
    /// Why the last fetch failed.
    failure: Option<String>,
}

impl State {
    /// The age of the keys.
    fn age(&self, now: Duration) -> Option<Duration> {
        self.fetched_at.map(|at| now.saturating_sub(at))
    }

    /// Whether the keys may still be used if they cannot be fetched.
    fn is_usable(&self, now: Duration, policy: Policy) -> bool {
        let limit = policy.key_lifetime.saturating_add(policy.stale_if_error);
        !self.keys.is_empty() && self.age(now).is_some_and(|age| age < limit)
    }

    /// Whether the keys should be fetched again.
    fn is_due(&self, now: Duration, policy: Policy) -> bool {
        let lifetime = self.max_age.map_or(policy.key_lifetime, |age| age.min(policy.key_lifetime));
        self.age(now).is_none_or(|age| age >= lifetime)
    }
}

impl KeyCache {
    /// No key is known. Nothing is fetched before the first token.
    pub(super) fn new(issuer: String, source: impl KeySource) -> Self {
        Self {
            issuer,
            source: Box::new(source),
            state: RwLock::default(),
            fetching: Mutex::default(),
        }
    }

    /// The value of `iss`.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The keys to look for `id` in. Waits for a fetch only if the known keys have no such key, or
    /// are too old to be used; keys that are only due are fetched in the background.
    ///
    /// The order of the checks after a fetch decides what a caller learns. A key that is unknown
    /// although the fetch succeeded is not an error here; the token is then refused. If the fetch
    /// failed, the key may be one that the issuer has just added, so the token cannot be judged,
    /// and the answer is `Unavailable`.
    pub(super) async fn keys(
        self: &Arc<Self>,
        id: Option<&str>,
        now: Duration,
        policy: Policy,
    ) -> Result<Arc<KeySet>, AuthError> {
        let known = self.state();
        let has_key = known.keys.find(id).is_some();
        if has_key && known.is_usable(now, policy) {
            if known.is_due(now, policy) && self.may_fetch(now, policy) {
                self.refresh(now, policy);
            }
            return Ok(known.keys);
        }
        // The fetch continues if this request is cancelled, because others may wait for it.
        let refreshed = self.refresh(now, policy).await;
        refreshed.map_err(|error| self.unavailable(&error.to_string()))?;
        let state = self.state();
        match (state.keys.find(id).is_some(), &state.failure) {
            // The key may be a new one, which the issuer cannot be asked for.
            (false, Some(failure)) => Err(self.unavailable(failure)),
            _ if !state.is_usable(now, policy) => Err(self.unavailable("there are no usable keys")),
            _ => Ok(state.keys),
        }
    }

    /// A copy of the state, so that no lock is held while a token is verified.
    fn state(&self) -> State {
        self.state.read().clone()
    }

    /// Whether no fetch runs and the last one began long enough ago.
    fn may_fetch(&self, now: Duration, policy: Policy) -> bool {
        self.fetching.try_lock().is_ok_and(|at| is_allowed(*at, now, policy))
    }

    /// Fetches the keys, unless that was done a short time ago.
    ///
    /// Returns the task, which a caller awaits or leaves alone. A caller that awaits it while
    /// another fetch runs waits for the lock, finds the interval unexpired, and uses the result of
    /// the other fetch.
    fn refresh(self: &Arc<Self>, now: Duration, policy: Policy) -> tokio::task::JoinHandle<()> {
        let cache = Arc::clone(self);
        tokio::spawn(async move {
            // Many requests cause one fetch: the others find that it was done.
            let mut began = cache.fetching.lock().await;
            if is_allowed(*began, now, policy) {
                *began = Some(now);
                let fetched = cache.fetch(policy.fetch_timeout).await;
                cache.store(fetched, now);
            }
        })
    }

    /// Fetches the keys once. A set without a usable key counts as a failure: it would lock every
    /// caller out.
    async fn fetch(&self, timeout: Duration) -> Result<(KeySet, Option<Duration>), AuthError> {
        let late = |_| self.unavailable(&format!("the keys did not come within {timeout:?}"));
        let document = tokio::time::timeout(timeout, self.source.fetch()).await.map_err(late)??;
        let keys = KeySet::from_json(&document.json)?;
        match keys.is_empty() {
            false => Ok((keys, document.max_age)),
            true => Err(self.unavailable("the key set has no key that verifies tokens")),
        }
    }

    /// Keeps the result of a fetch.
    fn store(&self, fetched: Result<(KeySet, Option<Duration>), AuthError>, now: Duration) {
        let mut state = self.state.write();
        match fetched {
            Ok((keys, max_age)) => {
                if state.failure.is_some() {
                    info!(issuer = self.issuer, "the keys of the issuer can be fetched again");
                }
                let keys = Arc::new(keys);
                let fetched_at = Some(now);
                let failure = None;
                *state = State { keys, fetched_at, max_age, failure };
            }
            Err(error) => {
                let in_use = state.keys.len();
                warn!(issuer = self.issuer, %error, in_use, "failed to fetch the keys of an issuer");
                state.failure = Some(error.to_string());
            }
        }
    }

    /// The error of a token that can't be verified for now.
    fn unavailable(&self, reason: &str) -> AuthError {
        AuthError::Unavailable { reason: format!("keys of {}: {reason}", self.issuer) }
    }
}

/// Whether the refresh interval has passed.
fn is_allowed(began: Option<Duration>, now: Duration, policy: Policy) -> bool {
    began.is_none_or(|at| now.saturating_sub(at) >= policy.refresh_interval)
}
