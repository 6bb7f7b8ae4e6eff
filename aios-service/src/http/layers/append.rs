//! Appends that a transient failure of the store must not lose.

use std::time::Duration;

use aios_core::{
    clock::Clock,
    store::{Append, Appended, EventStoreExt, Store, StoreError},
};

/// Pause before an append is repeated.
const PAUSE: Duration = Duration::from_millis(100);

/// Appends until the store accepts or refuses it. Repeating an append is safe: its events have ids.
pub(super) async fn append_until_taken(
    store: &dyn Store,
    clock: &dyn Clock,
    append: &Append,
) -> Result<Appended, StoreError> {
    append_reporting(store, clock, append, || {}).await
}

/// Like [`append_until_taken`], and says so when the append failed and will be repeated.
pub(super) async fn append_reporting(
    store: &dyn Store,
    clock: &dyn Clock,
    append: &Append,
    failed: impl Fn() + Send,
) -> Result<Appended, StoreError> {
    loop {
        match store.append_one(append.clone()).await {
            Err(error) if error.is_retryable() => {
                failed();
                clock.sleep(PAUSE).await;
            }
            taken_or_refused => return taken_or_refused,
        }
    }
}
