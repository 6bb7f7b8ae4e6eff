//! Replies after a commit.
//!
//! Waking a task takes longer than inserting an event. If the writer woke hundreds of callers
//! itself, the disk would be idle meanwhile. A second thread does it, and the writer begins the
//! next transaction. For a few callers, handing the batch over costs more than waking them.
//!
//! Both ways reply only after the commit. The writer may answer a small batch before the thread has
//! answered an earlier one. Nothing depends on that order: each caller waits for its own reply.

use std::{
    sync::mpsc::{SyncSender, sync_channel},
    thread::JoinHandle,
};

use aios_core::store::StoreError;

use super::queue::Batch;

/// Capacity of the queue of batches. The writer blocks while the queue is full.
const QUEUE: usize = 16;

/// The writer thread replies to a batch of at most this many calls itself.
const INLINE_LIMIT: usize = 4;

/// A batch, and the outcome of its transaction.
type Done = (Batch, Result<(), StoreError>);

/// A thread that replies to callers, so that the next transaction does not wait until hundreds of tasks
/// are woken.
pub(super) struct ReplyThread {
    /// `None` while the handle is being dropped.
    queue: Option<SyncSender<Done>>,
    /// `None` if the thread could not be started, or was joined.
    thread: Option<JoinHandle<()>>,
}

impl ReplyThread {
    /// Starts the thread.
    pub(crate) fn start() -> Self {
        let (queue, batches) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("aios-replies".to_owned())
            .spawn(move || batches.into_iter().for_each(reply_all));
        // If the thread cannot be started, the receiver is dropped, and `send` replies itself.
        Self { queue: Some(queue), thread: thread.ok() }
    }

    /// Replies to the calls of a transaction with the outcome of the transaction.
    pub(crate) fn send(&self, batch: Batch, outcome: Result<(), StoreError>) {
        let queue = self.queue.as_ref().filter(|_| batch.len() > INLINE_LIMIT);
        match queue {
            None => reply_all((batch, outcome)),
            Some(queue) => {
                if let Err(unsent) = queue.send((batch, outcome)) {
                    reply_all(unsent.0);
                }
            }
        }
    }
}

/// Replies to each call of a batch.
fn reply_all((batch, outcome): Done) {
    for job in batch {
        job.reply(outcome.clone());
    }
}

impl Drop for ReplyThread {
    fn drop(&mut self) {
        // Dropping the sender ends the thread.
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // Joining fails only if the thread panicked, which the panic hook has reported.
            let _ = thread.join();
        }
    }
}
