//! The health of a connection, for any number of watchers.
//!
//! A watcher gets the state of the moment first, and then every change. A watcher that is slow
//! misses states in between and gets the newest one: the state is what matters, not its history.

use aios_core::broker::{Health, HealthWatch};
use futures_util::stream::unfold;
use tokio::sync::watch;

/// The state of a connection, with any number of watchers.
#[derive(Debug)]
pub(crate) struct HealthState(watch::Sender<Health>);

impl HealthState {
    /// Begins in this state.
    pub(crate) fn new(health: Health) -> Self {
        Self(watch::Sender::new(health))
    }

    /// Changes the state and wakes the watchers.
    pub(crate) fn set(&self, health: Health) {
        self.0.send_replace(health);
    }

    /// Begins with the current state.
    pub(crate) fn watch(&self) -> HealthWatch {
        HealthWatch::new(unfold((self.0.subscribe(), true), |(mut receiver, first)| async move {
            // The first item must be ready at once, so it does not pass tokio's task budget.
            if !first {
                receiver.changed().await.ok()?;
            }
            let health = receiver.borrow_and_update().clone();
            Some((health, (receiver, false)))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn should_begin_with_the_state_now_and_end_with_the_broker() {
        let state = HealthState::new(Health::Connected);
        let mut watch = state.watch();
        assert_eq!(watch.next().await, Some(Health::Connected));
        state.set(Health::Closed);
        assert_eq!(watch.next().await, Some(Health::Closed));
        drop(state);
        assert_eq!(watch.next().await, None);
    }
}
