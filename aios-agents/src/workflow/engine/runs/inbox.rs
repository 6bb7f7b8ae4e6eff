//! The inbox of a run.
//!
//! Everything that concerns a run in memory reaches its driver here, from all tasks of the engine. The
//! driver reads one message at a time, and none while it looks ahead of its journal. An inbox is closed
//! when its run leaves memory, in the same step that removes it from the table of `live`, so a sender
//! that fails to add a message looks the run up again.

use std::{
    collections::{BTreeSet, VecDeque},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::workflow::engine::Message;

/// The messages of a run that it has not read yet.
///
/// Adding a message never waits, so no loop of the engine is delayed by one run. The length is
/// bounded nevertheless: a wake-up is kept once, a timer once per operation, and of the other
/// messages there is one per dispatched task, or as many as the broker delivers unsettled.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// Locked for single operations.
    mail: Mutex<Mail>,
    /// The driver, woken by each new message.
    reader: AtomicWaker,
}

/// The messages, and which of those that are kept only once are among them.
#[derive(Debug, Default)]
struct Mail {
    /// In the order of their arrival.
    messages: VecDeque<Message>,
    /// Whether a `Wake` is among them.
    wake_queued: bool,
    /// The operations whose `TimerDue` is among them.
    due: BTreeSet<u64>,
    /// Whether the run has left memory.
    closed: bool,
}

impl Inbox {
    /// Adds a message, or returns it if the inbox is closed.
    pub(crate) fn push(&self, message: Message) -> Result<(), Message> {
        let mut mail = self.mail.lock();
        if mail.closed {
            return Err(message);
        }
        let is_known = match &message {
            Message::Wake => std::mem::replace(&mut mail.wake_queued, true),
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
    pub(crate) fn pop(&self) -> Option<Message> {
        let mut mail = self.mail.lock();
        let message = mail.messages.pop_front()?;
        match &message {
            Message::Wake => mail.wake_queued = false,
            Message::TimerDue(operation) => drop(mail.due.remove(operation)),
            _ => {}
        }
        Some(message)
    }

    /// The next message; registers the waker if there is none.
    pub(crate) fn poll_pop(&self, context: &Context<'_>) -> Poll<Message> {
        if let Some(message) = self.pop() {
            return Poll::Ready(message);
        }
        self.reader.register(context.waker());
        // A message may have arrived before the registration.
        self.pop().map_or(Poll::Pending, Poll::Ready)
    }

    /// Whether no message waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.mail.lock().messages.is_empty()
    }

    /// Rejects further messages, and returns those that were not read.
    pub(crate) fn close(&self) -> VecDeque<Message> {
        let mut mail = self.mail.lock();
        mail.closed = true;
        std::mem::take(&mut mail.messages)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn should_keep_a_wake_up_and_each_timer_once() {
        let inbox = Inbox::default();
        for message in [
            Message::Wake,
            Message::TimerDue(1),
            Message::Wake,
            Message::TimerDue(2),
            Message::TimerDue(1),
        ] {
            inbox.push(message).unwrap();
        }
        let read: Vec<_> = std::iter::from_fn(|| inbox.pop()).collect();
        assert!(
            matches!(read[..], [Message::Wake, Message::TimerDue(1), Message::TimerDue(2)]),
            "{read:?}"
        );
        inbox.push(Message::Wake).unwrap();
        assert!(inbox.poll_pop(&Context::from_waker(Waker::noop())).is_ready());
    }

    #[test]
    fn should_return_unread_messages_and_refuse_others_once_closed() {
        let inbox = Inbox::default();
        inbox.push(Message::Wake).unwrap();
        assert_eq!(inbox.close().len(), 1);
        assert!(inbox.push(Message::TimerDue(3)).is_err());
        assert!(inbox.is_empty());
    }
}
