//! Several engines on one store: which engine owns which shards, where answers go, and how shards
//! move.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::{prelude::*, runtime::EngineOptions};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    agent::{TaskAssigned, TaskCompleted, TaskFailed},
    broker::{
        BrokerError, Deliveries, Delivery, Group, Mailbox, Publish, Settlement, Subscription,
    },
    clock::VirtualClock,
    event::EventId,
    failure::Failure,
    store::{EventStoreExt, OwnerId, Shard},
};
use tokio::sync::Notify;

use crate::support::{
    faulty::{Fault, FaultyBroker, FaultyStore, store_unavailable},
    workflows::{PATIENCE, actions, eventually, quick, result, store},
};

/// Long enough that nothing happens because of time within a test.
const FOREVER: Duration = Duration::from_secs(3000);
/// For tests in which engines lose their leases. A slow machine may lose them earlier.
const SHORT: Duration = Duration::from_millis(600);
/// For tests in which shards move and no engine may lose its lease, even on a slow machine.
const STEADY: Duration = Duration::from_secs(6);

/// Several engines over one store and one broker.
struct Fleet {
    store: Arc<dyn Store>,
    broker: Arc<FaultyBroker>,
    lease_time: Duration,
    relay: bool,
}

impl Fleet {
    fn new(lease_time: Duration) -> Self {
        let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
        Self { store: store(), broker, lease_time, relay: false }
    }

    fn builder(&self) -> aios_agents::runtime::RuntimeBuilder {
        let (lease_time, relay) = (self.lease_time, self.relay);
        let options = EngineOptions::new().with_lease_time(lease_time).with_relay(relay);
        Runtime::builder()
            .store(Arc::clone(&self.store))
            .broker(Arc::clone(&self.broker) as _)
            .engine_options(options)
            .workflow("ask", ask)
            .workflow("wait", wait)
    }

    async fn engine(&self) -> Runtime {
        self.builder().start().await.unwrap()
    }

    /// How many shards each engine owns, in order.
    async fn shares(&self) -> Vec<usize> {
        let mut owners: BTreeMap<String, usize> = BTreeMap::new();
        for lease in self.store.leases().await.unwrap() {
            if lease.shard.is_share() {
                *owners.entry(lease.owner.as_str().to_owned()).or_default() += 1;
            }
        }
        let mut shares: Vec<usize> = owners.into_values().collect();
        shares.sort_unstable();
        shares
    }

    async fn shared(&self, expected: &[usize]) {
        let what = format!("the shards are shared as {expected:?}");
        eventually(&what, || async { self.shares().await == expected }).await;
    }

    async fn mailbox(&self, slot: u16) -> Mailbox {
        let id = self.store.id().await.unwrap();
        Mailbox::new(format!("stores.{id}.answers.{slot}")).unwrap()
    }

    /// Takes the tasks of the type `ghost` in place of an agent.
    async fn tasks(&self) -> Deliveries {
        let group = Group::new("agents.ghost").unwrap();
        let pattern = "agents.ghost.task_assigned".parse().unwrap();
        self.broker.subscribe(Subscription::group(group, [pattern])).await.unwrap()
    }

    async fn send(&self, slot: u16, answer: Event) {
        let publish = Publish::new(answer).with_mailbox(self.mailbox(slot).await);
        self.broker.publish_one(publish.with_required_route()).await.unwrap();
    }

    /// How the events with this action were settled.
    fn settled(&self, action: &str) -> Vec<Settlement> {
        let settled = self.broker.settled().into_iter();
        let of_action = settled.filter(|(event, _)| event.event_type.action() == action);
        of_action.map(|(_, settlement)| settlement).collect()
    }
}

async fn ask(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.task("ghost", &1).retry(quick(3)).await
}

async fn short(_: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    Ok(1)
}

async fn wait(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.signal("go").await
}

async fn next(tasks: &mut Deliveries) -> (Delivery, TaskAssigned) {
    let delivery = tokio::time::timeout(PATIENCE, tasks.next()).await.expect("no task arrived");
    let delivery = delivery.unwrap().unwrap();
    let task = delivery.event.data().unwrap();
    (delivery, task)
}

