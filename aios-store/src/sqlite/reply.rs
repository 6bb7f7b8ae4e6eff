use std::{
    sync::mpsc::{SyncSender, sync_channel},
    thread::JoinHandle,
};

use aios_core::store::StoreError;

use super::queue::Batch;

/// Batches waiting for their replies. The writer waits for room beyond that.
const QUEUE: usize = 16;

/// A batch of at most this many calls is answered by the writer itself.
const INLINE_LIMIT: usize = 4;

type Done = (Batch, Result<(), StoreError>);

/// Replies to calls on a thread of its own, so that the next transaction need not wait until hundreds
/// of callers are woken.
pub(super) struct ReplyThread {
    queue: Option<SyncSender<Done>>,
    thread: Option<JoinHandle<()>>,
}

impl ReplyThread {
    pub(super) fn start() -> Self {
        let (queue, batches) = sync_channel(QUEUE);
        let answer_all = move || batches.into_iter().for_each(answer);
        let thread = std::thread::Builder::new().name("aios-replies".to_owned()).spawn(answer_all);
        // Without the thread the receiver is gone, and the writer replies itself.
        Self { queue: Some(queue), thread: thread.ok() }
    }

    /// Replies to the calls of a transaction with its outcome.
    pub(super) fn send(&self, batch: Batch, outcome: Result<(), StoreError>) {
        let queue = self.queue.as_ref().filter(|_| batch.len() > INLINE_LIMIT);
        match queue {
            None => answer((batch, outcome)),
            Some(queue) => {
                if let Err(unsent) = queue.send((batch, outcome)) {
                    answer(unsent.0);
                }
            }
        }
    }
}

fn answer((batch, outcome): Done) {
    for job in batch {
        job.reply(outcome.clone());
    }
}

impl Drop for ReplyThread {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            // Joining fails only if the thread panicked, which the panic hook reported.
            let _ = thread.join();
        }
    }
}
