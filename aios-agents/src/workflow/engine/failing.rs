//! What an engine does about errors that will not pass: it stops, and says why.

use std::{panic::AssertUnwindSafe, sync::Arc};

use aios_core::{Chain, failure::Failure};
use futures_util::FutureExt;
use tracing::{error, warn};

use super::{Engine, EngineError};
use crate::panic::panic_failure;

/// Code of the failure of an engine whose own code panicked.
pub(super) const PANICKED: &str = "ENGINE_PANICKED";

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
        if self.failing.fail(failure.clone()) {
            error!(error = failure.message, code = failure.code, "the engine stops");
        }
    }

    /// Why the engine stopped by itself, if it did.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.failing.failure()
    }

    /// Completes when the engine stops by itself.
    pub(crate) async fn failed(&self) -> Failure {
        self.failing.failed().await
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
