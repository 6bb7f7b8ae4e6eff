//! Engines with different workflows on one store: every run is advanced by one that has its code.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::{
    prelude::*,
    runtime::{EngineOptions, RuntimeBuilder},
};
use aios_broker::memory::MemoryBroker;
use aios_core::store::{PageRequest, RunFilter, RunStatus, SHARDS, Shard};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

use crate::support::{
    faulty::{Fault, FaultyStore, store_unavailable},
    workflows::{Doubler, PATIENCE, actions, eventually, result, sqlite, store},
};

/// Long enough that nothing happens because of time within a test.
const FOREVER: Duration = Duration::from_secs(3000);
/// For tests in which engines lose their leases. A slow machine may lose them earlier.
const SHORT: Duration = Duration::from_millis(600);
/// For tests in which shards move and no engine may lose its lease, even on a slow machine.
const STEADY: Duration = Duration::from_secs(6);

/// The parts that the engines of a test share.
struct Fleet {
    store: Arc<dyn Store>,
    broker: Arc<MemoryBroker>,
    lease_time: Duration,
}

impl Fleet {
    fn new(store: Arc<dyn Store>, lease_time: Duration) -> Self {
        Self { store, broker: Arc::new(MemoryBroker::new()), lease_time }
    }

    fn builder(&self) -> RuntimeBuilder {
        let (lease_time, relay) = (self.lease_time, false);
        let options = EngineOptions::new().with_lease_time(lease_time).with_relay(relay);
        Runtime::builder()
            .store(Arc::clone(&self.store))
            .broker(Arc::clone(&self.broker) as _)
            .engine_options(options)
    }

    /// How many engines own shards.
    async fn owners(&self) -> usize {
        let leases = self.store.leases().await.unwrap().into_iter();
        let shares = leases.filter(|lease| lease.shard.is_share());
        shares.map(|lease| lease.owner.as_str().to_owned()).collect::<BTreeSet<_>>().len()
    }

    async fn owned_by(&self, engines: usize) {
        eventually("the engines share the shards", || async { self.owners().await == engines })
            .await;
    }
}

/// One id for each shard.
fn ids(prefix: &str) -> Vec<String> {
    let of = |shard| {
        let mut names = (0..).map(|number| format!("{prefix}-{number}"));
        names.find(|id| Shard::of(id) == shard).unwrap()
    };
    Shard::all().map(of).collect()
}

/// Uses each kind of operation: a step, an agent and a signal.
async fn work(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
    let one: u64 = context.step("one", || async { Ok::<_, TaskError>(1) }).await?;
    let twice: u64 = context.task("doubler", &number).await?;
    let signal: u64 = context.signal("go").await?;
    Ok(one + twice + signal)
}

async fn wait(context: WorkflowContext, (): ()) -> Result<u64, WorkflowError> {
    context.signal("go").await
}

async fn moves(run: &RunHandle) -> usize {
    actions(run).await.iter().filter(|action| *action == "moved").count()
}

async fn moved(run: &RunHandle, count: usize) {
    eventually("the run moves", || async { moves(run).await == count }).await;
}

async fn status(run: &RunHandle) -> (RunStatus, Option<Failure>) {
    let row = run.status().await.unwrap();
    (row.status, row.failure)
}

async fn blocked(run: &RunHandle, code: &str) -> Failure {
    eventually("the run is blocked", || async { status(run).await.0 == RunStatus::Blocked }).await;
    let failure = status(run).await.1.unwrap();
    assert_eq!(failure.code, code);
    failure
}

async fn continues(run: &RunHandle) {
    eventually("the run continues", || async { status(run).await.0 != RunStatus::Blocked }).await;
}

/// The result of a run that is blocked while no engine has its code.
async fn final_result(run: &RunHandle) -> u64 {
    eventually("the run completes", || async { status(run).await.0 == RunStatus::Completed }).await;
    result(run).await.unwrap()
}

