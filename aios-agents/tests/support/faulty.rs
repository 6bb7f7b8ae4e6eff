//! A store and a broker that fail as a test defines.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aios_core::{
    BoxFuture,
    broker::{
        Acknowledger, Address, Broker, BrokerError, DeadLetters, Deliveries, Delivery, Health,
        HealthWatch, Publish, Settlement, Subscription,
    },
    event::{Event, Pattern, Timestamp},
    store::{
        AgentFilter, AgentRecord, Append, Appended, Checkpoint, Checkpoints, DueRun, EventStore,
        Fence, Lease, Leases, OwnerId, Page, PageRequest, ReadModels, RecordedEvent, RunFilter,
        RunRecord, Shard, Store, StoreError, StreamId, TaskFilter, TaskRecord, Unsettled, Wait,
        Waits, WorkflowRecord,
    },
};
use async_trait::async_trait;
use futures_util::{
    StreamExt,
    stream::{self, unfold},
};
use tokio::sync::watch;

/// The outcome of a call.
pub(crate) enum Fault<E> {
    /// The call has no effect and returns an error.
    Refuse(E),
    /// The call takes effect, but returns an error.
    LoseResponse(E),
    /// The call has no effect and never returns.
    Hang,
    /// Something else happens first; then the call takes effect.
    After(BoxFuture<'static, ()>),
    /// The call takes effect, and returns after something else has happened.
    Until(BoxFuture<'static, ()>),
    /// The same, in a task of its own: even while the caller does not poll the call, or drops it. Only
    /// for appends.
    Detached(BoxFuture<'static, ()>),
}

/// Chooses the fault of a call; `None` lets it pass.
type Rule<C, E> = Box<dyn Fn(&C) -> Option<Fault<E>> + Send + Sync>;

/// The rule for one kind of call, and the requests that it received.
struct Rules<C, E>(Mutex<Option<Arc<Rule<C, E>>>>);

impl<C, E> Default for Rules<C, E> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<C, E> Rules<C, E> {
    fn set(&self, rule: impl Fn(&C) -> Option<Fault<E>> + Send + Sync + 'static) {
        *self.0.lock().unwrap() = Some(Arc::new(Box::new(rule)));
    }

    fn clear(&self) {
        *self.0.lock().unwrap() = None;
    }

    fn ask(&self, call: &C) -> Option<Fault<E>> {
        let rule = self.0.lock().unwrap().clone();
        rule.and_then(|rule| rule(call))
    }
}

/// Applies a fault around a call.
async fn faulty<T, E>(
    fault: Option<Fault<E>>,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    match fault {
        None => call.await,
        Some(Fault::Refuse(error)) => Err(error),
        Some(Fault::LoseResponse(error)) => call.await.and(Err(error)),
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::After(first)) => {
            first.await;
            call.await
        }
        Some(Fault::Until(then) | Fault::Detached(then)) => {
            let answer = call.await;
            then.await;
            answer
        }
    }
}

/// Wraps a store. Its calls can be refused, delayed, or answered with an error after the fact.
pub(crate) struct FaultyStore {
    inner: Arc<dyn Store>,
    appends: Rules<Append, StoreError>,
    calls: Rules<&'static str, StoreError>,
    counts: Mutex<HashMap<&'static str, usize>>,
    streams: Mutex<HashSet<StreamId>>,
    /// Positions of the log that cannot be read, and whether the files are damaged.
    unreadable: Mutex<(BTreeSet<u64>, bool)>,
    /// Whether readers of streams can't read these events either.
    is_everywhere: AtomicBool,
}

impl FaultyStore {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        let (appends, calls, counts) = (Rules::default(), Rules::default(), Mutex::default());
        let (streams, unreadable) = (Mutex::default(), Mutex::default());
        let is_everywhere = AtomicBool::default();
        Arc::new(Self { inner, appends, calls, counts, streams, unreadable, is_everywhere })
    }

    /// Sets the rule for every append from now on.
    pub(crate) fn on_append(
        &self,
        rule: impl Fn(&Append) -> Option<Fault<StoreError>> + Send + Sync + 'static,
    ) {
        self.appends.set(rule);
    }

    /// Sets the rule for every other call from now on, by the name of its method.
    pub(crate) fn on_call(
        &self,
        rule: impl Fn(&&'static str) -> Option<Fault<StoreError>> + Send + Sync + 'static,
    ) {
        self.calls.set(rule);
    }

    /// Makes the rows of the events at these positions, and no others, invalid, for readers of the log.
    pub(crate) fn spoil(&self, positions: impl IntoIterator<Item = u64>) {
        self.is_everywhere.store(false, Ordering::SeqCst);
        *self.unreadable.lock().unwrap() = (positions.into_iter().collect(), false);
    }

    /// The same, for readers of streams as well.
    pub(crate) fn spoil_everywhere(&self, positions: impl IntoIterator<Item = u64>) {
        self.spoil(positions);
        self.is_everywhere.store(true, Ordering::SeqCst);
    }

    /// Damages the files where the events at these positions are.
    pub(crate) fn damage(&self, positions: impl IntoIterator<Item = u64>) {
        *self.unreadable.lock().unwrap() = (positions.into_iter().collect(), true);
    }

    /// Lets everything pass again.
    pub(crate) fn heal(&self) {
        self.appends.clear();
        self.calls.clear();
    }

    /// How often a method was called.
    pub(crate) fn count(&self, method: &'static str) -> usize {
        self.counts.lock().unwrap().get(method).copied().unwrap_or_default()
    }

    /// The streams that were read since the last call of this method.
    pub(crate) fn take_streams(&self) -> HashSet<StreamId> {
        std::mem::take(&mut *self.streams.lock().unwrap())
    }

    async fn call<T>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.note(method);
        faulty(self.calls.ask(&method), call).await
    }

    fn check_spoiled(&self, after: u64, up_to: u64) -> Result<(), StoreError> {
        let (positions, is_damaged) = &*self.unreadable.lock().unwrap();
        let is_read = |position: &&u64| after < **position && **position <= up_to;
        let Some(spoiled) = positions.iter().find(is_read) else { return Ok(()) };
        let (database, reason) =
            ("faulty".to_owned(), format!("the event at {spoiled} is invalid"));
        Err(match is_damaged {
            true => StoreError::Corrupt { database, reason },
            false => StoreError::InvalidRow { database, reason },
        })
    }

    fn check_each(&self, events: &[RecordedEvent]) -> Result<(), StoreError> {
        if !self.is_everywhere.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut positions = events.iter().map(|recorded| recorded.position);
        positions.try_for_each(|position| self.check_spoiled(position.saturating_sub(1), position))
    }

    fn note(&self, method: &'static str) {
        *self.counts.lock().unwrap().entry(method).or_default() += 1;
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("FaultyStore")
    }
}

/// A transient error of a store.
pub(crate) fn store_unavailable() -> StoreError {
    backend(true)
}

/// A permanent error of a store.
pub(crate) fn store_refuses() -> StoreError {
    backend(false)
}

fn backend(retryable: bool) -> StoreError {
    let source = aios_core::Cause::new(fmt::Error);
    StoreError::Backend { backend: "faulty", operation: "append", retryable, source }
}

/// Whether an append contains an event with this action.
pub(crate) fn holds(append: &Append, action: &str) -> bool {
    append.events.iter().any(|event| event.event_type.action() == action)
}

#[async_trait]
impl EventStore for FaultyStore {
    async fn append(&self, batch: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        self.note("append");
        let each = batch.into_iter().map(|append| async move {
            let fault = self.appends.ask(&append);
            let is_detached = matches!(fault, Some(Fault::Detached(_)));
            let inner = Arc::clone(&self.inner);
            let one = faulty(fault, async move {
                inner.append(vec![append]).await.pop().unwrap_or(Err(StoreError::Closed))
            });
            match is_detached {
                true => tokio::spawn(one).await.unwrap(),
                false => one.await,
            }
        });
        futures_util::future::join_all(each).await
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.streams.lock().unwrap().insert(stream.clone());
        let events = self.call("read_stream", self.inner.read_stream(stream, after, limit)).await?;
        self.check_each(&events)?;
        Ok(events)
    }

