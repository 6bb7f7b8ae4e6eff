//! Engines that lose their shards, and what must not be lost with them.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::{prelude::*, runtime::EngineOptions};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    agent::{TaskCompleted, TaskId},
    broker::{
        Address, Broker, BrokerError, BrokerExt, Group, Health, Mailbox, Publish, Subscription,
    },
    event::{Event, EventId, Payload, Timestamp},
    store::{Append, Fence, Lease, OwnerId, SHARDS, Shard},
};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

use crate::support::{
    faulty::{Fault, FaultyBroker, FaultyStore, holds, store_unavailable},
    workflows::{Doubler, PATIENCE, actions, eventually, result, runtime, sqlite, store},
};

const LEASE: Duration = Duration::from_millis(600);

fn options() -> EngineOptions {
    EngineOptions::new().with_lease_time(LEASE).with_relay(false)
}

async fn wait(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.signal("go").await
}

/// Every event that an engine writes to a run is written under the fence of its shard.
#[tokio::test(flavor = "multi_thread")]
async fn should_append_under_the_fence_of_the_shard() {
    async fn steps(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.step("one", || async { Ok::<_, TaskError>(1) }).await?;
        context.sleep(Duration::from_millis(5)).await?;
        Err("no".into())
    }
    async fn panics(_: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        panic!("no code")
    }
    let faulty = FaultyStore::new(store());
    let seen: Arc<Mutex<Vec<Append>>> = Arc::default();
    let log = Arc::clone(&seen);
    faulty.on_append(move |append| {
        log.lock().unwrap().push(append.clone());
        None
    });
    let store: Arc<dyn Store> = Arc::clone(&faulty) as _;
    let builder = runtime(&store).workflow("steps", steps).workflow("panics", panics);
    let runtime = builder.start().await.unwrap();
    for (name, id) in [("steps", "a"), ("panics", "b")] {
        let run = runtime.start(name, &()).id(id).await.unwrap();
        drop(result::<u32>(&run).await.unwrap_err());
    }
    let leases = store.leases().await.unwrap();
    let fence = |run_id: &str| -> Option<Fence> {
        leases.iter().find(|lease| lease.shard == Shard::of(run_id)).map(|lease| lease.fence())
    };
    let seen = seen.lock().unwrap();
    let written = seen.iter().filter_map(|append| Some((append.stream.run_id()?, append)));
    let by_engine: Vec<_> = written
        .filter(|(_, append)| append.events[0].event_type.action() != "started")
        .map(|(run_id, append)| (append.events[0].event_type.action(), append.fence, fence(run_id)))
        .collect();
    assert!(by_engine.len() >= 5, "{by_engine:?}");
    assert!(by_engine.iter().all(|(_, found, owned)| found.is_some() && found == owned));
}

/// Takes every shard as another engine does after the leases have expired.
async fn take_all(store: &Arc<dyn Store>, time: Duration) -> OwnerId {
    let thief = OwnerId::new("thief");
    let shards: Vec<Shard> = Shard::all().collect();
    let taken = Mutex::new(0);
    eventually("the thief has all shards", || async {
        let leases = store.acquire(&shards, &thief, time).await.unwrap();
        let mut taken = taken.lock().unwrap();
        *taken += leases.len();
        *taken == shards.len()
    })
    .await;
    thief
}

