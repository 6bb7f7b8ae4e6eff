//! Reads of the starts of journals, in batches.
//!
//! An engine that takes over many runs would otherwise query the store once for each of them.
//!
//! Up to four calls run at once, and what arrives in the meantime is read by the next one. There is no
//! timer: an idle engine reads at once. Most journals fit in the first events that are read, so a long
//! one costs further queries and the others none.

use std::sync::Arc;

use aios_core::store::{EventStore, RecordedEvent, StoreError, StreamId};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    task::JoinSet,
    workflow::engine::{Engine, log::read_starts},
};

/// Concurrent calls of the store. While they run, further reads are batched.
const CALLS: usize = 4;
/// Journals read by one call.
const JOURNALS: usize = 128;
/// Events read of each journal in a batch. The rest of a longer journal is read separately.
const EVENTS: usize = 32;
/// Events of a journal that is read alone.
const PAGE: usize = 1000;
/// Capacity of the queue of reads.
pub(crate) const QUEUE: usize = 1024;

/// The start of a journal.
#[derive(Debug)]
pub(crate) struct Start {
    /// The first events.
    pub(crate) events: Vec<RecordedEvent>,
    /// Whether there may be more.
    pub(crate) may_have_more: bool,
}

/// A request to read the start of a journal.
#[derive(Debug)]
pub(crate) struct Read {
    /// The journal to read.
    stream: StreamId,
    /// Gets the answer.
    reply: oneshot::Sender<Result<Start, StoreError>>,
}

impl Engine {
    /// Reads the start of a journal. Concurrent reads are batched.
    pub(crate) async fn read_start(&self, stream: &StreamId) -> Result<Start, StoreError> {
        let (reply, start) = oneshot::channel();
        let read = Read { stream: stream.clone(), reply };
        self.reads.send(read).await.map_err(|_| StoreError::Closed)?;
        start.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// Reads journals, and batches concurrent requests.
pub(crate) async fn run(engine: Arc<Engine>, mut queue: mpsc::Receiver<Read>) {
    let calls = Arc::new(Semaphore::new(CALLS));
    let mut reads = Vec::new();
    let mut under_way = JoinSet::new();
    // The semaphore is never closed.
    while let Ok(call) = Arc::clone(&calls).acquire_owned().await {
        if queue.recv_many(&mut reads, JOURNALS).await == 0 {
            return;
        }
        while under_way.try_join_next().is_some() {}
        let engine = Arc::clone(&engine);
        let reads = std::mem::take(&mut reads);
        // Dropped with this loop, when the engine stops.
        under_way.spawn(async move {
            read(&engine, reads).await;
            drop(call);
        });
    }
}

/// Reads journals and sends the replies. A caller that has stopped waiting needs none.
async fn read(engine: &Engine, mut reads: Vec<Read>) {
    if reads.len() == 1
        && let Some(Read { stream, reply }) = reads.pop()
    {
        let page = engine.store.read_stream(&stream, 0, PAGE).await;
        drop(reply.send(page.map(|events| Start { may_have_more: events.len() >= PAGE, events })));
        return;
    }
    let streams: Vec<StreamId> = reads.iter().map(|read| read.stream.clone()).collect();
    let starts = read_starts(&*engine.store, &streams, EVENTS).await;
    for (read, start) in reads.into_iter().zip(starts) {
        let start = start.map(|events| Start { may_have_more: events.len() >= EVENTS, events });
        drop(read.reply.send(start));
    }
}