    async fn read_streams(
        &self,
        streams: &[StreamId],
        limit: usize,
    ) -> Result<Vec<Vec<RecordedEvent>>, StoreError> {
        self.streams.lock().unwrap().extend(streams.iter().cloned());
        let found = self.call("read_streams", self.inner.read_streams(streams, limit)).await?;
        found.iter().try_for_each(|events| self.check_each(events))?;
        Ok(found)
    }

    async fn read_log(&self, after: u64, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        self.check_spoiled(after, after.saturating_add(limit.try_into().unwrap_or(u64::MAX)))?;
        self.call("read_log", self.inner.read_log(after, limit)).await
    }

    async fn read_log_except(
        &self,
        after: u64,
        up_to: u64,
        except: &[Pattern],
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.check_spoiled(after, up_to)?;
        self.call("read_log_except", self.inner.read_log_except(after, up_to, except)).await
    }

    async fn head(&self) -> Result<u64, StoreError> {
        self.call("head", self.inner.head()).await
    }

    async fn wait_for(&self, after: u64) -> Result<u64, StoreError> {
        self.call("wait_for", self.inner.wait_for(after)).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
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
        self.call("acquire", self.inner.acquire(shards, owner, time_to_live)).await
    }

    async fn renew(
        &self,
        leases: &[Lease],
        time_to_live: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        self.call("renew", self.inner.renew(leases, time_to_live)).await
    }