/// The engine cannot renew, and another one takes its shards: it writes nothing more, and releases
/// the runs.
#[tokio::test(flavor = "multi_thread")]
async fn should_give_up_the_runs_of_shards_that_another_engine_took() {
    for inner in [store(), sqlite().await] {
        let (begun, released) = (Arc::new(AtomicU32::new(0)), Arc::new(tokio::sync::Notify::new()));
        let (counted, release) = (Arc::clone(&begun), Arc::clone(&released));
        let slow = move |context: WorkflowContext, (): ()| {
            let (begun, release) = (Arc::clone(&counted), Arc::clone(&release));
            async move {
                let step = || async {
                    begun.fetch_add(1, Ordering::SeqCst);
                    release.notified().await;
                    Ok::<_, TaskError>(1_u32)
                };
                context.step("slow", step).await
            }
        };
        let faulty = FaultyStore::new(Arc::clone(&inner));
        let store: Arc<dyn Store> = Arc::clone(&faulty) as _;
        let builder = runtime(&store).engine_options(options()).workflow("slow", slow.clone());
        let runtime = builder.start().await.unwrap();
        let run = runtime.start("slow", &()).id("r").await.unwrap();
        eventually("the step begins", || async { begun.load(Ordering::SeqCst) == 1 }).await;
        let is_lease = |method: &str| matches!(method, "renew" | "acquire");
        faulty.on_call(move |method| is_lease(method).then(|| Fault::Refuse(store_unavailable())));
        let thief = take_all(&inner, Duration::from_millis(1500)).await;
        faulty.heal();
        released.notify_one();
        // The engine may not have noticed that it lost the shard: the store refuses it.
        #[allow(clippy::disallowed_methods, reason = "nothing must happen meanwhile")]
        tokio::time::sleep(LEASE).await;
        let owned = inner.leases().await.unwrap();
        let mut owned = owned.iter().filter(|lease| lease.shard.is_share());
        if owned.all(|lease| lease.owner == thief) {
            assert_eq!(actions(&run).await, ["started"], "another engine owns the run");
        }
        // The other owner does nothing, so its leases expire; the engine takes the shards again.
        eventually("the step runs again", || async {
            released.notify_one();
            actions(&run).await.len() > 1
        })
        .await;
        assert_eq!(result::<u32>(&run).await.unwrap(), 1);
        assert!(begun.load(Ordering::SeqCst) >= 2, "the first result was not recorded");
        runtime.shutdown(PATIENCE).await.unwrap();
    }
}

