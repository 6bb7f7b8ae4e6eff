//! Unusual workflows, restarted after every few entries. Whatever the branches of a run share, each
//! execution sees what earlier ones saw, and every prefix of the journal replays to a prefix of
//! that.

use std::{
    fmt::Display,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, ThreadId},
    time::Duration,
};

use aios_agents::{
    prelude::*,
    testing::replay,
    workflow::{FnWorkflow, race},
};
use futures_util::{
    FutureExt, StreamExt,
    future::{join_all, select_all},
    stream::{self, FuturesOrdered, FuturesUnordered},
};
use tokio::sync::{Barrier, Notify, Semaphore, broadcast, mpsc, oneshot, watch};

use crate::support::workflows::{PATIENCE, eventually, result, runtime, sqlite, store};

type Ended<T = ()> = Result<T, WorkflowError>;
type Code = Pin<Box<dyn Future<Output = Ended> + Send>>;

/// A run's context, and the values that this execution of its code has seen.
#[derive(Clone)]
struct Odd {
    context: WorkflowContext,
    execution: usize,
    seen: Arc<Seen>,
}

/// The values that each execution of a run's code has seen. One engine executes the code again
/// whenever it loads the run, for example because its lease has expired.
#[derive(Default)]
struct Seen(Mutex<Vec<Vec<String>>>);

impl Seen {
    /// Begins an execution and returns its index.
    fn begin(&self) -> usize {
        let mut executions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        executions.push(Vec::new());
        executions.len() - 1
    }

    fn push(&self, execution: usize, value: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[execution].push(value);
    }

    fn executions(&self) -> Vec<Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Odd {
    fn note(&self, what: impl Display) {
        self.seen.push(self.execution, format!("{what} at {}", self.context.now()));
    }

    async fn step(&self, number: u64) -> Ended<u64> {
        let value = self.context.run("step", move || async move { number }).await?;
        self.note(format_args!("step {number} recorded {value}"));
        Ok(value)
    }

    /// A step whose code yields, so that it wakes the workflow more often than a replay does.
    async fn slow(&self, number: u64) -> Ended<u64> {
        let code = move || async move {
            for _ in 0..number % 4 {
                tokio::task::yield_now().await;
            }
            pause(number % 5).await;
            number
        };
        let value = self.context.run("slow", code).await?;
        self.note(format_args!("slow {number} recorded {value}"));
        Ok(value)
    }

    /// A step whose code another thread wakes all the time.
    async fn storm(&self, number: u64) -> Ended<u64> {
        let value = self.context.run("storm", move || storm(number)).await?;
        self.note(format_args!("storm {number} recorded {value}"));
        Ok(value)
    }

    async fn sleep(&self, millis: u64) -> Ended {
        self.context.sleep(Duration::from_millis(millis)).await?;
        self.note(format_args!("slept {millis}"));
        Ok(())
    }
}

#[allow(clippy::disallowed_methods, reason = "the code of a step waits for something real")]
async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Ends after some milliseconds, during which another thread wakes its task all the time.
async fn storm(number: u64) -> u64 {
    let storm = Storm(Arc::default());
    let mut ends = Box::pin(pause(8));
    let mut is_begun = false;
    std::future::poll_fn(|context| {
        if !std::mem::replace(&mut is_begun, true) {
            let is_over = Arc::clone(&storm.0);
            let waker = context.waker().clone();
            thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    waker.wake_by_ref();
                }
            });
        }
        ends.as_mut().poll(context)
    })
    .await;
    number
}

/// Ends its thread when it is dropped.
struct Storm(Arc<AtomicBool>);

