//! Operations that begin in the code of a workflow and are dropped elsewhere: a replay would not drop
//! them there.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use aios_agents::{prelude::*, testing::WorkflowTest};
use aios_store::sqlite::SqliteStore;
use tokio::sync::oneshot;

use crate::support::workflows::{PATIENCE, actions, eventually, result, runtime, sqlite, store};

type Call = Pin<Box<dyn Future<Output = Result<u64, WorkflowError>> + Send>>;

/// An operation that has begun and does not end.
async fn begun(context: &WorkflowContext, what: &str) -> Call {
    let endless = Duration::from_secs(86_400);
    let mut call: Call = match what {
        "sleep" => {
            let sleep = context.sleep(endless);
            Box::pin(async move { sleep.await.map(|()| 1) })
        }
        "task" => Box::pin(context.task("missing", &1)),
        "signal" => Box::pin(context.signal("never")),
        "signal in time" => Box::pin(context.signal("never").timeout(endless)),
        "child" => Box::pin(context.child("waits", &1)),
        _ => Box::pin(context.run("endless", std::future::pending::<u64>)),
    };
    assert!(futures_util::poll!(&mut call).is_pending());
    call
}

const KINDS: [&str; 6] = ["sleep", "task", "signal", "signal in time", "child", "step"];
const PLACES: [&str; 4] = ["a step", "an attempt", "a task", "a task that asks"];

/// Drops an operation that has begun, once.
async fn drop_in(
    context: &WorkflowContext,
    operation: Call,
    place: &str,
) -> Result<(), WorkflowError> {
    match place {
        "a step" => {
            let held = Mutex::new(Some(operation));
            let drops = async || drop(held.lock().unwrap().take());
            context.run("drops", drops).await
        }
        "an attempt" => {
            let mut held = Some(operation);
            let awaits = move || {
                let operation = held.take();
                async move {
                    let Some(operation) = operation else { return Ok(0) };
                    operation.await
                }
            };
            context.step("awaits", awaits).await.map(|_: u64| ())
        }
        _ => {
            let (sender, dropped) = oneshot::channel::<()>();
            let asks = place == "a task that asks";
            tokio::spawn(async move {
                match asks {
                    true => drop(operation.await),
                    false => drop(operation),
                }
                drop(sender);
            });
            // Keeps the run in memory until then.
            let dropped = Mutex::new(Some(dropped));
            let waits = || {
                let dropped = dropped.lock().unwrap().take();
                async move {
                    if let Some(dropped) = dropped {
                        let _ = dropped.await;
                    }
                }
            };
            context.run("waits", waits).await
        }
    }
}

/// Drops an operation in a place of its own, or where it belongs.
async fn dropping(
    context: WorkflowContext,
    (what, place): (String, String),
    is_repaired: bool,
) -> Result<u64, WorkflowError> {
    let operation = begun(&context, &what).await;
    match is_repaired {
        true => drop(operation),
        false => drop_in(&context, operation, &place).await?,
    }
    context.signal("go").await
}

async fn waits(context: WorkflowContext, _: u64) -> Result<u64, WorkflowError> {
    context.signal("never").await
}

async fn start(store: &Arc<dyn Store>, is_repaired: bool) -> Runtime {
    let code = move |context, input| dropping(context, input, is_repaired);
    runtime(store).workflow("dropping", code).workflow("waits", waits).start().await.unwrap()
}

/// Waits until a run is blocked for an operation that was dropped elsewhere.
async fn is_blocked(run: &RunHandle, kind: &str) {
    let error = result::<u64>(run).await.unwrap_err();
    assert_eq!(error.code(), "RUN_BLOCKED", "{kind}: {error:?}");
    let failure = error.failure().unwrap();
    assert_eq!(failure.code, WorkflowError::OUTSIDE, "{kind}");
    assert!(failure.message.starts_with("operation 1 had begun and was dropped"), "{failure}");
}

async fn blocks(run: &RunHandle) -> usize {
    actions(run).await.iter().filter(|action| *action == "blocked").count()
}