/// Reports when it is dropped.
struct Guard(Arc<AtomicU32>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Another owner has one shard of an engine whose other leases are valid. Only the runs of that
/// shard stop, whether the engine learns of it from a renewal or from a refused append.
#[tokio::test(flavor = "multi_thread")]
async fn should_give_up_one_shard_that_another_owner_has() {
    for by_renewal in [true, false] {
        let inner = store();
        let counts = [(); 4].map(|()| Arc::new(AtomicU32::new(0)));
        let [begun, dropped, other_begun, other_dropped] = counts.clone();
        let released = Arc::new(tokio::sync::Semaphore::new(0));
        let release = Arc::clone(&released);
        let slow = move |context: WorkflowContext, is_other: bool| {
            let [a, b, c, d] = counts.clone();
            let (begun, dropped) = if is_other { (c, d) } else { (a, b) };
            let release = Arc::clone(&release);
            async move {
                let step = || async {
                    let _guard = Guard(Arc::clone(&dropped));
                    begun.fetch_add(1, Ordering::SeqCst);
                    release.acquire().await.unwrap().forget();
                    Ok::<_, TaskError>(1_u32)
                };
                context.step("slow", step).await
            }
        };
        // Long enough that no lease expires by the engine's own clock.
        let lease_time = Duration::from_secs(if by_renewal { 15 } else { 3600 });
        let options = options().with_lease_time(lease_time);
        let builder = runtime(&inner).engine_options(options).workflow("slow", slow);
        let runtime = builder.start().await.unwrap();
        let lost = runtime.start("slow", &false).id("lost").await.unwrap();
        let kept = runtime.start("slow", &true).id("kept").await.unwrap();
        for id in ["kept", "other"] {
            assert_ne!(Shard::of("lost"), Shard::of(id));
        }
        let both = || async {
            (begun.load(Ordering::SeqCst), other_begun.load(Ordering::SeqCst)) == (1, 1)
        };
        eventually("both begin", both).await;
        let leases = inner.leases().await.unwrap();
        let is_it = |lease: &aios_core::store::Lease| lease.shard == Shard::of("lost");
        let lease: Vec<_> = leases.into_iter().filter(is_it).collect();
        inner.release(&lease).await.unwrap();
        let (thief, hour) = (OwnerId::new("thief"), Duration::from_secs(3600));
        let taken = inner.acquire(&[Shard::of("lost")], &thief, hour).await.unwrap();
        assert_eq!(taken.len(), 1, "the other owner was faster");
        if !by_renewal {
            released.add_permits(2);
        }
        eventually("its run stops", || async { dropped.load(Ordering::SeqCst) == 1 }).await;
        if by_renewal {
            assert_eq!(other_dropped.load(Ordering::SeqCst), 0, "its step continues");
        }
        released.add_permits(2);
        assert_eq!(result::<u32>(&kept).await.unwrap(), 1);
        // No message about the run starts it here again.
        lost.signal("any", &()).await.unwrap();
        let other = runtime.start("slow", &true).id("other").await.unwrap();
        assert_eq!(result::<u32>(&other).await.unwrap(), 1);
        assert_eq!(begun.load(Ordering::SeqCst), 1, "another engine owns it");
        assert_eq!(actions(&lost).await, ["started", "signaled"]);
        runtime.shutdown(PATIENCE).await.unwrap();
    }
}

/// Another engine has the number of this one, and reads its mailbox. This engine gives up
/// everything that it owns, and joins again under another number.
#[tokio::test(flavor = "multi_thread")]
async fn should_give_up_everything_when_it_loses_its_number() {
    let inner = store();
    let (begun, dropped) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let released = Arc::new(tokio::sync::Semaphore::new(0));
    let (counted, guarded, release) = (begun.clone(), dropped.clone(), released.clone());
    let slow = move |context: WorkflowContext, (): ()| {
        let (begun, dropped, release) = (counted.clone(), guarded.clone(), release.clone());
        async move {
            let step = || async {
                let _guard = Guard(Arc::clone(&dropped));
                begun.fetch_add(1, Ordering::SeqCst);
                release.acquire().await.unwrap().forget();
                Ok::<_, TaskError>(1_u32)
            };
            context.step("slow", step).await
        }
    };
    let options = options().with_lease_time(Duration::from_secs(6));
    let builder = runtime(&inner).engine_options(options).workflow("slow", slow);
    let runtime = builder.start().await.unwrap();
    let run = runtime.start("slow", &()).await.unwrap();
    eventually("the step begins", || async { begun.load(Ordering::SeqCst) == 1 }).await;
    let leases = inner.leases().await.unwrap();
    let is_slot = |lease: &&aios_core::store::Lease| lease.shard.slot_number().is_some();
    let slot: Vec<_> = leases.iter().filter(is_slot).cloned().collect();
    assert_eq!(slot.len(), 1);
    inner.release(&slot).await.unwrap();
    // The other engine advances nothing for a while.
    let (thief, time) = (OwnerId::new("thief"), Duration::from_secs(8));
    assert_eq!(inner.acquire(&[slot[0].shard], &thief, time).await.unwrap().len(), 1);
    eventually("its run stops", || async { dropped.load(Ordering::SeqCst) == 1 }).await;
    released.add_permits(5);
    assert_eq!(result::<u32>(&run).await.unwrap(), 1);
    assert_eq!(begun.load(Ordering::SeqCst), 2, "it began again under the new number");
    let leases = inner.leases().await.unwrap();
    let numbers = leases.iter().filter(is_slot).filter(|lease| lease.owner != thief);
    let numbers: Vec<_> = numbers.map(|lease| lease.shard).collect();
    assert!(numbers.len() == 1 && numbers[0] != slot[0].shard, "{numbers:?}");
    runtime.shutdown(PATIENCE).await.unwrap();
}

async fn nap(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.sleep(LEASE * 2).await?;
    context.step("count", || async { Ok::<_, TaskError>(1) }).await
}

async fn nap_and_ask(context: WorkflowContext, (): ()) -> Result<u64, WorkflowError> {
    nap(context.clone(), ()).await?;
    context.task("doubler", &21_u64).await
}

/// The store and the broker are unreachable. The store comes back first, and there is no other
/// engine: everything that needs no broker continues without it.
#[tokio::test(flavor = "multi_thread")]
async fn should_take_its_shards_again_while_the_broker_is_away() {
    let faulty = FaultyStore::new(store());
    let store: Arc<dyn Store> = Arc::clone(&faulty) as _;
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let builder = runtime(&store).engine_options(options()).broker(Arc::clone(&broker) as _);
    let builder = builder.workflow("nap", nap).workflow("nap_and_ask", nap_and_ask);
    let runtime = builder.agent("doubler", Doubler::default()).start().await.unwrap();
    let rests = runtime.start("nap", &()).await.unwrap();
    let asks = runtime.start("nap_and_ask", &()).await.unwrap();
    let (since, cause) = (Timestamp::MIN, "the server is down".into());
    broker.set_health(Health::Reconnecting { since, cause });
    let is_away = || BrokerError::Timeout { operation: "become reachable", after: LEASE };
    let asked = AtomicBool::new(false);
    broker.on_subscribe(move |_| match asked.swap(true, Ordering::SeqCst) {
        false => Some(Fault::Hang),
        true => Some(Fault::Refuse(is_away())),
    });
    broker.on_publish(move |_| Some(Fault::Refuse(is_away())));
    faulty.on_call(|_| Some(Fault::Refuse(store_unavailable())));
    #[allow(clippy::disallowed_methods, reason = "the leases end meanwhile")]
    tokio::time::sleep(LEASE * 2).await;
    faulty.heal();
    assert_eq!(result::<u32>(&rests).await.unwrap(), 1);
    broker.heal();
    broker.set_health(Health::Connected);
    assert_eq!(result::<u64>(&asks).await.unwrap(), 42);
    runtime.shutdown(PATIENCE).await.unwrap();
}

/// The number of engines that are members.
async fn slots(store: &Arc<dyn Store>) -> usize {
    let leases = store.leases().await.unwrap();
    leases.iter().filter(|lease| lease.shard.slot_number().is_some()).count()
}

/// There is another engine, which may be able to reach the broker.
#[tokio::test(flavor = "multi_thread")]
async fn should_leave_the_shards_to_others_while_it_cannot_reach_the_broker() {
    let inner = store();
    let faulty = FaultyStore::new(Arc::clone(&inner));
    let store: Arc<dyn Store> = Arc::clone(&faulty) as _;
    let memory = Arc::new(MemoryBroker::new());
    let broker = FaultyBroker::new(Arc::new(memory.new_connection()));
    let builder = runtime(&store).engine_options(options()).broker(Arc::clone(&broker) as _);
    let cut_off = builder.workflow("nap", nap).start().await.unwrap();
    let owners = || async {
        let leases = inner.leases().await.unwrap();
        let shares = leases.into_iter().filter(|lease| lease.shard.is_share());
        shares.map(|lease| lease.owner.as_str().to_owned()).collect::<Vec<_>>()
    };
    let first = owners().await.swap_remove(0);
    let (since, cause) = (Timestamp::MIN, "the server is down".into());
    broker.set_health(Health::Reconnecting { since, cause });
    let is_away = || BrokerError::Timeout { operation: "become reachable", after: LEASE };
    broker.on_subscribe(move |_| Some(Fault::Refuse(is_away())));
    faulty.on_call(|_| Some(Fault::Refuse(store_unavailable())));
    // It does not lose its own leases to expiry, however busy the machine is.
    let patient = options().with_lease_time(PATIENCE);
    let builder = runtime(&inner).engine_options(patient).broker(memory as _);
    let other = builder.workflow("nap", nap).start().await.unwrap();
    let is_other = |owners: Vec<String>| {
        owners.len() == Shard::all().count() && owners.iter().all(|owner| *owner != first)
    };
    eventually("the other has all", || async { is_other(owners().await) }).await;
    faulty.heal();
    #[allow(clippy::disallowed_methods, reason = "nothing must happen meanwhile")]
    tokio::time::sleep(LEASE * 2).await;
    assert!(is_other(owners().await));
    assert_eq!(slots(&inner).await, 1, "it is not a member");
    broker.heal();
    broker.set_health(Health::Connected);
    // The other engine hands shards over once it has seen the same engines twice.
    eventually("it joins", || async { slots(&inner).await == 2 }).await;
    cut_off.shutdown(PATIENCE).await.unwrap();
    other.shutdown(PATIENCE).await.unwrap();
}

/// An engine that can't reach the store keeps no answer for itself: its successor needs it.
#[tokio::test(flavor = "multi_thread")]
async fn should_leave_answers_to_others_while_it_cannot_reach_the_store() {
    async fn ask(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.task("ghost", &1).await
    }
    let faulty = FaultyStore::new(store());
    let store: Arc<dyn Store> = Arc::clone(&faulty) as _;
    let memory = MemoryBroker::new();
    let others = memory.new_connection();
    let pattern = "agents.ghost.task_assigned".parse().unwrap();
    let tasks = Subscription::group(Group::new("agents.ghost").unwrap(), [pattern]);
    let mut tasks = others.subscribe(tasks).await.unwrap();
    let builder = runtime(&store).engine_options(options()).broker(Arc::new(memory) as _);
    let runtime = builder.workflow("ask", ask).start().await.unwrap();
    runtime.start("ask", &()).await.unwrap();
    let task = tokio::time::timeout(PATIENCE, tasks.next()).await.unwrap().unwrap().unwrap();
    let mailbox = Mailbox::new(&**task.event.metadata.reply_to.as_ref().unwrap()).unwrap();
    faulty.on_append(|_| Some(Fault::Refuse(store_unavailable())));
    faulty.on_call(|_| Some(Fault::Refuse(store_unavailable())));
    // It is waiting for the store to load the run when the leases end.
    let done = TaskCompleted::new(TaskId::of_run("elsewhere", 1), Payload::encode(&7).unwrap());
    let event_type = "agents.ghost.task_completed".parse().unwrap();
    let answer = Event::new(event_type, "ghost", &done).unwrap().caused_by(&task.event);
    let id = answer.id.clone();
    let publish = Publish::new(answer).with_mailbox(mailbox.clone());
    others.publish_one(publish).await.unwrap();
    let mut successor = others.subscribe(Subscription::mailbox(mailbox)).await.unwrap();
    let left = tokio::time::timeout(PATIENCE, successor.next()).await.expect("it is released");
    assert_eq!(left.unwrap().unwrap().event.id, id);
}

/// A lease outlasts its duration because it is renewed.
#[tokio::test(flavor = "multi_thread")]
async fn should_renew_its_leases() {
    let store = store();
    let lease_time = Duration::from_secs(5);
    let options = options().with_lease_time(lease_time);
    let builder = runtime(&store).engine_options(options).workflow("wait", wait);
    let runtime = builder.start().await.unwrap();
    let run = runtime.start("wait", &()).await.unwrap();
    let epochs = |leases: Vec<aios_core::store::Lease>| -> Vec<_> {
        let shares = leases.into_iter().filter(|lease| lease.shard.is_share());
        shares.map(|lease| (lease.shard, lease.epoch)).collect()
    };
    let before = epochs(store.leases().await.unwrap());
    let thief = OwnerId::new("thief");
    let shards: Vec<Shard> = Shard::all().collect();
    for _ in 0..6 {
        #[allow(clippy::disallowed_methods, reason = "the lease runs out by real time")]
        tokio::time::sleep(lease_time / 4).await;
        assert!(store.acquire(&shards, &thief, lease_time).await.unwrap().is_empty());
    }
    assert_eq!(epochs(store.leases().await.unwrap()), before, "no shard changed hands");
    run.signal("go", &3).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 3);
}