fn completed(delivery: &Delivery, task: &TaskAssigned, output: u32) -> Event {
    let output = Payload::encode(&output).unwrap();
    let task_id = task.task_id.clone();
    let data = TaskCompleted::new(task_id, output);
    let event_type = "agents.ghost.task_completed".parse().unwrap();
    Event::new(event_type, "ghost-1", &data).unwrap().caused_by(&delivery.event)
}

fn failed(delivery: &Delivery, task: &TaskAssigned) -> Event {
    let (task_id, attempt) = (task.task_id.clone(), task.attempt);
    let failure = Failure::new("BUSY", "not now");
    let data = TaskFailed::new(task_id, attempt, failure, true);
    let event_type = "agents.ghost.task_failed".parse().unwrap();
    Event::new(event_type, "ghost-1", &data).unwrap().caused_by(&delivery.event)
}

#[tokio::test(flavor = "multi_thread")]
async fn should_share_the_shards_evenly_as_engines_come_and_go() {
    let fleet = Fleet::new(SHORT);
    let first = fleet.engine().await;
    fleet.shared(&[64]).await;
    let second = fleet.engine().await;
    fleet.shared(&[32, 32]).await;
    let third = fleet.engine().await;
    fleet.shared(&[21, 21, 22]).await;
    first.shutdown(PATIENCE).await.unwrap();
    fleet.shared(&[32, 32]).await;
    let fourth = fleet.engine().await;
    fleet.shared(&[21, 21, 22]).await;
    for engine in [second, third, fourth] {
        engine.shutdown(PATIENCE).await.unwrap();
    }
    assert!(fleet.store.leases().await.unwrap().is_empty());
}

/// The lease of a projection does not count as an engine, which would be assigned shards that no
/// process advances.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_count_a_projection_among_the_engines() {
    let fleet = Fleet::new(SHORT);
    let first = fleet.engine().await;
    let ignoring = |_: aios_agents::projection::Batch| async { Ok::<(), TaskError>(()) };
    let _projection = first.projection("orders", ignoring).await.unwrap();
    // In addition to those of the shards, the slot and the guests of the engine.
    eventually("the projection has its lease", || async {
        fleet.store.leases().await.unwrap().len() == 67
    })
    .await;
    let second = fleet.engine().await;
    fleet.shared(&[32, 32]).await;
    drop((first, second));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_use_one_mailbox_per_engine_and_reuse_those_of_dead_engines() {
    let fleet = Fleet::new(STEADY);
    let first = fleet.engine().await;
    let second = fleet.engine().await;
    first.shutdown(PATIENCE).await.unwrap();
    let third = fleet.engine().await;
    let leases = fleet.store.leases().await.unwrap();
    let mut slots: Vec<u16> = leases.iter().filter_map(|lease| lease.shard.slot_number()).collect();
    slots.sort_unstable();
    assert_eq!(slots, [0, 1], "the third took the place of the first");
    drop((second, third));
}

/// The answer arrives at an engine that does not own the run. The engine records it, then
/// acknowledges it, and the owner continues.
#[tokio::test(flavor = "multi_thread")]
async fn should_record_an_answer_that_another_engine_receives() {
    let fleet = Fleet::new(FOREVER);
    let mut tasks = fleet.tasks().await;
    let (first, second) = (fleet.engine().await, fleet.engine().await);
    fleet.shared(&[64]).await;
    let run = first.start("ask", &()).id("r").await.unwrap();
    let (delivery, task) = next(&mut tasks).await;
    // Only the owner decides about failures.
    fleet.send(1, failed(&delivery, &task)).await;
    delivery.ack().await.unwrap();
    let (delivery, task) = next(&mut tasks).await;
    assert_eq!(task.attempt, 2);
    fleet.send(1, completed(&delivery, &task, 7)).await;
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
    let expected = [
        "started",
        "task_assigned",
        "task_failed",
        "retry_scheduled",
        "task_assigned",
        "task_completed",
        "completed",
    ];
    assert_eq!(actions(&run).await, expected);
    assert_eq!(fleet.settled("task_completed"), [Settlement::Ack]);
    // Answers that arrive again, or too late, are settled and change nothing.
    fleet.send(1, completed(&delivery, &task, 8)).await;
    fleet.send(0, completed(&delivery, &task, 9)).await;
    eventually("they are acknowledged", || async {
        fleet.settled("task_completed") == vec![Settlement::Ack; 3]
    })
    .await;
    assert_eq!(actions(&run).await, expected);
    drop((first, second));
}

