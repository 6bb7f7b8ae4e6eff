//! Where the code of a test is polled.

use std::{future::Future, panic::resume_unwind};

use tokio::runtime::{Builder, Handle};

use crate::task::JoinSet;

/// Polls a run in a task of a scheduler, as an engine does.
///
/// Elsewhere, for example on a thread that blocks on a multi-threaded runtime, tokio wakes yielding
/// futures immediately, and the branches of a run would take turns in another order.
///
/// # Cancel safety
///
/// Cancelling drops the run.
pub(super) async fn scheduled<T: Send + 'static>(
    run: impl Future<Output = T> + Send + 'static,
) -> T {
    // A test may have no runtime of tokio at all.
    if Handle::try_current().is_err() {
        return match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(run),
            Err(error) => resume_unwind(Box::new(error.to_string())),
        };
    }
    let mut tasks = JoinSet::new();
    tasks.spawn(run);
    match tasks.join_next().await {
        Some(Ok(ended)) => ended,
        Some(Err(error)) => resume_unwind(match error.try_into_panic() {
            Ok(panic) => panic,
            Err(error) => Box::new(error.to_string()),
        }),
        None => resume_unwind(Box::new("the run did not complete")),
    }
}