/// The second engine continues the runs of the first, which cannot write any more.
#[tokio::test(flavor = "multi_thread")]
async fn should_continue_in_the_engine_that_took_the_shards() {
    let inner = store();
    let faulty = FaultyStore::new(Arc::clone(&inner));
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
    let store: Arc<dyn Store> = Arc::clone(&faulty) as _;
    let build = |store: &Arc<dyn Store>| {
        let builder = runtime(store).broker(Arc::clone(&broker));
        builder.engine_options(options()).workflow("wait", wait).start()
    };
    let first = build(&store).await.unwrap();
    let mut runs = Vec::new();
    for number in 0..20 {
        runs.push(first.start("wait", &()).id(format!("r{number}")).await.unwrap());
    }
    let is_lease = |method: &str| matches!(method, "renew" | "acquire");
    faulty.on_call(move |method| is_lease(method).then(|| Fault::Refuse(store_unavailable())));
    let second = build(&inner).await.unwrap();
    eventually("the second engine has the shards", || async {
        let mut leases = inner.leases().await.unwrap();
        leases.retain(|lease| lease.shard.is_share());
        let owners: Vec<_> = leases.iter().map(|lease| lease.owner.clone()).collect();
        let held = owners.iter().filter(|owner| **owner == owners[0]).count();
        held == owners.len() && leases.iter().all(|lease| lease.epoch.0 >= 2)
    })
    .await;
    for run in &runs {
        let run = second.handle(run.id()).await.unwrap();
        run.signal("go", &7).await.unwrap();
    }
    for run in &runs {
        // The handle of the first engine finds out too.
        assert_eq!(result::<u32>(run).await.unwrap(), 7);
        assert_eq!(actions(run).await, ["started", "signaled", "completed"]);
    }
}

