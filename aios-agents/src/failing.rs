//! Why something that runs in the background stopped by itself.

use aios_core::failure::Failure;
use tokio::sync::watch;

/// Characters that are kept of the message of a failure that is too large, and of its code.
const KEPT: usize = 1000;
const KEPT_OF_CODE: usize = 100;

/// The failure that stopped something that runs in the background, once it did.
#[derive(Debug)]
pub(crate) struct Failing(watch::Sender<Option<Failure>>);

impl Default for Failing {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Failing {
    /// Notes why it stopped; the first failure counts. Returns whether this is the first.
    pub(crate) fn fail(&self, failure: Failure) -> bool {
        self.0.send_if_modified(|known| {
            let is_first = known.is_none();
            if is_first {
                *known = Some(failure);
            }
            is_first
        })
    }

    /// Why it stopped, if it did.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.0.borrow().clone()
    }

    /// Completes when it stops by itself.
    ///
    /// # Cancel safety
    ///
    /// It can be called again.
    pub(crate) async fn failed(&self) -> Failure {
        let mut failing = self.0.subscribe();
        loop {
            if let Some(failure) = failing.borrow_and_update().clone() {
                return failure;
            }
            if failing.changed().await.is_err() {
                // The sender lives as long as this, so this does not happen.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Truncates a failure that is larger than the store accepts.
pub(crate) fn truncate(failure: &Failure) -> Failure {
    let start = |text: &str, length| text.chars().take(length).collect::<String>();
    Failure::new(start(&failure.code, KEPT_OF_CODE), start(&failure.message, KEPT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn should_keep_the_first_failure() {
        let failing = Failing::default();
        assert_eq!(failing.failure(), None);
        let first = Failure::new("FIRST", "one");
        assert!(failing.fail(first.clone()));
        assert!(!failing.fail(Failure::new("SECOND", "two")));
        assert_eq!((failing.failure(), failing.failed().await), (Some(first.clone()), first));
    }

    #[test]
    fn should_cut_a_message_between_characters() {
        let long = Failure::new("É".repeat(5000), "é".repeat(5000));
        let cut = truncate(&long.with_details(serde_json::json!([1])));
        let lengths = (cut.code.chars().count(), cut.message.chars().count());
        assert_eq!(lengths, (KEPT_OF_CODE, KEPT));
        assert!(cut.details.is_null());
    }
}
