//! A store with one fault at one append.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_core::store::{
    AgentFilter, AgentRecord, Append, Appended, Checkpoint, Checkpoints, EventStore, Lease, Leases,
    OwnerId, Page, PageRequest, ReadModels, RecordedEvent, RunFilter, RunRecord, Shard, Store,
    StoreError, StreamId, TaskFilter, TaskRecord, Waits, WorkflowRecord,
};
use async_trait::async_trait;
use tokio::sync::watch;

/// The events that may coincide with an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process dies before it.
    CrashBefore,
    /// The process dies after it, without the response.
    CrashAfter,
    /// The client hangs up before it.
    LeaveBefore,
    /// The client hangs up after it, before the response.
    LeaveAfter,
    /// It takes longer than the request may take, and has no effect.
    Hang,
    /// It takes effect, and its response does not come while the request waits.
    HangAfter,
    /// It is refused once.
    Refuse,
    /// It takes effect, and its response is lost.
    LoseResponse,
    /// It is refused for good.
    Never,
}

pub(super) const FAULTS: [Fault; 9] = [
    Fault::CrashBefore,
    Fault::CrashAfter,
    Fault::LeaveBefore,
    Fault::LeaveAfter,
    Fault::Hang,
    Fault::HangAfter,
    Fault::Refuse,
    Fault::LoseResponse,
    Fault::Never,
];

impl Fault {
    /// Whether the process dies.
    pub(super) fn crashes(self) -> bool {
        matches!(self, Self::CrashBefore | Self::CrashAfter)
    }

    /// Whether the client gets no answer.
    pub(super) fn ends_request(self) -> bool {
        self.crashes() || matches!(self, Self::LeaveBefore | Self::LeaveAfter)
    }
}

/// Wraps a store. One append meets a fault.
#[derive(Debug)]
pub(super) struct FaultyStore {
    inner: Arc<dyn Store>,
    /// The fault, and the number of its append from 1; 0 for none.
    rule: (Option<Fault>, usize),
    appends: AtomicUsize,
    is_dead: AtomicBool,
    reached: watch::Sender<bool>,
    /// The stream of the append with the fault.
    pub(super) met: Mutex<Option<StreamId>>,
}

impl FaultyStore {
    pub(super) fn new(inner: &Arc<dyn Store>, fault: Option<Fault>, point: usize) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::clone(inner),
            rule: (fault, point),
            appends: AtomicUsize::new(0),
            is_dead: AtomicBool::new(false),
            reached: watch::Sender::new(false),
            met: Mutex::default(),
        })
    }

    /// How many appends there were.
    pub(super) fn appends(&self) -> usize {
        self.appends.load(Ordering::SeqCst)
    }

    /// Waits for the fault.
    pub(super) async fn reached(&self) {
        drop(self.reached.subscribe().wait_for(|it| *it).await);
    }

    async fn check_alive(&self) {
        if self.is_dead.load(Ordering::SeqCst) {
            std::future::pending().await
        }
    }

    async fn alive<T>(&self, call: impl Future<Output = T>) -> T {
        self.check_alive().await;
        let answer = call.await;
        self.check_alive().await;
        answer
    }

    async fn pass(&self, append: Append) -> Result<Appended, StoreError> {
        self.inner.append(vec![append]).await.pop().unwrap_or(Err(StoreError::Closed))
    }

    async fn append_one(&self, append: Append) -> Result<Appended, StoreError> {
        self.check_alive().await;
        let number = self.appends.fetch_add(1, Ordering::SeqCst) + 1;
        let (Some(fault), true) = (self.rule.0, number == self.rule.1) else {
            return self.alive(self.pass(append)).await;
        };
        *self.met.lock().unwrap() = Some(append.stream.clone());
        self.is_dead.store(fault.crashes(), Ordering::SeqCst);
        let reach = || self.reached.send_replace(true);
        match fault {
            Fault::CrashBefore => {
                reach();
                std::future::pending().await
            }
            Fault::CrashAfter => {
                let _ = self.pass(append).await;
                reach();
                std::future::pending().await
            }
            Fault::Hang => timed_out().await,
            Fault::HangAfter => {
                let _ = self.pass(append).await;
                timed_out().await
            }
            Fault::LeaveBefore => {
                reach();
                moments().await;
                self.pass(append).await
            }
            Fault::LeaveAfter => {
                let answer = self.pass(append).await;
                reach();
                moments().await;
                answer
            }
            Fault::Refuse => Err(backend(true)),
            Fault::LoseResponse => self.pass(append).await.and(Err(backend(true))),
            Fault::Never => Err(backend(false)),
        }
    }
}