/// Both engines record the same answer.
#[tokio::test(flavor = "multi_thread")]
async fn should_record_an_answer_once_that_two_engines_receive() {
    let fleet = Fleet::new(FOREVER);
    let mut tasks = fleet.tasks().await;
    let (first, second) = (fleet.engine().await, fleet.engine().await);
    let mut runs = Vec::new();
    for number in 0..20 {
        runs.push(first.start("ask", &()).id(format!("r{number}")).await.unwrap());
    }
    for _ in &runs {
        let (delivery, task) = next(&mut tasks).await;
        let answer = completed(&delivery, &task, 7);
        fleet.send(0, answer.clone()).await;
        fleet.send(1, answer).await;
        delivery.ack().await.unwrap();
    }
    for run in &runs {
        assert_eq!(result::<u32>(run).await.unwrap(), 7);
        let expected = ["started", "task_assigned", "task_completed", "completed"];
        assert_eq!(actions(run).await, expected);
    }
    drop((first, second));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_a_forged_answer_to_a_run_of_another_engine() {
    let fleet = Fleet::new(FOREVER);
    let mut tasks = fleet.tasks().await;
    let (first, second) = (fleet.engine().await, fleet.engine().await);
    let run = first.start("ask", &()).id("r").await.unwrap();
    let (delivery, task) = next(&mut tasks).await;
    let mut forged = completed(&delivery, &task, 666);
    forged.metadata_mut().causation_id = Some("a guess".into());
    fleet.send(1, forged).await;
    eventually("it is refused", || async {
        matches!(fleet.settled("task_completed")[..], [Settlement::DeadLetter { .. }])
    })
    .await;
    // One from agents of another type is recorded, and is no answer.
    let mut stranger = completed(&delivery, &task, 667);
    stranger.event_type = "agents.stranger.task_completed".parse().unwrap();
    fleet.send(1, stranger).await;
    eventually("it is settled", || async { fleet.settled("task_completed").len() == 2 }).await;
    fleet.send(1, completed(&delivery, &task, 7)).await;
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
    drop((first, second));
}

/// An engine that lost a shard without noticing does not know what the new owner does. It must not
/// acknowledge answers that it does not know.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_acknowledge_answers_unknown_to_a_lost_run() {
    let fleet = Fleet::new(FOREVER);
    let mut tasks = fleet.tasks().await;
    let first = fleet.engine().await;
    let run = first.start("ask", &()).id("r").await.unwrap();
    let (delivery, task) = next(&mut tasks).await;
    // Another engine owns the shard now, as after a long pause of this one.
    let leases = fleet.store.leases().await.unwrap();
    let of_run = leases.into_iter().filter(|lease| lease.shard == Shard::of("r"));
    let of_run: Vec<_> = of_run.collect();
    fleet.store.release(&of_run).await.unwrap();
    let thief = OwnerId::new("thief");
    fleet.store.acquire(&[Shard::of("r")], &thief, FOREVER).await.unwrap();
    // The successor assigned the second attempt.
    let incarnation = run.journal(0, 1).await.unwrap()[0].event.id.clone();
    let mut answer = completed(&delivery, &task, 7);
    let second = EventId::derive_from(&incarnation, "1#2");
    answer.metadata_mut().causation_id = Some(second.to_string().into());
    fleet.send(0, answer).await;
    eventually("it is recorded", || async {
        actions(&run).await == ["started", "task_assigned", "task_completed"]
    })
    .await;
    eventually("it is acknowledged", || async {
        fleet.settled("task_completed") == [Settlement::Ack]
    })
    .await;
    drop(first);
}

/// Answers that an engine had not recorded when it died are read by the remaining engines.
#[tokio::test(flavor = "multi_thread")]
async fn should_read_the_mailbox_of_an_engine_that_died() {
    let fleet = Fleet::new(SHORT);
    let mut tasks = fleet.tasks().await;
    let faulty = FaultyStore::new(Arc::clone(&fleet.store));
    let dying = fleet.builder().store(Arc::clone(&faulty) as _).start().await.unwrap();
    let run = dying.start("ask", &()).id("r").await.unwrap();
    let (delivery, task) = next(&mut tasks).await;
    let survivor = fleet.engine().await;
    // From here, nothing reaches the store, as if the engine were cut off.
    faulty.on_call(|_| Some(Fault::Refuse(store_unavailable())));
    faulty.on_append(|_| Some(Fault::Refuse(store_unavailable())));
    fleet.shared(&[64]).await;
    eventually("the survivor has them", || async {
        fleet.store.leases().await.unwrap().iter().all(|lease| lease.shard != Shard::slot(0))
    })
    .await;
    fleet.send(0, completed(&delivery, &task, 7)).await;
    let run = survivor.handle(run.id()).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
    drop(dying);
}

