use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;

use super::Message;

/// What a run was told and has not read yet.
///
/// Adding a message never waits, so that no loop of the engine is held up by one run. The length is
/// bounded all the same: a nudge is kept once, a timer once for each operation, and of the rest
/// there is one for each task that was given, or as many as the broker delivers unsettled.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    mail: Mutex<Mail>,
    reader: AtomicWaker,
}

#[derive(Debug, Default)]
struct Mail {
    messages: VecDeque<Message>,
    nudged: bool,
    due: BTreeSet<u64>,
    closed: bool,
}

impl Inbox {
    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message, or gives it back if the inbox is closed.
    pub(super) fn push(&self, message: Message) -> Result<(), Message> {
        let mut mail = self.mail();
        if mail.closed {
            return Err(message);
        }
        let is_known = match &message {
            Message::Nudge => std::mem::replace(&mut mail.nudged, true),
            Message::TimerDue(operation) => !mail.due.insert(*operation),
            _ => false,
        };
        if !is_known {
            mail.messages.push_back(message);
        }
        drop(mail);
        self.reader.wake();
        Ok(())
    }

    /// The next message, if there is one.
    pub(super) fn pop(&self) -> Option<Message> {
        let mut mail = self.mail();
        let message = mail.messages.pop_front()?;
        match &message {
            Message::Nudge => mail.nudged = false,
            Message::TimerDue(operation) => drop(mail.due.remove(operation)),
            _ => {}
        }
        Some(message)
    }

    /// The next message; remembers whom to wake when there is one.
    pub(super) fn poll_pop(&self, context: &Context<'_>) -> Poll<Message> {
        if let Some(message) = self.pop() {
            return Poll::Ready(message);
        }
        self.reader.register(context.waker());
        // A message may have come between the look and the registration.
        self.pop().map_or(Poll::Pending, Poll::Ready)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.mail().messages.is_empty()
    }

    /// Takes no more messages, and gives back those that were not read.
    pub(super) fn close(&self) -> VecDeque<Message> {
        let mut mail = self.mail();
        mail.closed = true;
        std::mem::take(&mut mail.messages)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn should_keep_a_nudge_and_each_timer_once() {
        let inbox = Inbox::default();
        for message in [
            Message::Nudge,
            Message::TimerDue(1),
            Message::Nudge,
            Message::TimerDue(2),
            Message::TimerDue(1),
        ] {
            inbox.push(message).unwrap();
        }
        let read: Vec<_> = std::iter::from_fn(|| inbox.pop()).collect();
        assert!(
            matches!(read[..], [Message::Nudge, Message::TimerDue(1), Message::TimerDue(2)]),
            "{read:?}"
        );
        inbox.push(Message::Nudge).unwrap();
        assert!(inbox.poll_pop(&Context::from_waker(Waker::noop())).is_ready());
    }

    #[test]
    fn should_give_back_what_was_not_read_and_take_nothing_more() {
        let inbox = Inbox::default();
        inbox.push(Message::Nudge).unwrap();
        assert_eq!(inbox.close().len(), 1);
        assert!(inbox.push(Message::TimerDue(3)).is_err());
        assert!(inbox.is_empty());
    }
}