impl Drop for Storm {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Signals and timers until a deadline.
async fn loop_of_selects(odd: &Odd) -> Ended {
    let mut deadline = odd.context.sleep(Duration::from_millis(150));
    let mut tick = odd.context.sleep(Duration::from_millis(5));
    let mut slow = Box::pin(odd.slow(7));
    let mut is_slow = true;
    loop {
        aios_agents::select! {
            _ = &mut deadline => break,
            _ = &mut tick => {
                odd.note("tick");
                tick = odd.context.sleep(Duration::from_millis(20));
            },
            item = odd.context.signal::<u64>("go") => {
                odd.note(format_args!("item {}", item?));
                odd.slow(2).await?;
            },
            ended = &mut slow, if is_slow => {
                ended?;
                is_slow = false;
            },
        }
    }
    Ok(())
}

/// Losers of a race are awaited again.
async fn losers(odd: &Odd) -> Ended {
    let mut running: Vec<_> = (0..6).map(|n| Box::pin(odd.slow(n * 3 + 1))).collect();
    while !running.is_empty() {
        let (winner, ended) = race(running.iter_mut()).await;
        odd.note(format_args!("winner {winner} {}", ended?));
        drop(running.swap_remove(winner));
    }
    let mut signal = odd.context.signal::<u64>("go");
    for _ in 0..3 {
        let lost = race([odd.sleep(3).boxed(), (&mut signal).map(|_| Ok(())).boxed()]).await;
        odd.note(lost.0);
        if lost.0 == 1 {
            break;
        }
    }
    Ok(())
}

/// Hundreds of branches behind one lock.
async fn locks(odd: &Odd) -> Ended {
    let (gate, lock) = (Semaphore::new(3), tokio::sync::Mutex::new(0_u64));
    let branch = |number: u64| {
        let (gate, lock) = (&gate, &lock);
        async move {
            let permit = gate.acquire().await?;
            let mut sum = lock.lock().await;
            *sum += number;
            if number.is_multiple_of(50) {
                odd.slow(number).await?;
            }
            drop((permit, sum));
            tokio::task::yield_now().await;
            if number % 60 == 1 { odd.step(number).await } else { Ok(0) }
        }
    };
    let ended = join_all((0..300).map(branch)).await;
    odd.note(ended.into_iter().sum::<Ended<u64>>()?);
    Ok(())
}

/// Every kind of channel between branches.
async fn channels(odd: &Odd) -> Ended {
    let (sender, mut receiver) = mpsc::channel(2);
    let (say, heard) = oneshot::channel();
    let (publish, mut watched) = watch::channel(0_u64);
    let (cast, mut first) = broadcast::channel(16);
    let mut second = cast.subscribe();
    let notify = Notify::new();
    let produce = async {
        for number in 0..6 {
            let _ = sender.send(odd.slow(number).await?).await;
            let _ = publish.send(number);
            let _ = cast.send(number);
            notify.notify_waiters();
        }
        drop((sender, publish, cast));
        let _ = say.send(1);
        notify.notify_one();
        Ok(())
    };
    let consume = async {
        while let Some(number) = receiver.recv().await {
            odd.note(format_args!("received {number}"));
            odd.step(number + 100).await?;
        }
        Ok(())
    };
    let watching = async {
        while watched.changed().await.is_ok() {
            let number = *watched.borrow_and_update();
            odd.step(number + 200).await?;
        }
        Ok(())
    };
    let casting = async {
        while let Ok(number) = first.recv().await {
            odd.step(number + 300).await?;
            odd.note(second.recv().await.unwrap_or_default());
        }
        Ok(())
    };
    let waiting = async {
        notify.notified().await;
        odd.step(400).await?;
        let heard: Ended = heard.await.map(drop).map_err(|_| "unheard".into());
        heard
    };
    let all: [Pin<Box<dyn Future<Output = Ended> + Send + '_>>; 5] = [
        Box::pin(produce),
        Box::pin(consume),
        Box::pin(watching),
        Box::pin(casting),
        Box::pin(waiting),
    ];
    join_all(all).await.into_iter().collect()
}

/// Branches that wait for each other, and then ask for operations of the same name.
async fn barriers(odd: &Odd) -> Ended {
    let barrier = Barrier::new(3);
    let branch = |number: u64| {
        let barrier = &barrier;
        async move {
            for round in 0..4 {
                odd.slow(number * 10 + round).await?;
                barrier.wait().await;
                odd.step(number * 100 + round).await?;
            }
            Ended::Ok(())
        }
    };
    let joined = aios_agents::join!(branch(1), branch(2), branch(3));
    joined.0.and(joined.1).and(joined.2)?;
    let tried = aios_agents::try_join!(branch(4), branch(5), branch(6));
    tried.map(drop)
}

/// Streams that keep several operations in flight.
async fn streams(odd: &Odd) -> Ended {
    let mut buffered = stream::iter(0..40).map(|n| odd.slow(n)).buffer_unordered(7);
    while let Some(value) = buffered.next().await {
        odd.note(format_args!("buffered {}", value?));
    }
    drop(buffered);
    let each = stream::iter(0..20).for_each_concurrent(4, |n| async move {
        let _ = odd.slow(n).await;
        let _ = odd.sleep(n % 3).await;
    });
    each.await;
    let mut nested: FuturesOrdered<_> = (0..4)
        .map(|outer| async move {
            let mut inner: FuturesUnordered<_> = (0..4)
                .map(|n| async move {
                    tokio::task::yield_now().await;
                    odd.slow(outer * 7 + n).await
                })
                .collect();
            let mut sum = 0;
            while let Some(value) = inner.next().await {
                sum += value?;
                tokio::task::yield_now().await;
            }
            Ended::Ok(sum)
        })
        .collect();
    while let Some(sum) = nested.next().await {
        odd.note(sum?);
    }
    Ok(())
}

/// Operations that move between tasks that poll them, and some that are dropped midway.
async fn moved(odd: &Odd) -> Ended {
    let mut timer = odd.context.sleep(Duration::from_millis(10));
    let _ = futures_util::poll!(&mut timer);
    let mut slow = Box::pin(odd.slow(9));
    let _ = futures_util::poll!(&mut slow);
    for number in 0..5 {
        let mut half = Box::pin(odd.slow(number));
        let _ = futures_util::poll!(&mut half);
        tokio::task::yield_now().await;
        let _ = futures_util::poll!(&mut half);
        drop(half);
    }
    let mut set = FuturesUnordered::new();
    set.push(async { timer.await.map(|()| 1) }.boxed());
    set.push(slow);
    set.push(tokio::task::unconstrained(odd.slow(6)).boxed());
    let shared = odd.slow(8).map(|value| value.unwrap_or_default()).boxed().shared();
    set.push(shared.clone().map(Ok).boxed());
    set.push(shared.map(|value| Ok(value + 1)).boxed());
    while let Some(value) = set.next().await {
        odd.note(value?);
    }
    let lost = pin!(odd.slow(3));
    let (first, _, rest) = select_all([odd.sleep(2).boxed(), lost.map(|_| Ok(())).boxed()]).await;
    drop(rest);
    first?;
    let never = odd.context.task::<u64>("missing", &1).timeout(Duration::from_secs(60));
    let _ = race([never.map(drop).boxed(), odd.sleep(1).map(drop).boxed()]).await;
    Ok(())
}

/// Versions in branches, and compensations that use `select!`.
async fn undone(odd: &Odd) -> Ended {
    for number in 0..3 {
        let odd = odd.clone();
        odd.context.clone().compensate(format!("undo {number}"), move |_| async move {
            aios_agents::select! {
                ended = odd.slow(number) => ended.map(drop)?,
                _ = odd.sleep(50) => {},
            }
            odd.step(number + 10).await.map(drop)
        });
    }
    let branch = |number: u64| async move {
        odd.sleep(number % 3).await?;
        let version = odd.context.version(format!("change {}", number % 2), 1..=3)?;
        odd.note(format_args!("version {version}"));
        odd.slow(number).await
    };
    join_all((0..5).map(branch)).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    Err("undo all".into())
}

/// Yields and slow steps in one set: some wakes of the code arrive late, some through those of a
/// step.
async fn yields(odd: &Odd) -> Ended {
    for count in 0..5_u64 {
        let mut set = FuturesUnordered::new();
        set.push(odd.slow(count + 2).boxed());
        set.push(
            async move {
                for _ in 0..count {
                    tokio::task::yield_now().await;
                }
                odd.step(count).await
            }
            .boxed(),
        );
        set.push(odd.slow(count * 3).boxed());
        while let Some(value) = set.next().await {
            odd.note(value?);
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// Sets of steps beside steps that other threads wake all the time.
async fn storms(odd: &Odd) -> Ended {
    let mut outer = FuturesUnordered::new();
    for branch in 0..6_u64 {
        outer.push(async move {
            let mut inner = FuturesUnordered::new();
            if branch < 2 {
                inner.push(odd.storm(branch).boxed());
            }
            for number in 0..8 {
                inner.push(odd.slow(branch * 10 + number).boxed());
            }
            while let Some(value) = inner.next().await {
                odd.note(format_args!("branch {branch} took {}", value?));
            }
            Ended::Ok(branch)
        });
    }
    while let Some(branch) = outer.next().await {
        odd.note(format_args!("branch {} ended", branch?));
    }
    Ok(())
}

const KINDS: [&str; 10] = [
    "selects", "losers", "locks", "channels", "barriers", "streams", "moved", "undone", "yields",
    "storms",
];

fn odd(seen: &Arc<Seen>) -> impl Fn(WorkflowContext, String) -> Code + use<> {
    let seen = Arc::clone(seen);
    move |context, kind| {
        let odd = Odd { context, execution: seen.begin(), seen: Arc::clone(&seen) };
        Box::pin(async move {
            match kind.as_str() {
                "selects" => loop_of_selects(&odd).await,
                "losers" => losers(&odd).await,
                "locks" => locks(&odd).await,
                "channels" => channels(&odd).await,
                "barriers" => barriers(&odd).await,
                "streams" => streams(&odd).await,
                "moved" => moved(&odd).await,
                "undone" => undone(&odd).await,
                "storms" => storms(&odd).await,
                _ => yields(&odd).await,
            }
        })
    }
}

/// Runs a workflow and restarts its engine the given number of times, wherever the run is at that
/// point. Returns what its longest execution saw, and its journal.
async fn run_with_restarts(
    store: &Arc<dyn Store>,
    kind: &str,
    restarts: usize,
) -> (Vec<String>, Vec<Event>) {
    let mut executions: Vec<Vec<String>> = Vec::new();
    for restart in 0.. {
        let seen = Arc::new(Seen::default());
        let engine = runtime(store).workflow("odd", odd(&seen)).start().await.unwrap();
        let run = match restart {
            0 => engine.start("odd", &kind).id(kind).await.unwrap(),
            _ => engine.handle(kind).await.unwrap(),
        };
        let before = run.journal(0, 10_000).await.unwrap().len();
        let _ = run.signal("go", &restart).await;
        let is_last = restart == restarts;
        if is_last {
            if let Err(error) = result::<()>(&run).await {
                assert_eq!(kind, "undone", "{error:?}");
                assert_eq!(error.failure().unwrap().message, "undo all", "{error:?}");
            }
        } else {
            let continues = || async {
                let journal = run.journal(0, 10_000).await.unwrap();
                let status = run.status().await.unwrap().status;
                status.is_final() || journal.len() > before + restart * 2
            };
            eventually(&format!("{kind} continues"), continues).await;
        }
        let journal = run.journal(0, 10_000).await.unwrap();
        engine.shutdown(PATIENCE).await.unwrap();
        executions.extend(seen.executions());
        if is_last {
            let longest = executions.iter().max_by_key(|saw| saw.len()).unwrap();
            for saw in &executions {
                assert!(longest.starts_with(saw), "{kind}: saw {saw:?}, then {longest:?}");
            }
            let journal = journal.into_iter().map(|recorded| recorded.event).collect();
            return (longest.clone(), journal);
        }
    }
    unreachable!()
}

async fn check(store: Arc<dyn Store>, kind: &str, restarts: usize) {
    let (saw, journal) = run_with_restarts(&store, kind, restarts).await;
    for end in 1..=journal.len() {
        let again = Arc::new(Seen::default());
        let workflow = Arc::new(FnWorkflow::new("odd", odd(&again)).unwrap());
        let replayed = replay(workflow, journal.get(..end).unwrap()).await;
        replayed.unwrap_or_else(|error| panic!("{kind}: {end} entries: {error:?}"));
        let again = again.executions().pop().unwrap_or_default();
        assert!(saw.starts_with(&again), "{kind}: {end} entries: saw {again:?}, live {saw:?}");
        assert!(end < journal.len() || again == saw, "{kind}: saw {again:?}, live {saw:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_see_after_every_restart_what_was_seen_before() {
    for kind in KINDS {
        for restarts in [0, 1, 2, 12] {
            check(store(), kind, restarts).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_see_after_every_restart_what_was_seen_before_on_sqlite() {
    for kind in KINDS {
        for restarts in [0, 2, 12] {
            check(sqlite().await, kind, restarts).await;
        }
    }
}

/// Polls a future with a waker that records which threads wake it.
struct RecordedWakes<F> {
    future: Pin<Box<F>>,
    threads: Arc<Mutex<Vec<ThreadId>>>,
}

struct RecordingWaker {
    waker: Waker,
    threads: Arc<Mutex<Vec<ThreadId>>>,
}

impl Wake for RecordingWaker {
    fn wake(self: Arc<Self>) {
        self.threads.lock().unwrap().push(thread::current().id());
        self.waker.wake_by_ref();
    }
}

impl<F: Future> Future for RecordedWakes<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let (waker, threads) = (context.waker().clone(), Arc::clone(&self.threads));
        let waker = Waker::from(Arc::new(RecordingWaker { waker, threads }));
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

/// Combinators drop a wake during another one that has not returned. Another thread must therefore
/// not wake the code while its task does.
#[tokio::test]
async fn should_wake_the_code_only_in_its_own_task() {
    let threads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&threads);
    let workflow = move |context: WorkflowContext, (): ()| {
        let threads = Arc::clone(&seen);
        async move {
            let step = context.run("woken", || async {
                for _ in 0..5 {
                    let (sender, receiver) = oneshot::channel();
                    thread::spawn(move || {
                        thread::sleep(Duration::from_millis(2));
                        sender.send(()).unwrap();
                    });
                    receiver.await.unwrap();
                }
            });
            RecordedWakes { future: Box::pin(step), threads }.await
        }
    };
    let engine = runtime(&store()).workflow("woken", workflow).start().await.unwrap();
    let run = engine.start("woken", &()).await.unwrap();
    result::<()>(&run).await.unwrap();
    let threads = threads.lock().unwrap();
    assert!(threads.len() >= 5, "{} wakes", threads.len());
    assert!(threads.iter().all(|thread| *thread == thread::current().id()), "{threads:?}");
}