/// Delays the eviction of a run, once, until the test releases it.
#[derive(Clone)]
struct Gate {
    evicting: tokio::sync::mpsc::UnboundedSender<()>,
    told: Arc<Mutex<std::sync::mpsc::Receiver<()>>>,
    is_armed: Arc<AtomicBool>,
}

impl Drop for Gate {
    fn drop(&mut self) {
        if self.is_armed.swap(false, Ordering::SeqCst) {
            self.evicting.send(()).unwrap();
            self.told.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        }
    }
}

/// The run has decided to leave memory, but has not left it, when the signal arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn should_not_lose_a_signal_to_a_run_that_is_being_evicted() {
    let (evicting, mut evicted) = tokio::sync::mpsc::unbounded_channel();
    let (tell, told) = std::sync::mpsc::channel();
    let is_armed = Arc::new(AtomicBool::new(false));
    let told = Arc::new(Mutex::new(told));
    let gate = Gate { evicting, told, is_armed: Arc::clone(&is_armed) };
    let held = move |context: WorkflowContext, (): ()| {
        let gate = gate.clone();
        async move {
            gate.is_armed.store(true, Ordering::SeqCst);
            let number: u32 = context.signal("go").await?;
            gate.is_armed.store(false, Ordering::SeqCst);
            Ok(number)
        }
    };
    let runtime = runtime(&store()).workflow("held", held).start().await.unwrap();
    let run = runtime.start("held", &()).await.unwrap();
    evicted.recv().await.unwrap();
    run.signal("go", &5).await.unwrap();
    tell.send(()).unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 5);
}

