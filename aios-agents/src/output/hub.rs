//! The storing of output: the writers of a process are stored together.
//!
//! A writer that has output is in the queue once. One task takes the queue 20 ms after the first of
//! them, or at once if a caller flushes, and appends the output of all writers in one call. A writer
//! that the store refuses permanently fails; the others continue. The task ends when the queue is
//! empty.
//!
//! The way of an item:
//!
//! ```text
//! write ──► backlog of the writer ──► queue of the hub ──► events of the stream
//!           (bounded)                 (once per writer)    (one append for all writers)
//! ```
//!
//! Writing never waits for the store; it fails when the backlog is full. Flushing waits, and shortens
//! the window. If the store fails, the same events are appended again (`batch`). If the process dies,
//! what is in a backlog is lost, and the attempt that wrote it is repeated.
//!
//! Locks: the one of the queue and the ones of the writers are never held together.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use aios_core::{
    BoxFuture, Chain,
    clock::Clock,
    event::Payload,
    output::{OutputError, OutputSink, OutputStream, Outputs, stream_of},
    store::Store,
};
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::Notify};
use tracing::warn;

use super::{
    batch::store_batch,
    writer::{Identity, Pending, Writer, attempt_id, check_size},
};
use crate::task;

/// How long the first item of a batch waits for others.
const WINDOW: Duration = Duration::from_millis(20);
/// How long the end of a task, step or run waits for the store to take its output.
const PATIENCE: Duration = Duration::from_secs(10);

/// Stores the output of all writers of a process, in common batches.
#[derive(Clone)]
pub(crate) struct Hub(Arc<Shared>);

/// One per process that has a store.
struct Shared {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    /// Source of the events.
    source: Arc<str>,
    /// The runtime that stores output. Writers may be on other threads.
    runtime: Option<Handle>,
    /// Held for moments only.
    queue: Mutex<Queue>,
    /// Wakes the task that stores output before its window is over.
    hurry: Notify,
}

/// The writers that have output which no batch has taken.
#[derive(Default)]
struct Queue {
    /// Each once, in the order of their first item.
    writers: Vec<Arc<Writer>>,
    /// Whether the task that stores output runs. It changes under the same lock as the list, so no
    /// writer is added to a queue whose task has just ended.
    is_storing: bool,
}

/// The output streams that the code of one run has opened.
#[derive(Default)]
pub(crate) struct RunOutputs {
    /// `None` where output is discarded.
    hub: Option<Hub>,
    /// By name. The code gets the same stream for a name whenever it asks.
    opened: Mutex<BTreeMap<Box<str>, OutputStream>>,
    /// Shared with the sinks of the streams.
    held: Arc<Held>,
}

/// The output of the code of a run while it is ahead of its journal, in order; `None` while it is not.
/// In another order of the journal it would write something else, and what is stored stays.
#[derive(Default)]
struct Held(Mutex<Option<Vec<HeldOutput>>>);

/// One item that waits for the journal.
struct HeldOutput {
    /// Where it goes when it is released.
    sink: Arc<Sink>,
    pending: Pending,
}

impl Hub {
    /// A hub on the runtime of the caller. Its task is spawned there, whichever thread writes.
    pub(crate) fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, source: Arc<str>) -> Self {
        Self(Arc::new(Shared {
            store,
            clock,
            source,
            runtime: Handle::try_current().ok(),
            queue: Mutex::default(),
            hurry: Notify::new(),
        }))
    }

    /// The store that output is stored in.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    /// A sink with a writer of its own. Fails if the run id or the name is not valid in the id of a
    /// stream.
    fn open_as(
        &self,
        run_id: &str,
        name: &str,
        writer: &str,
        identity: Identity,
    ) -> Result<Arc<Sink>, OutputError> {
        let hub = Arc::clone(&self.0);
        let clock = Arc::clone(&hub.clock);
        let source = Arc::clone(&hub.source);
        let stream = stream_of(run_id, name)?;
        let writer = Arc::new(Writer::new(clock, source, stream, run_id, writer, identity)?);
        Ok(Arc::new(Sink { hub, writer }))
    }

    /// The output streams of the attempt with this number.
    pub(crate) fn of_attempt(&self, attempt: u32) -> AttemptOutputs {
        AttemptOutputs { hub: self.clone(), attempt }
    }

    /// Waits until `flushing` has ended, at most ten seconds. The output is not part of a result, so
    /// a failure is only logged.
    pub(crate) async fn flushed(
        &self,
        what: &str,
        flushing: impl Future<Output = Result<(), OutputError>>,
    ) {
        tokio::select! {
            biased;
            flushed = flushing => if let Err(error) = flushed {
                warn!(error = %Chain(&error), code = error.code(), "the output of {what} is incomplete");
            },
            () = self.0.clock.sleep(PATIENCE) => {
                warn!("the store has not taken the output of {what} within {PATIENCE:?}");
            }
        }
    }
}

/// The output streams of one attempt of a task or step.
pub(crate) struct AttemptOutputs {
    hub: Hub,
    /// Number of the attempt, from 1.
    attempt: u32,
}

impl Outputs for AttemptOutputs {
    fn open(&self, run_id: &str, name: &str, writer: &str) -> Result<OutputStream, OutputError> {
        // Each writer has an id of its own, and ids increase, so readers know the latest attempt.
        let identity = Identity::Attempt(attempt_id(self.attempt));
        Ok(OutputStream::new(self.hub.open_as(run_id, name, writer, identity)?))
    }
}

