//! Permanent errors of an engine: it stops and reports the cause.
//!
//! An error that no retry resolves, such as missing permissions or a damaged database, would otherwise be
//! repeated by every loop. The engine stops as a whole instead: if only one part stopped, nothing but
//! waiting runs would show it. It hands its shards over, so that an engine without the problem continues
//! them, and `Runtime` reports the failure.

use std::{panic::AssertUnwindSafe, sync::Arc};

use aios_core::{Chain, catalog::codes, failure::Failure};
use futures_util::FutureExt;
use tracing::{error, warn};

use super::{Engine, EngineError};
use crate::panic::panic_failure;

impl Engine {
    /// Whether to retry after an error. A permanent error stops the engine.
    pub(super) fn survives(&self, what: &'static str, error: impl Into<EngineError>) -> bool {
        let error = error.into();
        if error.is_retryable() {
            warn!(error = %Chain(&error), code = error.code(), "could not {what}; trying again");
            return true;
        }
        self.fail(what, &Failure::from_error(error.code(), &error));
        false
    }

    /// Stops the engine: its runs leave memory, its shards are handed over, and users of the
    /// runtime learn the cause. The first failure is kept.
    pub(super) fn fail(&self, what: &'static str, failure: &Failure) {
        let Failure { code, message, .. } = failure;
        let failure = Failure::new(code.clone(), format!("could not {what}: {message}"));
        if self.failing.fail(failure.clone()) {
            error!(error = failure.message, code = failure.code, "the engine stopped");
        }
    }

    /// The failure that stopped the engine, if there was one.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.failing.failure()
    }

    /// Completes when a failure stops the engine.
    pub(crate) async fn failed(&self) -> Failure {
        self.failing.failed().await
    }

    /// Ends everything that advances runs or settles their answers. The order matters: loops are stopped
    /// first, so that they start nothing; then readers of mailboxes, drivers and background tasks end.
    pub(super) async fn stop_runs(&self) {
        self.stopping.send_replace(true);
        self.readers.close();
        self.live.stop().await;
        self.recorders.stop().await;
        self.background.stop().await;
    }

    /// Stops all activity and releases the shards. The leases are released last, when nothing uses them any
    /// more.
    pub(super) async fn halt(&self) {
        self.stop_runs().await;
        self.store.unwatch();
        self.release_leases().await;
    }
}

/// Halts the engine when it fails.
pub(super) async fn halt_on_failure(engine: Arc<Engine>) {
    engine.failed().await;
    engine.halt().await;
}

/// Runs one of the engine's loops. A panic in the loop stops the engine.
pub(super) async fn guard(
    engine: Arc<Engine>,
    what: &'static str,
    part: impl Future<Output = ()> + Send,
) {
    if let Err(panic) = AssertUnwindSafe(part).catch_unwind().await {
        engine.fail(what, &panic_failure(codes::ENGINE_PANICKED, &*panic));
    }
}
