use aios_core::broker::{Health, HealthWatch};
use futures_util::stream::unfold;
use tokio::sync::watch;

/// The state of a connection, with any number of watchers.
#[derive(Debug)]
pub(crate) struct HealthState(watch::Sender<Health>);

impl HealthState {
    pub(crate) fn new(health: Health) -> Self {
        Self(watch::Sender::new(health))
    }

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