impl RunOutputs {
    /// Without a hub, output is discarded.
    pub(crate) fn new(hub: Option<Hub>) -> Self {
        Self { hub, ..Self::default() }
    }

    /// The hub, for the streams of steps.
    pub(crate) fn hub(&self) -> Option<&Hub> {
        self.hub.as_ref()
    }

    /// The stream with a name, for the code of the workflow. `key` identifies the run and no other.
    pub(crate) fn open(
        &self,
        run_id: &str,
        name: &str,
        key: impl FnOnce() -> String,
    ) -> Result<OutputStream, OutputError> {
        let mut opened = self.opened.lock();
        if let Some(stream) = opened.get(name) {
            return Ok(stream.clone());
        }
        let stream = match &self.hub {
            Some(hub) => {
                let identity = Identity::Code { key: key() };
                let sink = hub.open_as(run_id, name, "workflow", identity)?;
                OutputStream::new(Arc::new(CodeSink { sink, held: Arc::clone(&self.held) }))
            }
            None => stream_of(run_id, name).map(|_| OutputStream::new(Arc::new(Discard)))?,
        };
        opened.insert(name.into(), stream.clone());
        Ok(stream)
    }

    /// Holds what the code writes from now on.
    pub(crate) fn hold(&self) {
        *self.held.0.lock() = Some(Vec::new());
    }

    /// Whether the code has written something that is held.
    pub(crate) fn is_held(&self) -> bool {
        self.held.0.lock().as_ref().is_some_and(|held| !held.is_empty())
    }

    /// Passes on what was held, and holds nothing more.
    pub(crate) fn release(&self) {
        let held = self.held.0.lock().take().unwrap_or_default();
        for HeldOutput { sink, pending } in held {
            // A writer that has failed has said so.
            let _ = sink.push(pending);
        }
    }

    /// Waits until the output of the code is stored; `None` if it opened no stream.
    pub(crate) fn flush(&self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let hub = self.hub.clone()?;
        let opened: Vec<_> = self.opened.lock().values().cloned().collect();
        (!opened.is_empty()).then_some(async move {
            let flushing = async {
                for stream in opened {
                    stream.flush().await?;
                }
                Ok(())
            };
            hub.flushed("a run", flushing).await;
        })
    }
}

/// Passes output to its writer, which the hub keeps until its output is stored.
struct Sink {
    hub: Arc<Shared>,
    writer: Arc<Writer>,
}

impl Sink {
    fn push(&self, pending: Pending) -> Result<(), OutputError> {
        if self.writer.push(pending)? {
            self.hub.enqueue(Arc::clone(&self.writer));
        }
        Ok(())
    }
}

impl OutputSink for Sink {
    fn write(&self, item: Payload) -> Result<(), OutputError> {
        self.push(Pending::Item(item))
    }

    fn end(&self) -> Result<(), OutputError> {
        self.push(Pending::End)
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), OutputError>> {
        Box::pin(self.writer.flushed(|| self.hub.hurry.notify_one()))
    }
}

/// Passes output of the code of a run to its sink, unless the code is ahead of its journal.
struct CodeSink {
    sink: Arc<Sink>,
    held: Arc<Held>,
}

impl CodeSink {
    /// Holds or passes on. The size is checked at once, so that the code learns of the error where
    /// it writes, in every replay alike.
    fn push(&self, pending: Pending) -> Result<(), OutputError> {
        if let Some(held) = &mut *self.held.0.lock() {
            check_size(&pending)?;
            held.push(HeldOutput { sink: Arc::clone(&self.sink), pending });
            return Ok(());
        }
        self.sink.push(pending)
    }
}

impl OutputSink for CodeSink {
    fn write(&self, item: Payload) -> Result<(), OutputError> {
        self.push(Pending::Item(item))
    }

    fn end(&self) -> Result<(), OutputError> {
        self.push(Pending::End)
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), OutputError>> {
        self.sink.flush()
    }
}

/// Where output goes in tests of workflows and in replays.
struct Discard;

impl OutputSink for Discard {
    fn write(&self, _: Payload) -> Result<(), OutputError> {
        Ok(())
    }

    fn end(&self) -> Result<(), OutputError> {
        Ok(())
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), OutputError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Shared {
    /// Adds a writer that has output, and makes sure that it is stored.
    fn enqueue(self: &Arc<Self>, writer: Arc<Writer>) {
        let mut queue = self.queue.lock();
        queue.writers.push(writer);
        if !std::mem::replace(&mut queue.is_storing, true) {
            drop(queue);
            let _entered = self.runtime.as_ref().map(Handle::enter);
            task::spawn(store_all(Arc::clone(self)));
        }
    }

    /// Takes all writers that have output. If there are none, the task that stores must end.
    fn next_batch(&self) -> Vec<Arc<Writer>> {
        let mut queue = self.queue.lock();
        queue.is_storing = !queue.writers.is_empty();
        std::mem::take(&mut queue.writers)
    }
}

/// Stores output until none is left.
async fn store_all(hub: Arc<Shared>) {
    loop {
        tokio::select! {
            biased;
            // A flush that comes during a batch leaves a permit, and the next window is skipped.
            () = hub.hurry.notified() => {}
            () = hub.clock.sleep(WINDOW) => {}
        }
        let writers = hub.next_batch();
        if writers.is_empty() {
            return;
        }
        store_batch(&*hub.store, &*hub.clock, writers).await;
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Hub").field("source", &self.0.source).finish_non_exhaustive()
    }
}
