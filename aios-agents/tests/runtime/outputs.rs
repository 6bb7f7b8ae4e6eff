//! Output streams of runs.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::{
    agent::AgentDefinition,
    middleware::Retry,
    output::{OutputContent, OutputError, OutputReader, OutputStream},
    prelude::*,
};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    clock::SystemClock,
    event::Event,
    store::{Append, StreamId},
};
use aios_store::{Retention, memory::MemoryStore};
use futures_util::StreamExt;
use tokio::sync::Notify;

use crate::support::{
    faulty::{Fault, FaultyStore, store_refuses, store_unavailable},
    workflows::{PATIENCE, actions, eventually, quick, result, runtime, sqlite, store},
};

/// Everything that a reader gets: offsets, and items as text; a reset is `reset`.
async fn read(reader: OutputReader) -> Vec<(u64, String)> {
    let items = reader.map(|item| {
        let item = item.unwrap();
        let text = match item.content {
            OutputContent::Item(item) => item.as_str().trim_matches('"').to_owned(),
            OutputContent::Reset => "reset".to_owned(),
            other => panic!("{other:?}"),
        };
        (item.offset, text)
    });
    tokio::time::timeout(PATIENCE, items.collect()).await.expect("the stream should end")
}

async fn texts(run: &RunHandle, name: &str) -> Vec<String> {
    read(run.stream(name).read_from(0)).await.into_iter().map(|(_, text)| text).collect()
}

/// Counts to a number in a stream.
struct Counter;

impl Agent for Counter {
    type Parameters = u64;
    type Output = u64;

    async fn process_task(&self, context: &TaskContext, most: u64) -> Result<u64, TaskError> {
        let stream = context.stream("numbers")?;
        for number in 1..=most {
            stream.write(&number)?;
            if number % 700 == 0 {
                stream.flush().await?;
            }
        }
        Ok(most)
    }
}

