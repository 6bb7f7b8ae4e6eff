//! What an engine does about errors that will not pass: it stops, and says why.

use std::{panic::AssertUnwindSafe, sync::Arc};

use aios_core::{Chain, failure::Failure};
use futures_util::FutureExt;
use tokio::sync::watch;
use tracing::{error, warn};

use super::{Engine, EngineError};
use crate::panic::panic_failure;

/// Code of the failure of an engine whose own code panicked.
pub(super) const PANICKED: &str = "ENGINE_PANICKED";

/// Why an engine stopped by itself, once it did.
#[derive(Debug)]
pub(super) struct Failing(watch::Sender<Option<Failure>>);

impl Default for Failing {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Engine {
    /// Whether something is to be tried again after an error. One that will not pass stops the
    /// engine.
    pub(super) fn survives(&self, what: &'static str, error: impl Into<EngineError>) -> bool {
        let error = error.into();
        if error.is_retryable() {
            warn!(error = %Chain(&error), code = error.code(), "could not {what}; trying again");
            return true;
        }
        self.fail(what, &Failure::from_error(error.code(), &error));
        false
    }

    /// Stops the engine: its runs leave memory, its shards are handed over, and whoever uses the
    /// runtime learns why. The first failure counts.
    pub(super) fn fail(&self, what: &'static str, failure: &Failure) {
        let Failure { code, message, .. } = failure;
        let failure = Failure::new(code.clone(), format!("could not {what}: {message}"));
        self.failing.0.send_if_modified(|known| {
            let is_first = known.is_none();
            if is_first {
                error!(error = failure.message, code = failure.code, "the engine stops");
                *known = Some(failure);
            }
            is_first
        });
    }

    /// Why the engine stopped by itself, if it did.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.failing.0.borrow().clone()
    }

    /// Completes when the engine stops by itself.
    pub(crate) async fn failed(&self) -> Failure {
        let mut failing = self.failing.0.subscribe();
        loop {
            if let Some(failure) = failing.borrow_and_update().clone() {
                return failure;
            }
            if failing.changed().await.is_err() {
                // The sender lives as long as this engine, so this does not happen.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Stops everything that moves, and hands the shards over.
    pub(super) async fn halt(&self) {
        self.stopping.send_replace(true);
        self.readers.stop();
        self.live.stop().await;
        self.recorders.stop().await;
        self.store.unwatch();
        self.release_leases().await;
    }
}

/// Halts the engine when it fails.
pub(super) async fn halt_on_failure(engine: Arc<Engine>) {
    engine.failed().await;
    engine.halt().await;
}

/// Runs one of the engine's loops; an engine that misses one stops.
pub(super) async fn guard(
    engine: Arc<Engine>,
    what: &'static str,
    part: impl Future<Output = ()> + Send,
) {
    if let Err(panic) = AssertUnwindSafe(part).catch_unwind().await {
        engine.fail(what, &panic_failure(PANICKED, &*panic));
    }
}