/// Sets a flag when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The store hangs, so the engine is not told that its leases have expired.
#[tokio::test(flavor = "multi_thread")]
async fn should_stop_when_its_leases_end_although_the_store_hangs() {
    let fleet = Fleet::new(SHORT);
    let faulty = FaultyStore::new(Arc::clone(&fleet.store));
    let (begun, dropped) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, flag) = (Arc::clone(&begun), Arc::clone(&dropped));
    let endless = move |context: WorkflowContext, (): ()| {
        let (count, flag) = (Arc::clone(&count), Arc::clone(&flag));
        async move {
            let step = || async {
                count.fetch_add(1, Ordering::SeqCst);
                let _dropped = Dropped(Arc::clone(&flag));
                std::future::pending::<Result<u32, TaskError>>().await
            };
            context.step("endless", step).await
        }
    };
    let builder = fleet.builder().store(Arc::clone(&faulty) as _);
    let runtime = builder.workflow("endless", endless).start().await.unwrap();
    runtime.start("endless", &()).await.unwrap();
    eventually("the step begins", || async { begun.load(Ordering::SeqCst) == 1 }).await;
    faulty.on_call(|_| Some(Fault::Hang));
    eventually("the step is stopped", || async { dropped.load(Ordering::SeqCst) }).await;
    // Once the store answers, the engine joins again, and its run continues.
    drop(runtime);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_join_again_once_the_store_answers() {
    let fleet = Fleet::new(SHORT);
    let faulty = FaultyStore::new(Arc::clone(&fleet.store));
    let runtime = fleet.builder().store(Arc::clone(&faulty) as _).start().await.unwrap();
    let run = runtime.start("wait", &()).id("r").await.unwrap();
    let is_lease = |method: &str| matches!(method, "renew" | "acquire" | "leases");
    faulty.on_call(move |method| is_lease(method).then(|| Fault::Refuse(store_unavailable())));
    eventually("the leases end", || async { fleet.shares().await.is_empty() }).await;
    faulty.heal();
    fleet.shared(&[64]).await;
    run.signal("go", &5).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 5);
}

/// An engine that comes back and cannot read its mailbox is not a member: no engine hands it
/// shards.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_join_before_its_mailbox_is_open() {
    let fleet = Fleet::new(SHORT);
    let faulty = FaultyStore::new(Arc::clone(&fleet.store));
    let broker = FaultyBroker::new(Arc::clone(&fleet.broker) as _);
    let builder = fleet.builder().store(Arc::clone(&faulty) as _);
    let first = builder.broker(Arc::clone(&broker) as _).start().await.unwrap();
    let second = fleet.engine().await;
    fleet.shared(&[32, 32]).await;
    broker.on_subscribe(|_| Some(Fault::Refuse(BrokerError::Uncertain)));
    faulty.on_call(|_| Some(Fault::Refuse(store_unavailable())));
    fleet.shared(&[64]).await;
    faulty.heal();
    #[allow(clippy::disallowed_methods, reason = "nothing must happen meanwhile")]
    tokio::time::sleep(SHORT * 3).await;
    let leases = fleet.store.leases().await.unwrap();
    assert_eq!(leases.iter().filter(|lease| lease.shard.slot_number().is_some()).count(), 1);
    assert_eq!(fleet.shares().await, [64]);
    broker.heal();
    fleet.shared(&[32, 32]).await;
    let leases = fleet.store.leases().await.unwrap();
    let mut slots: Vec<u16> = leases.iter().filter_map(|lease| lease.shard.slot_number()).collect();
    slots.sort_unstable();
    assert_eq!(slots, [0, 1]);
    drop((first, second));
}

/// A step that ends when its gate opens, and counts how often it began, and how often the step after it.
#[derive(Clone, Default)]
struct Gate {
    begun: Arc<AtomicU32>,
    passed: Arc<AtomicU32>,
    opened: Arc<AtomicBool>,
    opening: Arc<Notify>,
}