async fn check_readers(store: Arc<dyn Store>) {
    let runtime = runtime(&store).agent("counter", Counter).start().await.unwrap();
    let run = runtime.task("counter", &2500_u64).id("r1").await.unwrap();
    let following = tokio::spawn(read(run.stream("numbers").read_from(0)));
    let client = Runtime::builder()
        .store(Arc::clone(&store))
        .broker(Arc::new(MemoryBroker::new()))
        .client_only()
        .start()
        .await
        .unwrap();
    let distant = client.handle("r1").await.unwrap();
    let distant = tokio::spawn(read(distant.stream("numbers").read_from(0)));
    let all = following.await.unwrap();
    let numbers: Vec<u64> = all.iter().map(|(_, text)| text.parse().unwrap()).collect();
    assert_eq!(numbers, (1..=2500).collect::<Vec<_>>());
    assert!(all.is_sorted_by(|one, two| one.0 < two.0), "offsets increase");
    assert_eq!(distant.await.unwrap(), all);
    // A reader that reconnects continues after what it has seen, in the middle of a batch too.
    for seen in [0, 1, 699, 700, 1234, 2499] {
        let rest = read(run.stream("numbers").read_from(all[seen].0)).await;
        assert_eq!(rest, all[seen + 1..], "after {seen}");
    }
    assert_eq!(result::<u64>(&run).await.unwrap(), 2500);
    let journal = actions(&run).await;
    assert!(!journal.iter().any(|action| action.starts_with("output")), "{journal:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_read_output_from_any_offset_in_memory() {
    check_readers(store()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_read_output_from_any_offset_on_sqlite() {
    check_readers(sqlite().await).await;
}

/// Fails twice after it has written something.
#[derive(Default)]
struct Flaky(AtomicU32);

impl Agent for Flaky {
    type Parameters = ();
    type Output = ();

    async fn process_task(&self, context: &TaskContext, (): ()) -> Result<(), TaskError> {
        let attempt = self.0.fetch_add(1, Ordering::SeqCst);
        let stream = context.stream("words")?;
        stream.write(&format!("attempt {attempt}"))?;
        if attempt < 2 {
            return Err(std::io::Error::other("not yet").into());
        }
        stream.write("done")?;
        Ok(())
    }
}

async fn retried(context: WorkflowContext, (): ()) -> Result<(), WorkflowError> {
    context.task::<()>("flaky", &()).retry(quick(5)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn should_reset_what_an_earlier_attempt_wrote() {
    let runtime = runtime(&store()).agent("flaky", Flaky::default()).workflow("retried", retried);
    let runtime = runtime.start().await.unwrap();
    let run = runtime.start("retried", &()).await.unwrap();
    result::<()>(&run).await.unwrap();
    let all = read(run.stream("words").read_from(0)).await;
    let words: Vec<_> = all.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(words, ["attempt 0", "reset", "attempt 1", "reset", "attempt 2", "done"]);
    // A reader that comes back in between learns of the next attempt too.
    assert_eq!(read(run.stream("words").read_from(all[0].0)).await, all[1..]);
}

async fn stepwise(context: WorkflowContext, (): ()) -> Result<(), WorkflowError> {
    let stream = context.stream("log")?;
    stream.write("begin").unwrap();
    context
        .step_with("write", |step| async move {
            step.stream("log")?.write(&format!("step {}", step.attempt()))?;
            if step.attempt() == 1 {
                return Err(TaskError::from(std::io::Error::other("again")));
            }
            Ok(())
        })
        .retry(quick(2))
        .await?;
    stream.write("wait").unwrap();
    context.signal::<()>("go").await?;
    stream.write("end").unwrap();
    context.stream("log")?.end().unwrap();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn should_continue_a_stream_after_a_restart() {
    let store = sqlite().await;
    let first = runtime(&store).workflow("stepwise", stepwise).start().await.unwrap();
    let run = first.start("stepwise", &()).id("r1").await.unwrap();
    let stream = StreamId::new("outputs/r1/log").unwrap();
    eventually("the code should wait", || async {
        store.read_stream(&stream, 0, 10).await.unwrap().len() == 4
    })
    .await;
    drop((run, first));
    let second = runtime(&store).workflow("stepwise", stepwise).start().await.unwrap();
    let run = second.handle("r1").await.unwrap();
    let following = tokio::spawn(read(run.stream("log").read_from(0)));
    run.signal("go", &()).await.unwrap();
    result::<()>(&run).await.unwrap();
    let items = following.await.unwrap();
    let words: Vec<_> = items.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(words.len(), 6, "{words:?}");
    assert_eq!((words[0], words[4], words[5]), ("begin", "wait", "end"));
    assert_eq!(words[1..4], ["step 1", "reset", "step 2"]);
    // The ended stream ends at once, from any offset.
    assert_eq!(read(run.stream("log").read_from(items[5].0)).await, []);
}

/// Writes five items and ends.
async fn five(context: WorkflowContext, (): ()) -> Result<(), WorkflowError> {
    let stream = context.stream("numbers")?;
    (1..=5).try_for_each(|number| stream.write(&number)).unwrap();
    Ok(())
}

/// A store may refuse a part of what is appended in one call, and take the rest.
#[tokio::test(flavor = "multi_thread")]
async fn should_keep_the_order_of_output_that_the_store_takes_later() {
    let faulty = FaultyStore::new(store());
    let is_output = |append: &Append| append.stream.as_str().starts_with("outputs/");
    let refused = AtomicU32::new(0);
    faulty.on_append(move |append| {
        let refuses = is_output(append) && refused.fetch_add(1, Ordering::SeqCst) == 0;
        refuses.then(|| Fault::Refuse(store_unavailable()))
    });
    let store: Arc<dyn Store> = faulty;
    let runtime = runtime(&store).workflow("five", five).start().await.unwrap();
    let run = runtime.start("five", &()).await.unwrap();
    result::<()>(&run).await.unwrap();
    assert_eq!(texts(&run, "numbers").await, ["1", "2", "3", "4", "5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_leave_no_gap_where_the_store_refuses_output() {
    let faulty = FaultyStore::new(store());
    faulty.on_append(|append| {
        let third = |event: &Event| event.payload.as_str().contains("\"items\":[3]");
        append.events.iter().any(third).then(|| Fault::Refuse(store_refuses()))
    });
    let store: Arc<dyn Store> = faulty;
    let runtime = runtime(&store).workflow("five", five).start().await.unwrap();
    let run = runtime.start("five", &()).await.unwrap();
    result::<()>(&run).await.unwrap();
    assert_eq!(texts(&run, "numbers").await, ["1", "2"]);
}

/// Writes until it is stopped.
struct Endless(Arc<Notify>);

impl Agent for Endless {
    type Parameters = ();
    type Output = ();

    async fn process_task(&self, context: &TaskContext, (): ()) -> Result<(), TaskError> {
        let stream = context.stream("words")?;
        stream.write("one")?;
        stream.flush().await?;
        stream.write("two")?;
        self.0.notify_one();
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_keep_the_output_of_a_cancelled_task() {
    let begun = Arc::new(Notify::new());
    let runtime = runtime(&store()).agent("endless", Endless(Arc::clone(&begun)));
    let runtime = runtime.start().await.unwrap();
    let run = runtime.task("endless", &()).await.unwrap();
    begun.notified().await;
    run.cancel("enough").await.unwrap();
    assert_eq!(result::<()>(&run).await.unwrap_err().code(), "RUN_CANCELLED");
    // The agent stops after the run has ended.
    eventually("the output should be stored", || async {
        texts(&run, "words").await == ["one", "two"]
    })
    .await;
}

/// Each run of a chain has its own streams: that of the first ends with it, although the handle of the
/// run follows the chain.
#[tokio::test(flavor = "multi_thread")]
async fn should_end_a_stream_where_its_run_continues_as_another() {
    async fn counts(context: WorkflowContext, left: u64) -> Result<u64, WorkflowError> {
        context.stream("words")?.write(&left).unwrap();
        context.signal::<()>("go").await?;
        match left {
            0 => Ok(0),
            left => Err(WorkflowError::continue_as_new(&(left - 1))),
        }
    }

    let store = sqlite().await;
    let runtime = runtime(&store).workflow("counts", counts).start().await.unwrap();
    let run = runtime.start("counts", &2_u64).await.unwrap();
    let following = tokio::spawn(read(run.stream("words").read_from(0)));
    let mut ids = vec![run.id().to_owned()];
    for _ in 0..2 {
        run.signal("go", &()).await.unwrap();
        eventually("the run should continue", || async {
            !ids.contains(&run.status().await.unwrap().id)
        })
        .await;
        ids.push(run.status().await.unwrap().id);
    }
    run.signal("go", &()).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 0);
    let followed: Vec<_> = following.await.unwrap().into_iter().map(|(_, text)| text).collect();
    assert_eq!(followed, ["2"]);
    for (id, word) in ids.iter().zip(["2", "1", "0"]) {
        assert_eq!(texts(&runtime.handle(id).await.unwrap(), "words").await, [word]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_read_an_empty_stream_to_its_end_and_refuse_invalid_ones() {
    let runtime = runtime(&store()).agent("counter", Counter).start().await.unwrap();
    let run = runtime.task("counter", &1_u64).await.unwrap();
    assert_eq!(texts(&run, "nothing").await, Vec::<String>::new());
    let error = run.stream("No").read_from(0).next().await.unwrap().unwrap_err();
    assert_eq!(error.code(), "INVALID_OUTPUT_STREAM");
}

/// Writes too much.
struct Careless;

impl Agent for Careless {
    type Parameters = ();
    type Output = Vec<String>;

    async fn process_task(&self, context: &TaskContext, (): ()) -> Result<Vec<String>, TaskError> {
        let stream = context.stream("words")?;
        let large = "x".repeat(200 * 1024);
        let refused = [
            stream.write(&"x".repeat(300 * 1024)),
            (0..100).try_for_each(|_| stream.write(&large)),
            context.stream("Bad name").map(drop),
        ];
        let codes =
            refused.map(|it| it.as_ref().map_err(OutputError::code).unwrap_err().to_owned());
        stream.flush().await?;
        stream.write("there is room again")?;
        Ok(codes.to_vec())
    }
}

#[tokio::test]
async fn should_refuse_what_is_too_large() {
    let runtime = runtime(&store()).agent("careless", Careless).start().await.unwrap();
    let run = runtime.task("careless", &()).await.unwrap();
    let codes = result::<Vec<String>>(&run).await.unwrap();
    assert_eq!(codes, ["EVENT_TOO_LARGE", "OUTPUT_BACKLOG", "INVALID_OUTPUT_STREAM"]);
    assert_eq!(texts(&run, "words").await.last().unwrap(), "there is room again");
}

/// Says whether it has streams.
struct Homeless;

impl Agent for Homeless {
    type Parameters = ();
    type Output = String;

    async fn process_task(&self, context: &TaskContext, (): ()) -> Result<String, TaskError> {
        assert!(!context.has_streams());
        Ok(context.stream("words").unwrap_err().code().to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_have_no_streams_without_a_store() {
    let (store, broker) = (store(), Arc::new(MemoryBroker::new()));
    let agents = Runtime::builder().broker(broker.clone()).agent("homeless", Homeless);
    let _agents = agents.start().await.unwrap();
    let engine = runtime(&store).broker(broker).start().await.unwrap();
    let run = engine.task("homeless", &()).await.unwrap();
    assert_eq!(result::<String>(&run).await.unwrap(), "OUTPUT_UNAVAILABLE");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_ignore_an_attempt_that_was_replaced() {
    let store = store();
    let runtime = runtime(&store).agent("counter", Counter).start().await.unwrap();
    let run = runtime.task("counter", &1_u64).id("r1").await.unwrap();
    result::<u64>(&run).await.unwrap();
    let stream = StreamId::new("outputs/r1/replaced").unwrap();
    for (writer, attempt, first, item) in [
        ("w", "1", 0, "old"),
        ("w", "2", 0, "new"),
        ("x", "1", 0, "other"),
        ("w", "1", 1, "late"),
        ("w", "2", 1, "more"),
    ] {
        let data = serde_json::json!({
            "writer": writer, "attempt": attempt, "first": first, "items": [item],
        });
        let event_type = "system.run.output_appended".parse().unwrap();
        let event = Event::new(event_type, "test", &data).unwrap();
        store.append_one(Append::new(stream.clone(), vec![event])).await.unwrap();
    }
    let all = read(run.stream("replaced").read_from(0)).await;
    let texts: Vec<_> = all.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["old", "reset", "new", "other", "more"]);
    for (index, (offset, _)) in all.iter().enumerate() {
        let rest = read(run.stream("replaced").read_from(*offset)).await;
        assert_eq!(rest, all[index + 1..], "after {offset}");
    }
}

/// The output of the first run remains in the log, because it has a retention of its own.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_read_what_an_earlier_run_with_the_same_id_wrote() {
    async fn counts(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
        let stream = context.stream("numbers")?;
        stream.write(&number).and_then(|()| stream.end()).unwrap();
        Ok(number)
    }
    let memory = Arc::new(MemoryStore::new());
    let store: Arc<dyn Store> = memory.clone();
    let runtime = runtime(&store).workflow("counts", counts).start().await.unwrap();
    for number in [1_u64, 2] {
        let run = runtime.start("counts", &number).id("r").await.unwrap();
        assert_eq!(result::<u64>(&run).await.unwrap(), number);
        assert_eq!(texts(&run, "numbers").await, [number.to_string()]);
        // The end of the run must not be the last event of the log.
        let other = runtime.start("counts", &0_u64).await.unwrap();
        result::<u64>(&other).await.unwrap();
        eventually("the run is removed", || async {
            memory.expire_runs(&Retention::new(Duration::ZERO)).await.unwrap();
            runtime.handle("r").await.is_err()
        })
        .await;
    }
}

/// Writes before it fails, as often as told.
struct Halting(AtomicU32);

impl Agent for Halting {
    type Parameters = ();
    type Output = ();

    async fn process_task(&self, context: &TaskContext, (): ()) -> Result<(), TaskError> {
        let stream = context.stream("words")?;
        stream.write("begun")?;
        if self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok()
        {
            return Err(std::io::Error::other("not yet").into());
        }
        stream.write("done")?;
        Ok(())
    }
}

/// A try of the layer writes again what the failed one wrote, as an attempt does.
#[tokio::test(flavor = "multi_thread")]
async fn should_reset_what_an_earlier_try_of_the_same_attempt_wrote() {
    for store in [store(), sqlite().await] {
        let layer = Retry::new(Arc::new(SystemClock), quick(3));
        let halting = AgentDefinition::instance("halting", Halting(AtomicU32::new(2)));
        let runtime = runtime(&store).agents(halting.with_layer(layer)).start().await.unwrap();
        let run = runtime.task("halting", &()).await.unwrap();
        result::<()>(&run).await.unwrap();
        let words = ["begun", "reset", "begun", "reset", "begun", "done"];
        assert_eq!(texts(&run, "words").await, words);
    }
}

/// Fails once, on a machine whose clock is ahead.
#[derive(Default)]
struct Ahead(AtomicU32);

impl Agent for Ahead {
    type Parameters = ();
    type Output = ();

    async fn process_task(&self, context: &TaskContext, (): ()) -> Result<(), TaskError> {
        let stream = context.stream("words")?;
        if self.0.fetch_add(1, Ordering::SeqCst) > 0 {
            stream.write("done")?;
            return Ok(());
        }
        stream.write("here")?;
        stream.flush().await?;
        let store = context.store().unwrap();
        let written = store.read_stream(&StreamId::new("outputs/r1/words").unwrap(), 0, 9).await?;
        let mut data: serde_json::Value = written[0].event.data()?;
        // The id of the same attempt, had it begun when that clock showed a much later time.
        let own = data["attempt"].as_str().unwrap().to_owned();
        let (rest, _) = own.split_at(own.len() - 36);
        data["attempt"] = format!("{rest}ffffffff-ffff-7fff-bfff-ffffffffffff").into();
        data["items"] = serde_json::json!(["ahead"]);
        let event = Event::new(written[0].event.event_type.clone(), "ahead", &data)?;
        store.append_one(Append::new(written[0].stream.clone(), vec![event])).await?;
        Err(std::io::Error::other("not yet").into())
    }
}

/// The clocks of two processes differ by more than the time between two attempts.
#[tokio::test(flavor = "multi_thread")]
async fn should_read_a_later_attempt_of_a_process_whose_clock_is_behind() {
    let store = store();
    let runtime = runtime(&store).agent("ahead", Ahead::default()).start().await.unwrap();
    let run = runtime.task("ahead", &()).retry(quick(2)).id("r1").await.unwrap();
    result::<()>(&run).await.unwrap();
    assert_eq!(texts(&run, "words").await, ["here", "reset", "ahead", "reset", "done"]);
}

/// Keeps its stream where the test finds it.
struct Lending(Arc<Mutex<Option<OutputStream>>>);

impl Agent for Lending {
    type Parameters = ();
    type Output = ();

    async fn process_task(&self, context: &TaskContext, (): ()) -> Result<(), TaskError> {
        let stream = context.stream("words")?;
        *self.0.lock().unwrap() = Some(stream.clone());
        stream.write("one")?;
        stream.flush().await.unwrap_err();
        Ok(())
    }
}

/// Items that are written while the store refuses those before them are not stored either.
#[tokio::test(flavor = "multi_thread")]
async fn should_leave_no_gap_where_output_is_refused_while_more_is_written() {
    let lent = Arc::<Mutex<Option<OutputStream>>>::default();
    let faulty = FaultyStore::new(store());
    let (stream, appends) = (Arc::clone(&lent), Arc::new(AtomicU32::new(0)));
    let appended = Arc::clone(&appends);
    faulty.on_append(move |append| {
        if !append.stream.as_str().starts_with("outputs/") {
            return None;
        }
        if append.events[0].payload.as_str().contains("one") {
            stream.lock().unwrap().as_ref().unwrap().write("two").unwrap();
            return Some(Fault::Refuse(store_refuses()));
        }
        appended.fetch_add(1, Ordering::SeqCst);
        None
    });
    let store: Arc<dyn Store> = faulty;
    let runtime = runtime(&store).agent("lending", Lending(lent));
    let runtime = runtime.agent("counter", Counter).start().await.unwrap();
    let run = runtime.task("lending", &()).await.unwrap();
    result::<()>(&run).await.unwrap();
    // Its output is stored after everything that was written before it.
    let later = runtime.task("counter", &1_u64).await.unwrap();
    result::<u64>(&later).await.unwrap();
    assert_eq!(texts(&later, "numbers").await, ["1"]);
    assert_eq!(texts(&run, "words").await, Vec::<String>::new());
    assert_eq!(appends.load(Ordering::SeqCst), 1, "the one of the other task");
}