/// Longer than a request may take. Every call of an adapter ends.
#[allow(clippy::disallowed_methods, reason = "the service works in real time")]
async fn timed_out() -> Result<Appended, StoreError> {
    let after = Duration::from_millis(250);
    tokio::time::sleep(after).await;
    Err(StoreError::Timeout { operation: "append", after })
}

/// Longer than a client needs to leave.
#[allow(clippy::disallowed_methods, reason = "the service works in real time")]
async fn moments() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

fn backend(retryable: bool) -> StoreError {
    let source = aios_core::Cause::new(std::fmt::Error);
    StoreError::Backend { backend: "faulty", operation: "append", retryable, source }
}

#[async_trait]
impl EventStore for FaultyStore {
    async fn append(&self, batch: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        let each = batch.into_iter().map(|append| self.append_one(append));
        futures_util::future::join_all(each).await
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.alive(self.inner.read_stream(stream, after, limit)).await
    }

    async fn read_streams(
        &self,
        streams: &[StreamId],
        limit: usize,
    ) -> Result<Vec<Vec<RecordedEvent>>, StoreError> {
        self.alive(self.inner.read_streams(streams, limit)).await
    }

    async fn read_log(&self, after: u64, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        self.alive(self.inner.read_log(after, limit)).await
    }

    async fn read_log_except(
        &self,
        after: u64,
        up_to: u64,
        except: &[aios_core::event::Pattern],
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.alive(self.inner.read_log_except(after, up_to, except)).await
    }

    async fn head(&self) -> Result<u64, StoreError> {
        self.alive(self.inner.head()).await
    }

    async fn wait_for(&self, after: u64) -> Result<u64, StoreError> {
        self.alive(self.inner.wait_for(after)).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait]
impl Leases for FaultyStore {
    async fn acquire(
        &self,
        shards: &[Shard],
        owner: &OwnerId,
        time_to_live: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        self.inner.acquire(shards, owner, time_to_live).await
    }

    async fn renew(
        &self,
        leases: &[Lease],
        time_to_live: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        self.inner.renew(leases, time_to_live).await
    }

    async fn release(&self, leases: &[Lease]) -> Result<(), StoreError> {
        self.inner.release(leases).await
    }

    async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.inner.leases().await
    }

    async fn wait_for_release(&self, seen: u64) -> Result<u64, StoreError> {
        self.inner.wait_for_release(seen).await
    }
}

#[async_trait]
impl ReadModels for FaultyStore {
    async fn agents(
        &self,
        filter: &AgentFilter,
        page: &PageRequest,
    ) -> Result<Page<AgentRecord>, StoreError> {
        self.alive(self.inner.agents(filter, page)).await
    }

    async fn tasks(
        &self,
        filter: &TaskFilter,
        page: &PageRequest,
    ) -> Result<Page<TaskRecord>, StoreError> {
        self.alive(self.inner.tasks(filter, page)).await
    }

    async fn workflows(&self, page: &PageRequest) -> Result<Page<WorkflowRecord>, StoreError> {
        self.alive(self.inner.workflows(page)).await
    }

    async fn runs(
        &self,
        filter: &RunFilter,
        page: &PageRequest,
    ) -> Result<Page<RunRecord>, StoreError> {
        self.alive(self.inner.runs(filter, page)).await
    }

    async fn rebuild(&self) -> Result<(), StoreError> {
        self.inner.rebuild().await
    }

    fn waits(&self) -> Option<&dyn Waits> {
        self.inner.waits()
    }
}

#[async_trait]
impl Checkpoints for FaultyStore {
    async fn load_checkpoint(&self, reader: &str) -> Result<u64, StoreError> {
        self.inner.load_checkpoint(reader).await
    }

    async fn save_checkpoint(&self, reader: &str, position: u64) -> Result<(), StoreError> {
        self.inner.save_checkpoint(reader, position).await
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        self.inner.checkpoints().await
    }

    async fn delete_checkpoint(&self, reader: &str) -> Result<bool, StoreError> {
        self.inner.delete_checkpoint(reader).await
    }
}