impl Gate {
    async fn pass(&self) -> Result<u32, TaskError> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        while !self.opened.load(Ordering::SeqCst) {
            let opening = self.opening.notified();
            if self.opened.load(Ordering::SeqCst) {
                break;
            }
            opening.await;
        }
        Ok(1)
    }

    fn open(&self) {
        self.opened.store(true, Ordering::SeqCst);
        self.opening.notify_waiters();
    }

    fn begun(&self) -> u32 {
        self.begun.load(Ordering::SeqCst)
    }

    fn workflow(
        &self,
    ) -> impl Fn(
        WorkflowContext,
        (),
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<u32, WorkflowError>> + Send>>
    + Send
    + Sync
    + 'static
    + use<> {
        let gate = self.clone();
        move |context, ()| {
            let gate = gate.clone();
            Box::pin(async move {
                let first: u32 = context.step("gate", || gate.pass()).await?;
                let pass = || async {
                    gate.passed.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, TaskError>(1)
                };
                let second: u32 = context.step("after", pass).await?;
                Ok(first + second)
            })
        }
    }
}

/// Leases last for hours, so the other engine learns of the shutdown only from the notification.
#[tokio::test(flavor = "multi_thread")]
async fn should_hand_over_at_once_when_it_stops() {
    let mut fleet = Fleet::new(FOREVER);
    fleet.relay = true;
    let (first, second) = (fleet.engine().await, fleet.engine().await);
    fleet.shared(&[64]).await;
    let group = Group::new("watch").unwrap();
    let pattern = "workflows.wait.completed".parse().unwrap();
    let mut relayed = fleet.broker.subscribe(Subscription::group(group, [pattern])).await.unwrap();
    let run = first.start("wait", &()).id("r").await.unwrap();
    first.shutdown(PATIENCE).await.unwrap();
    fleet.shared(&[64]).await;
    let run = second.handle(run.id()).await.unwrap();
    run.signal("go", &3).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 3);
    let event = tokio::time::timeout(PATIENCE, relayed.next()).await.expect("not relayed");
    assert_eq!(event.unwrap().unwrap().event.event_type.action(), "completed");
    drop(second);
}

/// Hardly any time passes for the engine while it stops, so it would wait for its relay
/// indefinitely.
#[tokio::test(flavor = "multi_thread")]
async fn should_hand_over_although_the_broker_accepts_nothing() {
    let mut fleet = Fleet::new(FOREVER);
    fleet.relay = true;
    let clock = VirtualClock::new(Timestamp::now());
    let builder = fleet.builder().workflow("short", short).clock(Arc::new(clock.clone()));
    let first = builder.start().await.unwrap();
    let published = Arc::new(AtomicBool::new(false));
    let publishing = Arc::clone(&published);
    fleet.broker.on_publish(move |_| {
        publishing.store(true, Ordering::Release);
        Some(Fault::Hang)
    });
    result::<u32>(&first.start("short", &()).await.unwrap()).await.unwrap();
    eventually("the relay publishes", || async {
        clock.advance(Duration::from_millis(100));
        published.load(Ordering::Acquire)
    })
    .await;
    let owners = || async {
        let leases = fleet.store.leases().await.unwrap().into_iter();
        leases.filter(|lease| lease.shard.is_share()).map(|lease| lease.owner).collect::<Vec<_>>()
    };
    let former = owners().await.swap_remove(0);
    let _second = fleet.engine().await;
    let stopping = tokio::spawn(first.shutdown(PATIENCE));
    // Enough that runs leave memory, but not so much that the engine stops waiting for the relay.
    let passed = AtomicU32::new(0);
    eventually("the other engine owns all shards", || async {
        if passed.fetch_add(1, Ordering::Relaxed) < 10 {
            clock.advance(Duration::from_millis(20));
        }
        let owners = owners().await;
        owners.len() == 64 && !owners.contains(&former)
    })
    .await;
    stopping.abort();
}