/// Signals that coincide with the eviction of their run at any point.
#[tokio::test(flavor = "multi_thread")]
async fn should_lose_no_message_to_a_run_that_is_being_evicted() {
    async fn pings(context: WorkflowContext, count: u32) -> Result<u32, WorkflowError> {
        let mut sum = 0;
        for _ in 0..count {
            sum += context.signal::<u32>("ping").await?;
        }
        Ok(sum)
    }
    const PINGS: u32 = 60;
    for store in [store(), sqlite().await] {
        let runtime = runtime(&store).workflow("pings", pings).start().await.unwrap();
        let runtime = Arc::new(runtime);
        let mut runs = tokio::task::JoinSet::new();
        for number in 0..16 {
            let runtime = Arc::clone(&runtime);
            runs.spawn(async move {
                let run = runtime.start("pings", &PINGS).await.unwrap();
                for ping in 0..PINGS {
                    run.signal("ping", &1).await.unwrap();
                    // The run is evicted as soon as it waits, and the next signal arrives at that
                    // moment.
                    for _ in 0..(ping * 7 + number) % 23 {
                        tokio::task::yield_now().await;
                    }
                }
                result::<u32>(&run).await.unwrap()
            });
        }
        while let Some(sum) = runs.join_next().await {
            assert_eq!(sum.unwrap(), PINGS);
        }
    }
}

