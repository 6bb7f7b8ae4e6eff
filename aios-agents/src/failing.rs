//! The failure that stopped a background component.
//!
//! A host, an engine and the projections of a runtime each own one. Only the first failure is kept:
//! later ones are usually its consequences. Callers either read it, or wait for it without polling.

use aios_core::failure::Failure;
use tokio::sync::watch;

/// Maximum length in characters of the message of a truncated failure.
const MAX_MESSAGE_CHARS: usize = 1000;
/// Maximum length in characters of the code of a truncated failure.
const MAX_CODE_CHARS: usize = 100;

/// The failure that stopped a background component, once it has stopped.
#[derive(Debug)]
pub(crate) struct Failing(watch::Sender<Option<Failure>>);

impl Default for Failing {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Failing {
    /// Sets the failure, unless one is set already. Returns whether this is the first.
    pub(crate) fn fail(&self, failure: Failure) -> bool {
        self.0.send_if_modified(|known| {
            let is_first = known.is_none();
            if is_first {
                *known = Some(failure);
            }
            is_first
        })
    }

    /// The failure, if there is one.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.0.borrow().clone()
    }

    /// Completes when a failure is set.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: nothing is lost, and it can be called again.
    pub(crate) async fn failed(&self) -> Failure {
        let mut failing = self.0.subscribe();
        loop {
            if let Some(failure) = failing.borrow_and_update().clone() {
                return failure;
            }
            if failing.changed().await.is_err() {
                // Unreachable: `self` owns the sender.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Truncates a failure that is larger than the store accepts.
///
/// Details are dropped. Characters are counted, so the text is never cut within one.
pub(crate) fn truncate(failure: &Failure) -> Failure {
    let start = |text: &str, length| text.chars().take(length).collect::<String>();
    Failure::new(start(&failure.code, MAX_CODE_CHARS), start(&failure.message, MAX_MESSAGE_CHARS))
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
        assert_eq!(lengths, (MAX_CODE_CHARS, MAX_MESSAGE_CHARS));
        assert!(cut.details.is_null());
    }
}