/// The running step ends and is recorded; the next one runs in another engine.
#[tokio::test(flavor = "multi_thread")]
async fn should_record_the_steps_that_run_when_it_stops() {
    let fleet = Fleet::new(FOREVER);
    let gate = Gate::default();
    let first = fleet.builder().workflow("gated", gate.workflow()).start().await.unwrap();
    let second = fleet.builder().workflow("gated", gate.workflow()).start().await.unwrap();
    let run = first.start("gated", &()).id("r").await.unwrap();
    eventually("the step begins", || async { gate.begun() == 1 }).await;
    let stopping = tokio::spawn(first.shutdown(PATIENCE));
    // Shards without running steps do not wait for it.
    fleet.shared(&[1, 63]).await;
    gate.open();
    stopping.await.unwrap().unwrap();
    let run = second.handle(run.id()).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 2);
    assert_eq!(gate.begun(), 1, "no step began twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_give_up_steps_that_exceed_the_shutdown_deadline() {
    let fleet = Fleet::new(FOREVER);
    let gate = Gate::default();
    let first = fleet.builder().workflow("gated", gate.workflow()).start().await.unwrap();
    let second = fleet.builder().workflow("gated", gate.workflow()).start().await.unwrap();
    let run = first.start("gated", &()).id("r").await.unwrap();
    eventually("the step begins", || async { gate.begun() == 1 }).await;
    first.shutdown(Duration::from_millis(100)).await.unwrap();
    eventually("the step begins again", || async { gate.begun() == 2 }).await;
    gate.open();
    let run = second.handle(run.id()).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 2);
}

/// Starts a run with a gate on each shard.
async fn start_on_all_shards(runtime: &Runtime) -> Vec<RunHandle> {
    start_on_shards(runtime, 64).await
}

/// Starts a run with a gate on each of the first `count` shards that ids of runs lead to.
async fn start_on_shards(runtime: &Runtime, count: usize) -> Vec<RunHandle> {
    let mut ids: BTreeMap<Shard, String> = BTreeMap::new();
    for number in 0.. {
        let id = format!("r{number}");
        ids.entry(Shard::of(&id)).or_insert(id);
        if ids.len() == count {
            break;
        }
    }
    let mut runs = Vec::new();
    for id in ids.into_values() {
        runs.push(runtime.start("gated", &()).id(id).await.unwrap());
    }
    runs
}

/// The first engine of a fleet, whose time passes only when a test says so.
struct Ticking {
    runtime: Runtime,
    store: Arc<FaultyStore>,
    clock: VirtualClock,
}

impl Ticking {
    async fn start(fleet: &Fleet, gate: &Gate) -> Self {
        let clock = VirtualClock::new(Timestamp::now());
        let store = FaultyStore::new(Arc::clone(&fleet.store));
        let builder = fleet.builder().workflow("gated", gate.workflow());
        let builder = builder.store(Arc::clone(&store) as _).clock(Arc::new(clock.clone()));
        Self { runtime: builder.start().await.unwrap(), store, clock }
    }

    /// Lets the engine renew its leases, and compare its share with that of the others.
    async fn tick(&self) {
        let calls = || (self.store.count("renew"), self.store.count("leases"));
        let before = calls();
        self.clock.advance(FOREVER / 3);
        eventually("it has renewed and looked", || async {
            let now = calls();
            now.0 > before.0 && now.1 > before.1
        })
        .await;
    }
}

/// The grace of the busy shard never ends, and the other ones do not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn should_move_idle_shards_while_a_busy_one_waits_for_its_step() {
    let fleet = Fleet::new(FOREVER);
    let gate = Gate::default();
    let first = Ticking::start(&fleet, &gate).await;
    let runs = start_on_shards(&first.runtime, 33).await;
    eventually("all steps begin", || async { gate.begun() == 33 }).await;
    let _second = fleet.builder().workflow("gated", gate.workflow()).start().await.unwrap();
    first.tick().await;
    first.tick().await;
    fleet.shared(&[31, 33]).await;
    gate.open();
    let results = async {
        for run in &runs {
            assert_eq!(result::<u32>(run).await.unwrap(), 2);
        }
    };
    // The busy shard moves, or stays when its grace is over.
    #[allow(clippy::disallowed_methods, reason = "the virtual time passes slowly")]
    let pass = async {
        loop {
            first.clock.advance(Duration::from_millis(10));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = results => {}
        () = pass => {}
    }
    assert_eq!(gate.begun(), 33, "no step began twice");
}