/// The in-memory broker ends with the process, and the store is slow.
#[tokio::test(flavor = "multi_thread")]
async fn should_record_answers_published_before_the_shutdown() {
    const TASKS: u32 = 40;
    #[derive(Clone)]
    struct Slow(Arc<AtomicU32>, Arc<AtomicBool>);
    impl Agent for Slow {
        type Parameters = u32;
        type Output = u32;
        async fn process_task(&self, _: &TaskContext, number: u32) -> Result<u32, TaskError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            eventually("told to answer", || async { self.1.load(Ordering::SeqCst) }).await;
            Ok(number)
        }
    }
    async fn one(context: WorkflowContext, number: u32) -> Result<u32, WorkflowError> {
        context.task("slow", &number).await
    }
    let (faulty, calls, may_answer) =
        (FaultyStore::new(sqlite().await), Arc::default(), Arc::default());
    faulty.on_append(|append| {
        #[allow(clippy::disallowed_methods, reason = "the store takes real time")]
        let slow = || Fault::After(Box::pin(tokio::time::sleep(Duration::from_millis(150))));
        holds(append, "task_completed").then(slow)
    });
    let store: Arc<dyn Store> = faulty;
    let slow = Slow(Arc::clone(&calls), Arc::clone(&may_answer));
    let build = || runtime(&store).agent("slow", slow.clone()).workflow("one", one);
    let before = build().start().await.unwrap();
    let mut ids = Vec::new();
    for number in 0..TASKS {
        ids.push(before.start("one", &number).await.unwrap().id().to_owned());
    }
    eventually("every task runs", || async { calls.load(Ordering::SeqCst) == TASKS }).await;
    may_answer.store(true, Ordering::SeqCst);
    before.shutdown(PATIENCE).await.unwrap();

    let after = build().start().await.unwrap();
    for (number, id) in (0..).zip(&ids) {
        let run = after.handle(id).await.unwrap();
        assert_eq!(result::<u32>(&run).await.unwrap(), number);
    }
    assert_eq!(calls.load(Ordering::SeqCst), TASKS, "no task was done again");
}