    async fn release(&self, leases: &[Lease]) -> Result<(), StoreError> {
        self.call("release", self.inner.release(leases)).await
    }

    async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.call("leases", self.inner.leases()).await
    }

    async fn wait_for_release(&self, seen: u64) -> Result<u64, StoreError> {
        self.call("wait_for_release", self.inner.wait_for_release(seen)).await
    }
}

#[async_trait]
impl ReadModels for FaultyStore {
    async fn agents(
        &self,
        filter: &AgentFilter,
        page: &PageRequest,
    ) -> Result<Page<AgentRecord>, StoreError> {
        self.call("agents", self.inner.agents(filter, page)).await
    }

    async fn tasks(
        &self,
        filter: &TaskFilter,
        page: &PageRequest,
    ) -> Result<Page<TaskRecord>, StoreError> {
        self.call("tasks", self.inner.tasks(filter, page)).await
    }

    async fn workflows(&self, page: &PageRequest) -> Result<Page<WorkflowRecord>, StoreError> {
        self.call("workflows", self.inner.workflows(page)).await
    }

    async fn runs(
        &self,
        filter: &RunFilter,
        page: &PageRequest,
    ) -> Result<Page<RunRecord>, StoreError> {
        self.call("runs", self.inner.runs(filter, page)).await
    }

    async fn rebuild(&self) -> Result<(), StoreError> {
        self.call("rebuild", self.inner.rebuild()).await
    }

    fn waits(&self) -> Option<&dyn Waits> {
        Some(self)
    }
}

#[async_trait]
impl Checkpoints for FaultyStore {
    async fn load_checkpoint(&self, reader: &str) -> Result<u64, StoreError> {
        self.call("load_checkpoint", self.inner.load_checkpoint(reader)).await
    }

    async fn save_checkpoint(&self, reader: &str, position: u64) -> Result<(), StoreError> {
        self.call("save_checkpoint", self.inner.save_checkpoint(reader, position)).await
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        self.call("checkpoints", self.inner.checkpoints()).await
    }

    async fn delete_checkpoint(&self, reader: &str) -> Result<bool, StoreError> {
        self.call("delete_checkpoint", self.inner.delete_checkpoint(reader)).await
    }
}

impl FaultyStore {
    fn notes(&self) -> &dyn Waits {
        self.inner.waits().unwrap()
    }
}

#[async_trait]
impl Waits for FaultyStore {
    async fn note_waits(&self, waits: &[Wait]) -> Result<(), StoreError> {
        self.call("note_waits", self.notes().note_waits(waits)).await
    }

    async fn forget_waits(&self, runs: &[(Arc<str>, Fence)]) -> Result<(), StoreError> {
        self.call("forget_waits", self.notes().forget_waits(runs)).await
    }

    async fn due_runs(
        &self,
        shards: &[Shard],
        beyond: Option<&DueRun>,
        up_to: Timestamp,
        limit: usize,
    ) -> Result<Vec<DueRun>, StoreError> {
        self.call("due_runs", self.notes().due_runs(shards, beyond, up_to, limit)).await
    }

    async fn unsettled_runs(
        &self,
        shards: &[Shard],
        which: Unsettled,
        page: &PageRequest,
    ) -> Result<Page<String>, StoreError> {
        self.call("unsettled_runs", self.notes().unsettled_runs(shards, which, page)).await
    }
}

/// Wraps a broker. Its publications can be refused or lost, and the settlement of each delivery is
/// recorded.
pub(crate) struct FaultyBroker {
    inner: Arc<dyn Broker>,
    publishes: Rules<Publish, BrokerError>,
    subscribes: Rules<Subscription, BrokerError>,
    settlements: Arc<Rules<Settlement, BrokerError>>,
    settled: Arc<Mutex<Vec<(Event, Settlement)>>>,
    batches: Mutex<Vec<usize>>,
    breaks: watch::Sender<Option<BrokerError>>,
    health: watch::Sender<Health>,
}

impl FaultyBroker {
    pub(crate) fn new(inner: Arc<dyn Broker>) -> Arc<Self> {
        let (publishes, subscribes) = (Rules::default(), Rules::default());
        let settlements = Arc::default();
        let (settled, batches) = (Arc::default(), Mutex::default());
        let breaks = watch::Sender::new(None);
        let health = watch::Sender::new(Health::Connected);
        Arc::new(Self {
            inner,
            publishes,
            subscribes,
            settlements,
            settled,
            batches,
            breaks,
            health,
        })
    }

    /// Sets the state that the broker reports from now on.
    pub(crate) fn set_health(&self, health: Health) {
        self.health.send_replace(health);
    }