/// The engine of a parent has no code for the child.
#[tokio::test(flavor = "multi_thread")]
async fn should_start_a_child_whose_workflow_only_another_engine_has() {
    async fn order(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
        context.child("invoice", &number).await
    }
    async fn invoice(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
        context.run("add", || async { number + 1 }).await
    }
    let fleet = Fleet::new(store(), STEADY);
    let orders = fleet.builder().workflow("order", order).start().await.unwrap();
    let invoices = fleet.builder().workflow("invoice", invoice).start().await.unwrap();
    fleet.owned_by(2).await;
    for (number, id) in (0..).zip(ids("order")) {
        let run = orders.start("order", &number).id(id).await.unwrap();
        assert_eq!(result::<u64>(&run).await.unwrap(), number + 1);
    }
    invoices.shutdown(PATIENCE).await.unwrap();
    // The child waits until an engine has its code again.
    let run = orders.start("order", &1).id("late").await.unwrap();
    let child = RunFilter { workflow: Some("invoice".to_owned()), ..RunFilter::default() };
    let child = RunFilter { statuses: vec![RunStatus::Blocked], ..child };
    eventually("the child is blocked", || async {
        fleet.store.runs(&child, &PageRequest::default()).await.unwrap().rows.len() == 1
    })
    .await;
    let _invoices = fleet.builder().workflow("invoice", invoice).start().await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 2);
}