/// The store is asked whether the engine still owns the shard before an answer that no attempt
/// awaits is acknowledged. Many such answers share its replies, so that the renewals of the leases
/// never wait for all of them.
#[tokio::test(flavor = "multi_thread")]
async fn should_keep_its_leases_however_many_late_answers_arrive() {
    const ANSWERS: usize = 400;
    async fn task_then_wait(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.task::<u64>("doubler", &1).await?;
        context.signal("go").await
    }
    let faulty = FaultyStore::new(store());
    let store: Arc<dyn Store> = Arc::clone(&faulty) as _;
    let broker = Arc::new(MemoryBroker::new());
    let copies =
        Subscription::group(Group::new("copies").unwrap(), ["agents.doubler.*".parse().unwrap()]);
    let mut copies = broker.subscribe(copies).await.unwrap();
    let options = options().with_lease_time(Duration::from_secs(10));
    let builder = runtime(&store).broker(Arc::clone(&broker) as Arc<dyn Broker>);
    let builder = builder.engine_options(options).workflow("task_then_wait", task_then_wait);
    let engine = builder.agent("doubler", Doubler::default()).start().await.unwrap();
    let run = engine.start("task_then_wait", &()).await.unwrap();
    let (mut mailbox, mut completed) = (None, None);
    while completed.is_none() {
        let delivery = copies.next().await.unwrap().unwrap();
        match delivery.event.event_type.action() {
            "task_assigned" => {
                let name = delivery.event.metadata.reply_to.as_deref().unwrap();
                mailbox = Some(Mailbox::new(name).unwrap());
            }
            "task_completed" => completed = Some(delivery.event.clone()),
            _ => {}
        }
        delivery.ack().await.unwrap();
    }
    let (mailbox, completed) = (mailbox.unwrap(), completed.unwrap());
    eventually("the result is recorded", || async {
        actions(&run).await.contains(&"task_completed".to_owned())
    })
    .await;
    let owned = store.leases().await.unwrap();

    faulty.on_call(|method| {
        #[allow(clippy::disallowed_methods, reason = "the store takes real time")]
        let slow = || Fault::Until(Box::pin(tokio::time::sleep(Duration::from_millis(50))));
        (*method == "renew").then(slow)
    });
    let before = faulty.count("renew");
    for _ in 0..ANSWERS {
        let late = completed.clone().with_id(EventId::generate());
        broker.publish_one(Publish::new(late).with_mailbox(mailbox.clone())).await.unwrap();
    }
    run.signal("go", &7).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
    let letters = broker.dead_letters(&Address::Mailbox(mailbox)).await.unwrap();
    eventually("the answers are read", || async { letters.waiting().await.unwrap() == 0 }).await;
    assert!(faulty.count("renew") - before < ANSWERS / 4, "{}", faulty.count("renew") - before);
    let epochs = |leases: &[Lease]| leases.iter().map(Lease::fence).collect::<Vec<_>>();
    assert_eq!(epochs(&store.leases().await.unwrap()), epochs(&owned), "no lease was lost");
    engine.shutdown(PATIENCE).await.unwrap();
    assert_eq!(letters.waiting().await.unwrap(), 0, "every answer was acknowledged");
}

/// The relay and the slot of the engine have leases, too, which are not shards.
#[test]
fn should_count_the_shards_that_it_owns() {
    let recorder = DebuggingRecorder::new();
    let snapshots = recorder.snapshotter();
    let held = || {
        let metrics = snapshots.snapshot().into_vec().into_iter();
        let mut gauges = metrics.filter(|(key, ..)| key.key().name() == "aios_leases_held");
        match gauges.next() {
            Some((.., DebugValue::Gauge(value))) => Some(value.into_inner()),
            _ => None,
        }
    };
    let check = async {
        let faulty = FaultyStore::new(store());
        let store: Arc<dyn Store> = Arc::clone(&faulty) as _;
        let options = EngineOptions::new().with_lease_time(LEASE);
        let engine = runtime(&store).engine_options(options).start().await.unwrap();
        eventually("it has renewed its leases", || async { faulty.count("renew") > 2 }).await;
        assert!(store.leases().await.unwrap().len() > usize::from(SHARDS), "shards and duties");
        assert_eq!(held(), Some(f64::from(SHARDS)));
        engine.shutdown(PATIENCE).await.unwrap();
        assert_eq!(held(), Some(0.0));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(check));
}