/// The engine is told to stop while it waits for the steps of shards that it hands over. It gives up
/// waiting for them, and its runs must still begin nothing.
#[tokio::test(flavor = "multi_thread")]
async fn should_begin_no_step_while_it_stops_because_shards_could_not_move_before() {
    let fleet = Fleet::new(Duration::from_secs(3));
    let (gate, other) = (Gate::default(), Gate::default());
    let first = fleet.builder().workflow("gated", gate.workflow()).start().await.unwrap();
    let runs = start_on_all_shards(&first).await;
    eventually("all steps begin", || async { gate.begun() == 64 }).await;
    other.open();
    let second = fleet.builder().workflow("gated", other.workflow()).start().await.unwrap();
    #[allow(
        clippy::disallowed_methods,
        reason = "shards move, and the move is given up, in real time"
    )]
    let pause = || tokio::time::sleep(Duration::from_secs(4));
    pause().await;
    let stopping = tokio::spawn(first.shutdown(PATIENCE));
    pause().await;
    gate.open();
    stopping.await.unwrap().unwrap();
    for run in &runs {
        let run = second.handle(run.id()).await.unwrap();
        assert_eq!(result::<u32>(&run).await.unwrap(), 2);
    }
    assert_eq!(gate.passed.load(Ordering::SeqCst), 0, "the other engine took the next steps");
}

/// No shard can move without waiting for a step, and the steps take too long: the shards stay, and
/// move as soon as they can.
#[tokio::test(flavor = "multi_thread")]
async fn should_begin_no_step_again_because_an_engine_joined() {
    let fleet = Fleet::new(STEADY);
    let gate = Gate::default();
    let first = fleet.builder().workflow("gated", gate.workflow()).start().await.unwrap();
    let runs = start_on_all_shards(&first).await;
    eventually("all steps begin", || async { gate.begun() == 64 }).await;
    let _second = fleet.builder().workflow("gated", gate.workflow()).start().await.unwrap();
    #[allow(clippy::disallowed_methods, reason = "the move is given up after real time")]
    tokio::time::sleep(STEADY).await;
    gate.open();
    for run in &runs {
        assert_eq!(result::<u32>(run).await.unwrap(), 2);
    }
    assert_eq!(gate.begun(), 64, "no step began twice");
    fleet.shared(&[32, 32]).await;
}

/// Steps and agents can prove to external systems which owner of the run they work for.
#[tokio::test(flavor = "multi_thread")]
async fn should_show_the_fence_to_steps_and_agents() {
    #[derive(Clone)]
    struct Fenced;
    impl Agent for Fenced {
        type Parameters = ();
        type Output = u64;
        async fn process_task(&self, context: &TaskContext, (): ()) -> Result<u64, TaskError> {
            Ok(context.fence().map_or(0, |fence| fence.epoch.0))
        }
    }
    async fn both(context: WorkflowContext, (): ()) -> Result<(u64, u64), WorkflowError> {
        let fence = context.fence();
        let step = || async { Ok::<_, TaskError>(fence.map_or(0, |fence| fence.epoch.0)) };
        Ok((context.step("epoch", step).await?, context.task("fenced", &()).await?))
    }
    let fleet = Fleet::new(FOREVER);
    let build = || fleet.builder().workflow("both", both).agent("fenced", Fenced).start();
    for epoch in 1..=2 {
        let runtime = build().await.unwrap();
        let run = runtime.start("both", &()).await.unwrap();
        assert_eq!(result::<(u64, u64)>(&run).await.unwrap(), (epoch, epoch));
        runtime.shutdown(PATIENCE).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_ask_an_idle_store_less_than_once_a_second() {
    let fleet = Fleet::new(Duration::from_secs(10));
    let faulty = FaultyStore::new(Arc::clone(&fleet.store));
    let mut builder = fleet.builder();
    builder = builder.store(Arc::clone(&faulty) as _);
    let _runtime = builder.engine_options(EngineOptions::default()).start().await.unwrap();
    let methods = [
        "renew",
        "acquire",
        "leases",
        "head",
        "read_log",
        "read_log_except",
        "read_stream",
        "runs",
        "load_checkpoint",
        "append",
    ];
    let total = || methods.iter().map(|method| faulty.count(method)).sum::<usize>();
    #[allow(clippy::disallowed_methods, reason = "an idle engine is watched")]
    let pause = || tokio::time::sleep(Duration::from_secs(1));
    pause().await;
    let before = total();
    for _ in 0..7 {
        pause().await;
    }
    let asked = total() - before;
    assert!(asked <= 6, "{asked} calls in 7 s");
}
