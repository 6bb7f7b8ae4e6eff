//! The log of single tests.

use tracing::{Dispatch, subscriber::NoSubscriber};

/// Returns a subscriber that takes nothing. Keep it while a test has a subscriber for its own thread.
///
/// While a process has just one subscriber, `tracing` asks the thread that first reaches a log statement
/// whether it is wanted, and caches the answer for all threads. That thread may belong to another test,
/// which has no subscriber. With a second one, `tracing` asks all subscribers.
#[must_use]
pub fn second_subscriber() -> Dispatch {
    Dispatch::new(NoSubscriber::default())
}
