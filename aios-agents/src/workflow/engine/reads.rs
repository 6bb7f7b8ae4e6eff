use std::sync::Arc;

use aios_core::store::{EventStore, RecordedEvent, StoreError, StreamId};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::Engine;
use crate::task::JoinSet;

/// Calls of the store at a time. While they are under way, the next reads gather.
const CALLS: usize = 4;
/// Journals read by one call.
const JOURNALS: usize = 128;
/// Events of a journal that is read with others; of a longer one the rest is read by itself.
const EVENTS: usize = 32;
/// Events of a journal that is read alone.
const PAGE: usize = 1000;
/// Reads that may wait to be begun.
pub(super) const QUEUE: usize = 1024;

/// The start of a journal.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) events: Vec<RecordedEvent>,
    /// Whether there may be more.
    pub(super) may_go_on: bool,
}

/// A journal whose start somebody waits for.
#[derive(Debug)]
pub(super) struct Read {
    stream: StreamId,
    reply: oneshot::Sender<Result<Start, StoreError>>,
}

impl Engine {
    /// The start of a journal. Many that are read at the same time are read together.
    pub(super) async fn read_start(&self, stream: &StreamId) -> Result<Start, StoreError> {
        let (reply, start) = oneshot::channel();
        let read = Read { stream: stream.clone(), reply };
        self.reads.send(read).await.map_err(|_| StoreError::Closed)?;
        start.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// Reads journals, together those that are asked for at the same time.
pub(super) async fn run(engine: Arc<Engine>, mut queue: mpsc::Receiver<Read>) {
    let calls = Arc::new(Semaphore::new(CALLS));
    let (mut reads, mut under_way) = (Vec::new(), JoinSet::new());
    // The semaphore is never closed.
    while let Ok(call) = Arc::clone(&calls).acquire_owned().await {
        if queue.recv_many(&mut reads, JOURNALS).await == 0 {
            return;
        }
        while under_way.try_join_next().is_some() {}
        let (engine, reads) = (Arc::clone(&engine), std::mem::take(&mut reads));
        under_way.spawn(async move {
            read(&engine, reads).await;
            drop(call);
        });
    }
}

/// Whoever asked and waits no longer needs no answer.
async fn read(engine: &Engine, mut reads: Vec<Read>) {
    if reads.len() == 1
        && let Some(Read { stream, reply }) = reads.pop()
    {
        let page = engine.store.read_stream(&stream, 0, PAGE).await;
        drop(reply.send(page.map(|events| Start { may_go_on: events.len() >= PAGE, events })));
        return;
    }
    let streams: Vec<StreamId> = reads.iter().map(|read| read.stream.clone()).collect();
    match engine.store.read_streams(&streams, EVENTS).await {
        Ok(found) => {
            for (read, events) in reads.into_iter().zip(found) {
                let start = Start { may_go_on: events.len() >= EVENTS, events };
                drop(read.reply.send(Ok(start)));
            }
        }
        Err(error) => {
            reads.into_iter().for_each(|read| drop(read.reply.send(Err(error.clone()))));
        }
    }
}