/// Blocks the runs at once, neither unblocks nor repeats them, and ends them with repaired code.
async fn should_block(store: Arc<dyn Store>) {
    let before = start(&store, false).await;
    let ids = KINDS.map(|what| PLACES.map(|place| (what, place))).concat();
    for (what, place) in &ids {
        let id = format!("{what} in {place}");
        let run = before.start("dropping", &(what, place)).id(&id).await.unwrap();
        is_blocked(&run, &id).await;
        for _ in 0..3 {
            run.signal("other", &1).await.unwrap();
            is_blocked(&run, &id).await;
        }
        assert_eq!(blocks(&run).await, 1, "{id}: {:?}", actions(&run).await);
    }
    before.shutdown(PATIENCE).await.unwrap();

    let again = start(&store, false).await;
    for (what, place) in &ids {
        let id = format!("{what} in {place}");
        let run = again.handle(&id).await.unwrap();
        run.signal("other", &1).await.unwrap();
        eventually("it fails in the same way", || async { blocks(&run).await == 2 }).await;
        is_blocked(&run, &id).await;
    }
    again.shutdown(PATIENCE).await.unwrap();

    let repaired = start(&store, true).await;
    for (what, place) in &ids {
        let id = format!("{what} in {place}");
        let run = repaired.handle(&id).await.unwrap();
        run.signal("go", &7).await.unwrap();
        assert_eq!(result::<u64>(&run).await.unwrap(), 7, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_block_a_run_whose_operation_is_dropped_outside_of_its_code() {
    should_block(store()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_block_a_run_whose_operation_is_dropped_outside_of_its_code_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("runs.db").display());
    should_block(Arc::new(SqliteStore::connect(&url).await.unwrap())).await;
}

#[tokio::test]
async fn should_say_in_a_test_that_an_operation_is_dropped_outside_of_the_code() {
    for what in KINDS.into_iter().filter(|what| *what != "step") {
        for place in ["a step", "an attempt"] {
            let code = |context, input| dropping(context, input, false);
            let test = WorkflowTest::new("dropping", code).unwrap();
            let test = test.signal(Duration::from_secs(1), "go", &7);
            let ended = test.run(&(what, place)).await.result::<u64>();
            assert_eq!(ended.unwrap_err().code(), WorkflowError::OUTSIDE, "{what} in {place}");
        }
    }
}

/// An operation that is dropped after the code has returned changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn should_end_runs_that_leave_operations_to_others() {
    type Left = Arc<Mutex<Vec<Call>>>;
    let (left, dropped) = (Left::default(), Arc::new(AtomicBool::new(false)));
    let (lends, is_dropped) = (Arc::clone(&left), Arc::clone(&dropped));
    let code = move |context: WorkflowContext, ()| {
        let (left, is_dropped) = (Arc::clone(&lends), Arc::clone(&is_dropped));
        async move {
            let operation = begun(&context, "sleep").await;
            left.lock().unwrap().push(operation);
            // Runs at the end, when the code has returned.
            context.compensate("undo", move |context| async move {
                is_dropped.store(true, Ordering::SeqCst);
                context.signal("undone").await
            });
            Ok(7)
        }
    };
    let runtime = runtime(&sqlite().await).workflow("lends", code).start().await.unwrap();
    let run = runtime.start("lends", &()).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 7);
    drop(std::mem::take(&mut *left.lock().unwrap()));
    assert_eq!(run.status().await.unwrap().status.as_str(), "completed");
    assert!(!dropped.load(Ordering::SeqCst));
}

/// A step gets an operation that has not begun: it is refused there, and nothing is abandoned.
#[tokio::test(flavor = "multi_thread")]
async fn should_keep_an_operation_that_begins_after_a_step_has_polled_it() {
    let polls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&polls);
    let code = move |context: WorkflowContext, ()| {
        let polls = Arc::clone(&counted);
        async move {
            let signal = Mutex::new(context.signal::<u64>("go"));
            let polled = || {
                polls.fetch_add(1, Ordering::SeqCst);
                let mut signal = signal.lock().unwrap();
                let mut polled = Context::from_waker(Waker::noop());
                let refused = Pin::new(&mut *signal).poll(&mut polled);
                std::future::ready(matches!(refused, Poll::Ready(Err(_))))
            };
            assert!(context.run("polls", polled).await?);
            signal.into_inner().unwrap().await
        }
    };
    let store = store();
    let before = runtime(&store).workflow("polls", code.clone()).start().await.unwrap();
    let run = before.start("polls", &()).id("p").await.unwrap();
    eventually("it was polled", || async { actions(&run).await.len() == 2 }).await;
    before.shutdown(PATIENCE).await.unwrap();
    let after = runtime(&store).workflow("polls", code).start().await.unwrap();
    let run = after.handle("p").await.unwrap();
    run.signal("go", &7).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 7);
    assert_eq!(polls.load(Ordering::SeqCst), 1);
}

/// A waker that holds an operation, whose destructor comes back to the run.
struct Holding {
    code: Waker,
    _operation: Mutex<Call>,
}

impl Wake for Holding {
    fn wake(self: Arc<Self>) {
        self.code.wake_by_ref();
    }
}

/// The code replaces the waker, so the operation is dropped in its turn, after the locks of the run.
#[tokio::test(flavor = "multi_thread")]
async fn should_drop_an_operation_that_a_replaced_waker_holds() {
    let code = |context: WorkflowContext, ()| async move {
        let mut signal = context.signal::<u64>("go");
        let mut held = Some(begun(&context, "sleep").await);
        poll_fn(|context| {
            if let Some(operation) = held.take() {
                let code = context.waker().clone();
                let holding = Holding { code, _operation: Mutex::new(operation) };
                let waker = Waker::from(Arc::new(holding));
                let polled = Pin::new(&mut signal).poll(&mut Context::from_waker(&waker));
                assert!(polled.is_pending());
            }
            Pin::new(&mut signal).poll(context)
        })
        .await
    };
    let runtime = runtime(&store()).workflow("holds", code).start().await.unwrap();
    let run = runtime.start("holds", &()).await.unwrap();
    run.signal("go", &7).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 7);
}
