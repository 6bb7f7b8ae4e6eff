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

type Done = (Batch, Result<(), StoreError>);

/// A thread that replies to callers, so that the next transaction does not wait until hundreds of tasks
/// are woken.
pub(super) struct ReplyThread {
    queue: Option<SyncSender<Done>>,
    thread: Option<JoinHandle<()>>,
}

impl ReplyThread {
    pub(super) fn start() -> Self {
        let (queue, batches) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("aios-replies".to_owned())
            .spawn(move || batches.into_iter().for_each(reply_all));
        // If the thread cannot be started, the receiver is dropped, and `send` replies itself.
        Self { queue: Some(queue), thread: thread.ok() }
    }

    /// Replies to the calls of a transaction with the outcome of the transaction.
    pub(super) fn send(&self, batch: Batch, outcome: Result<(), StoreError>) {
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
