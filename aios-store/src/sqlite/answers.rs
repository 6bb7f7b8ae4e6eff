use std::{
    sync::mpsc::{SyncSender, sync_channel},
    thread::JoinHandle,
};

use aios_core::store::StoreError;

use super::writer::Batch;

/// Batches whose answers wait; the writer waits for a place.
const QUEUE: usize = 16;

/// So few calls are answered by the writer itself: they wait for nothing but their answer.
const FEW: usize = 4;

type Done = (Batch, Result<(), StoreError>);

/// Answers calls on a thread of its own, so that the next transaction need not wait until hundreds
/// of callers are woken.
pub(super) struct Answers {
    queue: Option<SyncSender<Done>>,
    thread: Option<JoinHandle<()>>,
}

impl Answers {
    pub(super) fn start() -> Self {
        let (queue, batches) = sync_channel(QUEUE);
        let answer_all = move || batches.into_iter().for_each(answer);
        let thread = std::thread::Builder::new().name("aios-answers".to_owned()).spawn(answer_all);
        // Without the thread the receiver is gone, and the writer answers by itself.
        Self { queue: Some(queue), thread: thread.ok() }
    }

    /// Answers the calls of a transaction that ended so.
    pub(super) fn give(&self, batch: Batch, outcome: Result<(), StoreError>) {
        let queue = self.queue.as_ref().filter(|_| batch.len() > FEW);
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
    for work in batch {
        work.answer(outcome.clone());
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            // It can't fail but by a panic, which has been reported.
            let _ = thread.join();
        }
    }
}
