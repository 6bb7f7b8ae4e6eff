use std::time::Duration;

use aios_core::{
    event::Timestamp,
    store::{Appended, StoreError},
};
use tokio::sync::oneshot;

use super::batch::Admitted;

/// What an append is answered with.
type Answer = Result<Appended, StoreError>;

/// An append in the queue.
pub(super) struct Pending {
    pub(super) admitted: Admitted,
    pub(super) caller: Caller,
}

/// Somebody who waits for an append, until a deadline.
pub(super) struct Caller {
    /// `None` once answered.
    reply: Option<oneshot::Sender<Answer>>,
    deadline: Timestamp,
}

impl Caller {
    pub(super) fn new(deadline: Timestamp) -> (Self, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        (Self { reply: Some(reply), deadline }, answer)
    }

    pub(super) fn answer(&mut self, answer: Answer) {
        if let Some(reply) = self.reply.take() {
            // Nobody waits for a cancelled append.
            drop(reply.send(answer));
        }
    }

    /// Whether anybody waits for the answer. If the time is up by then, this is it.
    pub(super) fn waits(&mut self, by: Timestamp, error: impl Fn() -> StoreError) -> bool {
        if self.deadline <= by {
            self.answer(Err(error()));
        }
        self.reply.as_ref().is_some_and(|reply| !reply.is_closed())
    }
}

/// Answers those whose time is up by then, and returns whether anybody goes on waiting.
pub(super) fn dismiss(
    callers: &mut [Caller],
    by: Timestamp,
    error: impl Fn() -> StoreError,
) -> bool {
    let waits = callers.iter_mut().map(|caller| caller.waits(by, &error));
    waits.filter(|waits| *waits).count() > 0
}

/// An append was not even sent in time.
pub(super) fn too_late(after: Duration) -> StoreError {
    StoreError::Timeout { operation: "append", after }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_dismiss_whose_time_is_up_and_wait_for_the_others() {
        let at = Timestamp::from_micros;
        let ((early, mut answer), (late, waiting)) = (Caller::new(at(1)), Caller::new(at(3)));
        let mut callers = [early, late];
        let error = || too_late(Duration::from_secs(1));
        assert!(dismiss(&mut callers, at(2), error));
        assert_eq!(answer.try_recv().unwrap().unwrap_err().code(), "STORE_TIMEOUT");
        drop(waiting);
        assert!(!dismiss(&mut callers, at(2), error));
    }
}