/// Old engines lack the new workflow and new engines lack the old one, as in the middle of a
/// deployment. Each engine owns shards with runs of both.
async fn check_deployment(stores: [Arc<dyn Store>; 2]) {
    let [first, second] = stores;
    let fleet = Fleet::new(first, STEADY);
    let build = |name| fleet.builder().workflow(name, work).agent("doubler", Doubler::default());
    let old = build("old").start().await.unwrap();
    let new = build("new").store(second).start().await.unwrap();
    fleet.owned_by(2).await;
    let mut runs = Vec::new();
    for (number, (a, b)) in (0..).zip(ids("a").into_iter().zip(ids("b"))) {
        runs.push((number, old.start("old", &number).id(a).await.unwrap()));
        runs.push((number, new.start("new", &number).id(b).await.unwrap()));
    }
    for (_, run) in &runs {
        // From a process that may not have the code.
        old.handle(run.id()).await.unwrap().signal("go", &5).await.unwrap();
    }
    let mut moved = 0;
    for (number, run) in &runs {
        assert_eq!(result::<u64>(run).await.unwrap(), 1 + 2 * number + 5);
        let actions = actions(run).await;
        assert!(!actions.iter().any(|action| action == "blocked"), "{actions:?}");
        assert_eq!(actions.iter().filter(|action| *action == "step_completed").count(), 1);
        moved += usize::from(actions.iter().any(|action| action == "moved"));
    }
    assert!(moved >= usize::from(SHARDS) / 2, "{moved} of {} runs moved", runs.len());
    old.shutdown(PATIENCE).await.unwrap();
    new.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_advance_every_run_while_engines_have_different_workflows() {
    for store in [store(), sqlite().await] {
        check_deployment([Arc::clone(&store), store]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_advance_every_run_while_engines_have_different_workflows_on_postgresql() {
    let Some(server) = PostgresServer::shared() else { return };
    let schema = format!("t{}", aios_core::event::EventId::generate().to_string().replace('-', ""));
    let connect = || async {
        let options = PostgresOptions::new(&server.url()).with_schema(&schema);
        let store = PostgresStore::connect_with(options.with_max_connections(4)).await.unwrap();
        Arc::new(store) as Arc<dyn Store>
    };
    check_deployment([connect().await, connect().await]).await;
}

/// The code of a run is also looked up by version.
#[tokio::test(flavor = "multi_thread")]
async fn should_move_a_run_to_an_engine_that_has_its_version() {
    let fleet = Fleet::new(store(), FOREVER);
    let build = |version: u32| {
        let code = move |context: WorkflowContext, (): ()| async move {
            let signal: u32 = context.signal("go").await?;
            Ok::<_, WorkflowError>(version * 10 + signal)
        };
        fleet.builder().workflow_version("versioned", version, code).start()
    };
    let (old, new) = (build(1).await.unwrap(), build(2).await.unwrap());
    // The old engine owns every shard.
    let (of_old, of_new) = (old.start("versioned", &()), new.start("versioned", &()));
    let (of_old, of_new) = (of_old.await.unwrap(), of_new.await.unwrap());
    of_old.signal("go", &1).await.unwrap();
    of_new.signal("go", &2).await.unwrap();
    assert_eq!(result::<u32>(&of_old).await.unwrap(), 11);
    assert_eq!(result::<u32>(&of_new).await.unwrap(), 22);
    assert_eq!((moves(&of_old).await, moves(&of_new).await), (0, 1));
}

/// No engine has the code: the run reports this, and continues once an engine with the code joins.
#[test]
fn should_report_that_no_engine_has_a_workflow_until_one_joins() {
    let recorder = DebuggingRecorder::new();
    let snapshots = recorder.snapshotter();
    let unhosted = || {
        let gauges = snapshots.snapshot().into_vec().into_iter();
        let of_workflow = gauges.filter(|(key, ..)| {
            key.key().name() == "aios_runs_unhosted"
                && key.key().labels().any(|label| label.value() == "late")
        });
        let mut values = of_workflow.filter_map(|(_, _, _, value)| match value {
            DebugValue::Gauge(value) => Some(value.into_inner()),
            _ => None,
        });
        values.next()
    };
    let check = async {
        let fleet = Fleet::new(Arc::new(aios_store::memory::MemoryStore::new()), SHORT);
        let build = || fleet.builder().workflow("late", wait).start();
        let gone = build().await.unwrap();
        let run = gone.start("late", &()).id("r").await.unwrap();
        gone.shutdown(PATIENCE).await.unwrap();
        let old = fleet.builder().workflow("other", wait).start().await.unwrap();
        let run = old.handle(run.id()).await.unwrap();
        let failure = blocked(&run, "WORKFLOW_NOT_FOUND").await;
        assert!(failure.message.contains("no workflow late of version 1"), "{failure}");
        assert!(failure.message.contains("no engine has code for the run"), "{failure}");
        assert_eq!(unhosted(), Some(1.0));
        run.signal("go", &7).await.unwrap();
        let late = build().await.unwrap();
        continues(&run).await;
        assert_eq!(result::<u64>(&run).await.unwrap(), 7);
        assert_eq!(unhosted(), Some(0.0));
        drop((old, late));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(check));
}

/// The engine that a run was moved to dies: the owner of the shard moves the run to the next one.
#[tokio::test(flavor = "multi_thread")]
async fn should_move_a_run_again_whose_engine_died() {
    let fleet = Fleet::new(store(), SHORT);
    let old = fleet.builder().workflow("other", wait).start().await.unwrap();
    let faulty = FaultyStore::new(Arc::clone(&fleet.store));
    let dying = fleet.builder().workflow("new", wait).store(Arc::clone(&faulty) as _);
    let dying = dying.start().await.unwrap();
    fleet.owned_by(2).await;
    let mut runs = Vec::new();
    for id in ids("r") {
        runs.push(dying.start("new", &()).id(id).await.unwrap());
    }
    let mut guests = Vec::new();
    for run in runs {
        eventually("it waits", || async {
            let actions = actions(&run).await;
            actions.iter().any(|action| action == "moved") || actions == ["started"]
        })
        .await;
        guests.push(old.handle(run.id()).await.unwrap());
    }
    eventually("half of them move", || async {
        let mut count = 0;
        for run in &guests {
            count += moves(run).await;
        }
        count >= 32
    })
    .await;
    faulty.on_call(|_| Some(Fault::Refuse(store_unavailable())));
    faulty.on_append(|_| Some(Fault::Refuse(store_unavailable())));
    let next = fleet.builder().workflow("new", wait).start().await.unwrap();
    for run in &guests {
        run.signal("go", &3).await.unwrap();
    }
    for run in &guests {
        assert_eq!(final_result(run).await, 3);
    }
    drop((old, dying, next));
}

/// The answers to an engine's renewals are lost, so it stops its runs when its leases end, while all other
/// engines see that it has them. It joins again, and must not be taken for the engine that still knows
/// the runs which were moved to it.
#[tokio::test(flavor = "multi_thread")]
async fn should_advance_moved_runs_whose_engine_lost_its_leases_and_joined_again() {
    let fleet = Fleet::new(store(), SHORT * 3);
    let old = fleet.builder().workflow("other", wait).start().await.unwrap();
    let faulty = FaultyStore::new(Arc::clone(&fleet.store));
    let host = fleet.builder().workflow("new", wait).store(Arc::clone(&faulty) as _);
    let host = host.start().await.unwrap();
    fleet.owned_by(2).await;
    let mut runs = Vec::new();
    for id in ids("r") {
        runs.push(host.start("new", &()).id(id).await.unwrap());
    }
    eventually("half of them move", || async {
        let mut count = 0;
        for run in &runs {
            count += moves(run).await;
        }
        count >= 32
    })
    .await;
    let acquired = faulty.count("acquire");
    faulty.on_call(|method| (*method == "renew").then(|| Fault::LoseResponse(store_unavailable())));
    eventually("the engine joins again", || async { faulty.count("acquire") > acquired }).await;
    faulty.heal();
    for run in &runs {
        run.signal("go", &3).await.unwrap();
    }
    for run in &runs {
        assert_eq!(final_result(run).await, 3);
    }
    drop((old, host));
}

/// Other engines see a guest lease as soon as the store has it, and its engine once the store has answered.
#[tokio::test(flavor = "multi_thread")]
async fn should_advance_a_run_that_was_moved_to_it_before_it_knew_its_lease() {
    let fleet = Fleet::new(store(), STEADY);
    let old = fleet.builder().workflow("other", wait).start().await.unwrap();
    let faulty = FaultyStore::new(Arc::clone(&fleet.store));
    let host = fleet.builder().workflow("new", wait).store(Arc::clone(&faulty) as _);
    let host = host.start().await.unwrap();
    fleet.owned_by(2).await;
    // The first shard stays with the first engine.
    let run = host.start("new", &()).id(&ids("r")[0]).await.unwrap();
    moved(&run, 1).await;
    let (store, gate) = (Arc::clone(&fleet.store), Arc::new(tokio::sync::Semaphore::new(0)));
    let answered = Arc::clone(&gate);
    faulty.on_call(move |method| {
        let (store, answered) = (Arc::clone(&store), Arc::clone(&answered));
        (*method == "acquire").then(|| {
            Fault::Until(Box::pin(async move {
                let leases = store.leases().await.unwrap();
                if leases.iter().any(|lease| lease.owner.as_str().ends_with("#1")) {
                    answered.acquire().await.unwrap().forget();
                }
            }))
        })
    });
    let leases = fleet.store.leases().await.unwrap().into_iter();
    let of_host = [Shard::slot(1), Shard::guests(1)];
    let lost: Vec<_> = leases.filter(|lease| of_host.contains(&lease.shard)).collect();
    fleet.store.release(&lost).await.unwrap();
    moved(&run, 2).await;
    // The first scan may have begun before the move, the second one has not.
    for _ in 0..2 {
        let scans = faulty.count("wait_for");
        run.signal("unheard", &()).await.unwrap();
        eventually("the log is read", || async { faulty.count("wait_for") > scans }).await;
    }
    gate.add_permits(1000);
    run.signal("go", &3).await.unwrap();
    assert_eq!(final_result(&run).await, 3);
    drop((old, host));
}

/// An engine that stops returns the runs that were moved to it as soon as their steps end.
#[tokio::test(flavor = "multi_thread")]
async fn should_give_moved_runs_back_when_it_stops() {
    let begun = Arc::new(AtomicU32::new(0));
    let (count, opened) = (Arc::clone(&begun), Arc::new(tokio::sync::Semaphore::new(0)));
    let gate = Arc::clone(&opened);
    let gated = move |context: WorkflowContext, (): ()| {
        let (count, gate) = (Arc::clone(&count), Arc::clone(&gate));
        async move {
            let step = || async {
                count.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.map(drop).map_err(TaskError::from)
            };
            context.step("gate", step).await?;
            context.signal::<u64>("go").await
        }
    };
    let fleet = Fleet::new(store(), FOREVER);
    let old = fleet.builder().workflow("other", wait).start().await.unwrap();
    let stopping = fleet.builder().workflow("gated", gated.clone()).start().await.unwrap();
    let run = stopping.start("gated", &()).id("r").await.unwrap();
    eventually("the step begins", || async { begun.load(Ordering::SeqCst) == 1 }).await;
    assert_eq!(moves(&run).await, 1);
    let next = fleet.builder().workflow("gated", gated).start().await.unwrap();
    let stopping = tokio::spawn(stopping.shutdown(PATIENCE));
    eventually("the engine is no member", || async {
        let leases = fleet.store.leases().await.unwrap();
        leases.iter().filter(|lease| lease.shard.slot_number().is_some()).count() == 2
    })
    .await;
    opened.add_permits(1);
    stopping.await.unwrap().unwrap();
    let run = old.handle(run.id()).await.unwrap();
    run.signal("go", &4).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 4);
    assert_eq!(begun.load(Ordering::SeqCst), 1, "the step was recorded by the engine that stopped");
    drop((old, next));
}

/// The owner of the shard changes, and the new one has no code either: the run stays where it is.
#[tokio::test(flavor = "multi_thread")]
async fn should_leave_a_run_where_it_was_moved_while_its_shard_changes_hands() {
    async fn stepped(context: WorkflowContext, (): ()) -> Result<u64, WorkflowError> {
        context.step("first", || async { Ok::<_, TaskError>(()) }).await?;
        context.signal("go").await
    }
    let fleet = Fleet::new(store(), FOREVER);
    let first = fleet.builder().workflow("other", wait).start().await.unwrap();
    let host = fleet.builder().workflow("new", stepped).start().await.unwrap();
    let runs = [host.start("new", &()).id("r1"), host.start("new", &()).id("r2")];
    let [one, two] = runs;
    let (one, two) = (one.await.unwrap(), two.await.unwrap());
    moved(&one, 1).await;
    moved(&two, 1).await;
    let second = fleet.builder().workflow("other", wait).start().await.unwrap();
    first.shutdown(PATIENCE).await.unwrap();
    fleet.owned_by(2).await;
    let one = second.handle(one.id()).await.unwrap();
    one.signal("go", &1).await.unwrap();
    assert_eq!(result::<u64>(&one).await.unwrap(), 1);
    // Commands reach it as well.
    two.pause().await.unwrap();
    two.signal("go", &2).await.unwrap();
    two.resume().await.unwrap();
    assert_eq!(result::<u64>(&two).await.unwrap(), 2);
    assert_eq!((moves(&one).await, moves(&two).await), (1, 1));
    // A fork is a separate run.
    let fork = two.fork(1, "fork").await.unwrap();
    fork.signal("go", &3).await.unwrap();
    assert_eq!(result::<u64>(&fork).await.unwrap(), 3);
    drop((second, host));
}

/// Follows version 2 of a change, as far as it knows one.
fn changed(
    newest: u32,
) -> impl Fn(WorkflowContext, ()) -> futures_util::future::BoxFuture<'static, Result<u32, WorkflowError>>
+ Send
+ Sync
+ 'static {
    move |context, ()| {
        Box::pin(async move {
            let version = context.version("change", 1..=newest)?;
            let signal: u32 = context.signal("go").await?;
            Ok(version * 10 + signal)
        })
    }
}

/// A run follows a version of a change that not every engine knows: it continues where the version
/// is known.
#[tokio::test(flavor = "multi_thread")]
async fn should_move_a_run_to_an_engine_that_knows_its_version_of_a_change() {
    for fleet in [Fleet::new(store(), STEADY), Fleet::new(sqlite().await, STEADY)] {
        let new = fleet.builder().workflow("changed", changed(2)).start().await.unwrap();
        let mut runs = Vec::new();
        for id in ids("r") {
            runs.push(new.start("changed", &()).id(id).await.unwrap());
        }
        for run in &runs {
            eventually("it waits", || async { actions(run).await.len() >= 2 }).await;
        }
        let old = fleet.builder().workflow("changed", changed(1)).start().await.unwrap();
        fleet.owned_by(2).await;
        let (last, others) = runs.split_last().unwrap();
        for run in others {
            run.signal("go", &1).await.unwrap();
        }
        for run in others {
            assert_eq!(result::<u32>(run).await.unwrap(), 21);
            assert!(!actions(run).await.contains(&"blocked".to_owned()));
        }
        // No engine knows it any more: the run waits, and does not fail.
        let last = old.handle(last.id()).await.unwrap();
        new.shutdown(PATIENCE).await.unwrap();
        fleet.owned_by(1).await;
        last.signal("go", &2).await.unwrap();
        let failure = blocked(&last, "UNKNOWN_VERSION").await;
        assert!(failure.message.contains("no engine has code for the run"), "{failure}");
        let new = fleet.builder().workflow("changed", changed(3)).start().await.unwrap();
        continues(&last).await;
        assert_eq!(result::<u32>(&last).await.unwrap(), 22);
        drop((old, new));
    }
}