    /// Sets the rule for everything that is published from now on.
    pub(crate) fn on_publish(
        &self,
        rule: impl Fn(&Publish) -> Option<Fault<BrokerError>> + Send + Sync + 'static,
    ) {
        self.publishes.set(rule);
    }

    /// Sets the rule for every subscription from now on.
    pub(crate) fn on_subscribe(
        &self,
        rule: impl Fn(&Subscription) -> Option<Fault<BrokerError>> + Send + Sync + 'static,
    ) {
        self.subscribes.set(rule);
    }

    /// Sets the rule for every settlement of a delivery from now on.
    pub(crate) fn on_settle(
        &self,
        rule: impl Fn(&Settlement) -> Option<Fault<BrokerError>> + Send + Sync + 'static,
    ) {
        self.settlements.set(rule);
    }

    /// Ends every existing subscription with an error.
    pub(crate) fn break_subscriptions(&self, error: &BrokerError) {
        self.breaks.send_replace(Some(error.clone()));
    }

    /// Lets everything pass again.
    pub(crate) fn heal(&self) {
        self.publishes.clear();
        self.subscribes.clear();
        self.settlements.clear();
    }

    /// The number of events in each publish call so far.
    pub(crate) fn batches(&self) -> Vec<usize> {
        self.batches.lock().unwrap().clone()
    }

    /// How deliveries have been settled so far, in order; a dropped one counts as released.
    pub(crate) fn settled(&self) -> Vec<(Event, Settlement)> {
        self.settled.lock().unwrap().clone()
    }
}

impl fmt::Debug for FaultyBroker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("FaultyBroker")
    }
}

#[async_trait]
impl Broker for FaultyBroker {
    async fn publish(&self, batch: Vec<Publish>) -> Vec<Result<(), BrokerError>> {
        self.batches.lock().unwrap().push(batch.len());
        let each = batch.into_iter().map(|publish| async move {
            let fault = self.publishes.ask(&publish);
            let one = async {
                self.inner.publish(vec![publish]).await.pop().unwrap_or(Err(BrokerError::Closed))
            };
            faulty(fault, one).await
        });
        futures_util::future::join_all(each).await
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Deliveries, BrokerError> {
        let fault = self.subscribes.ask(&subscription);
        let deliveries = faulty(fault, self.inner.subscribe(subscription)).await?;
        let (settled, settlements) = (Arc::clone(&self.settled), Arc::clone(&self.settlements));
        let deliveries =
            deliveries.map(move |delivery| Ok(watched(delivery?, &settled, &settlements)));
        let mut breaks = self.breaks.subscribe();
        let broken = stream::once(async move {
            breaks.changed().await.map_err(|_| BrokerError::Closed)?;
            Err(breaks.borrow().clone().unwrap_or(BrokerError::Uncertain))
        });
        Ok(Deliveries::new(stream::select(deliveries, broken)))
    }

    async fn dead_letters(&self, address: &Address) -> Result<Box<dyn DeadLetters>, BrokerError> {
        self.inner.dead_letters(address).await
    }

    fn health(&self) -> HealthWatch {
        let states = unfold((self.health.subscribe(), true), |(mut health, is_first)| async move {
            if !is_first {
                health.changed().await.ok()?;
            }
            let now = health.borrow_and_update().clone();
            Some((now, (health, false)))
        });
        HealthWatch::new(states)
    }

    async fn close(&self, deadline: Duration) -> Result<(), BrokerError> {
        self.inner.close(deadline).await
    }
}

struct Watched {
    delivery: Delivery,
    settled: Arc<Mutex<Vec<(Event, Settlement)>>>,
    settlements: Arc<Rules<Settlement, BrokerError>>,
}

fn watched(
    delivery: Delivery,
    settled: &Arc<Mutex<Vec<(Event, Settlement)>>>,
    settlements: &Arc<Rules<Settlement, BrokerError>>,
) -> Delivery {
    let (event, attempt) = (delivery.event.clone(), delivery.attempt);
    let redelivered = delivery.redelivered;
    let (settled, settlements) = (Arc::clone(settled), Arc::clone(settlements));
    let watched = Box::new(Watched { delivery, settled, settlements });
    Delivery::new(event, attempt, watched).with_redelivered(redelivered)
}

impl Watched {
    fn note(&self, settlement: Settlement) {
        self.settled.lock().unwrap().push((self.delivery.event.clone(), settlement));
    }
}

#[async_trait]
impl Acknowledger for Watched {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), BrokerError> {
        self.note(settlement.clone());
        let fault = self.settlements.ask(&settlement);
        faulty(fault, self.delivery.settle(settlement)).await
    }

    fn release(self: Box<Self>) {
        self.note(Settlement::Release);
    }
}
