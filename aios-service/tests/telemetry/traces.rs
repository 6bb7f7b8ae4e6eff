//! Spans from the journals of real runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use aios_agents::{
    prelude::*,
    trace::{SpanId, TraceId, TraceParent},
};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    clock::{Clock, SystemClock},
    event::Metadata,
    store::{RecordedEvent, Store},
};
use aios_service::telemetry::traces::{AttributeValue, Span, SpanKind, SpanStatus, spans_of};
use aios_store::memory::MemoryStore;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// Ids have the time in milliseconds.
const MILLISECOND: Duration = Duration::from_millis(1);
const SHORT: Duration = Duration::from_millis(5);

/// Fails at the first attempt.
struct Unsteady;

impl Agent for Unsteady {
    type Parameters = u32;
    type Output = String;

    async fn process_task(&self, context: &TaskContext, number: u32) -> Result<String, TaskError> {
        if context.attempt() == 1 && number == 1 {
            return Err(TaskError::from("not yet"));
        }
        Ok(context.metadata().traceparent.as_deref().unwrap_or_default().to_owned())
    }
}

async fn child(context: WorkflowContext, number: u32) -> Result<u32, WorkflowError> {
    context.step("double", || async move { Ok::<_, TaskError>(number * 2) }).await
}

/// Uses every kind of operation, and leaves a task behind.
async fn everything(context: WorkflowContext, _: ()) -> Result<String, WorkflowError> {
    let retry = RetryPolicy::new().with_delays(SHORT, SHORT);
    let slow = |name: &'static str, millis| {
        context.step(name, move || async move {
            SystemClock.sleep(Duration::from_millis(millis)).await;
            Ok::<_, TaskError>(())
        })
    };
    let (first, second) = tokio::join!(slow("first", 30), slow("second", 10));
    first?;
    second?;
    let unsteady = context.step_with("unsteady", |step| async move {
        match step.attempt() {
            1 => Err(TaskError::from("not yet")),
            attempt => Ok(attempt),
        }
    });
    unsteady.retry(retry.clone()).await?;
    context.sleep(SHORT).await?;
    let missed = context.signal::<()>("never").timeout(SHORT).await;
    assert!(missed.is_err());
    context.signal::<()>("go").timeout(Duration::from_secs(3600)).await?;
    context.child::<u32>("child", &4_u32).await?;
    let failed = context.child::<u32>("missing", &4_u32).await;
    assert!(failed.is_err());
    let mut left = Box::pin(context.task::<String>("silent", &2_u32));
    let answer = context.task::<String>("unsteady", &1_u32).retry(retry);
    tokio::select! {
        biased;
        answer = answer => Ok(answer?),
        _ = &mut left => unreachable!("the agent never answers"),
    }
}

struct Silent;

impl Agent for Silent {
    type Parameters = u32;
    type Output = String;

    async fn process_task(&self, _: &TaskContext, _: u32) -> Result<String, TaskError> {
        std::future::pending().await
    }
}

async fn runtime(store: &Arc<dyn Store>) -> Runtime {
    Runtime::builder()
        .store(Arc::clone(store))
        .broker(Arc::new(MemoryBroker::new()))
        .agent("unsteady", Unsteady)
        .agent("silent", Silent)
        .workflow("everything", everything)
        .workflow("child", child)
        .start()
        .await
        .unwrap()
}

/// Journals of `everything` and its child, and the answer of its last task.
async fn run(traceparent: Option<&str>) -> (Vec<RecordedEvent>, Vec<RecordedEvent>, String) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let runtime = runtime(&store).await;
    let traceparent = traceparent.map(Into::into);
    let metadata = Metadata { traceparent, ..Metadata::default() };
    let run = runtime.start("everything", &()).id("r1").metadata(metadata).await.unwrap();
    loop {
        let journal = run.journal(0, 1000).await.unwrap();
        let awaited = journal.iter().filter(|it| it.event.event_type.action() == "signal_awaited");
        if awaited.count() == 2 {
            break;
        }
        SystemClock.sleep(SHORT).await;
    }
    run.signal("go", &()).await.unwrap();
    let answer = run.result::<String>().await.unwrap();
    let log = store.read_log(0, 1000).await.unwrap();
    let of_child = |it: &RecordedEvent| it.stream.run_id().is_some_and(|run| run != "r1");
    (run.journal(0, 1000).await.unwrap(), log.into_iter().filter(of_child).collect(), answer)
}

fn ids(spans: &[Span]) -> BTreeSet<SpanId> {
    spans.iter().map(|span| span.span_id).collect()
}

fn named<'s>(spans: &'s [Span], name: &str) -> Vec<&'s Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn should_make_every_span_of_a_run_once_with_its_parent() {
    let (journal, of_child, answer) = run(Some(PARENT)).await;
    let trace = spans_of(&journal);
    let spans = &trace.spans;
    assert_eq!(trace, spans_of(&journal), "the same journal gives the same spans");
    assert_eq!(trace.open, []);
    assert_eq!(ids(spans).len(), spans.len(), "{spans:#?}");

    let caller: TraceParent = PARENT.parse().unwrap();
    let incarnation = &journal[0].event.id;
    let run = named(spans, "workflow everything")[0];
    assert_eq!((run.trace_id, run.parent), (caller.trace_id, Some(caller.span_id)));
    assert_eq!(run.span_id, SpanId::of_run(incarnation));
    assert_eq!(run.status, SpanStatus::Ok);
    let known = ids(spans);
    for span in spans.iter().filter(|span| span.span_id != run.span_id) {
        assert!(span.parent.is_some_and(|parent| known.contains(&parent)), "{span:?}");
        assert_eq!(span.trace_id, caller.trace_id);
    }
    for span in spans {
        assert!(span.start >= run.start && span.end.unwrap() >= span.start, "{span:?}");
        assert!(span.end <= run.end, "{span:?}");
    }
    let mut names = BTreeMap::new();
    spans.iter().for_each(|span| *names.entry(span.name.as_str()).or_insert(0) += 1);
    let expected = [
        ("workflow everything", 1),
        ("step first", 1),
        ("step second", 1),
        ("step unsteady", 1),
        ("step unsteady attempt", 2),
        ("timer", 1),
        ("signal never", 1),
        ("signal go", 1),
        ("child child", 1),
        ("child missing", 1),
        ("task silent", 1),
        ("task silent attempt", 1),
        ("task unsteady", 1),
        ("task unsteady attempt", 2),
    ];
    assert_eq!(names, expected.into());

    let attempts = named(spans, "task unsteady attempt");
    assert!(matches!(attempts[0].status, SpanStatus::Error(_)), "{attempts:?}");
    assert_eq!(
        (attempts[1].status.clone(), attempts[1].kind),
        (SpanStatus::Ok, SpanKind::Consumer)
    );
    let given = caller.with_span(attempts[1].span_id).to_string();
    assert_eq!(answer, given, "the agent's own spans belong to its attempt");
    let silent = named(spans, "task silent")[0];
    assert_eq!(silent.status, SpanStatus::Unset);
    let missed = named(spans, "signal never")[0];
    assert_eq!(missed.status, SpanStatus::Error("SIGNAL_TIMEOUT".into()));
    let missing = named(spans, "child missing")[0];
    assert_eq!(missing.status, SpanStatus::Error("WORKFLOW_NOT_FOUND".into()));

    let child = spans_of(&of_child).spans;
    let (operation, own) = (named(spans, "child child")[0], named(&child, "workflow child")[0]);
    assert_eq!((own.trace_id, own.parent), (caller.trace_id, Some(operation.span_id)));
}

/// A signal goes to the wait that was requested first, which need not be the one that began first.
async fn two_waits(context: WorkflowContext, _: ()) -> Result<(), WorkflowError> {
    let hour = Duration::from_secs(3600);
    let first = context.signal::<()>("go").timeout(hour);
    let second = context.signal::<()>("go").timeout(hour);
    let first = async {
        first.await?;
        context.step("after the first", || async { Ok::<_, TaskError>(()) }).await
    };
    let (second, first) = tokio::join!(second, first);
    first.and(second)
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_the_wait_that_gets_the_signal() {
    let builder = Runtime::builder()
        .store(Arc::new(MemoryStore::new()))
        .broker(Arc::new(MemoryBroker::new()))
        .workflow("two_waits", two_waits);
    let runtime = builder.start().await.unwrap();
    let run = runtime.start("two_waits", &()).id("r1").await.unwrap();
    for awaited in ["signal_awaited", "step_completed"] {
        loop {
            let journal = run.journal(0, 1000).await.unwrap();
            if journal.iter().any(|it| it.event.event_type.action() == awaited) {
                break;
            }
            SystemClock.sleep(SHORT).await;
        }
        run.signal("go", &()).await.unwrap();
    }
    run.result::<()>().await.unwrap();
    let spans = spans_of(&run.journal(0, 1000).await.unwrap()).spans;
    let end = |span: &&Span| (span.attribute("aios.operation").cloned(), span.end.unwrap());
    let waits: Vec<_> = named(&spans, "signal go").iter().map(end).collect();
    let step = named(&spans, "step after the first")[0];
    let before = waits.iter().filter(|(_, end)| *end <= step.end.unwrap());
    let operations: Vec<_> = before.map(|(operation, _)| operation.clone()).collect();
    assert_eq!(operations, [Some(AttributeValue::from(1_u64))], "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_give_the_spans_of_a_prefix_unchanged() {
    let (journal, _, _) = run(None).await;
    let whole = spans_of(&journal);
    let context = whole.context.unwrap();
    assert_eq!(context.trace_id, TraceId::of_run(&journal[0].event.id));
    assert_eq!(spans_of(&[]).context, None);
    for length in 1..=journal.len() {
        let part = spans_of(&journal[..length]);
        assert!(whole.spans.starts_with(&part.spans), "after {length} events");
        let open = ids(&part.open);
        assert!(open.is_disjoint(&ids(&part.spans)), "after {length} events");
        assert!(open.is_subset(&ids(&whole.spans)), "after {length} events");
        let known = &ids(&part.spans) | &open;
        for span in part.spans.iter().chain(&part.open) {
            let is_run = span.span_id == context.span_id;
            assert!(is_run || span.parent.is_some_and(|it| known.contains(&it)), "{span:?}");
        }
    }
}

/// A step of two that run together does not begin when the other one ends.
#[tokio::test(flavor = "multi_thread")]
async fn should_begin_parallel_steps_together() {
    let (journal, _, _) = run(None).await;
    let spans = spans_of(&journal).spans;
    let (first, second) = (named(&spans, "step first")[0], named(&spans, "step second")[0]);
    assert!(second.end < first.end, "{first:?} {second:?}");
    assert_eq!(first.start, second.start, "{first:?} {second:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_leave_out_of_a_fork_what_happened_in_its_run() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let runtime = runtime(&store).await;
    let run = runtime.start("child", &2_u32).id("r1").await.unwrap();
    assert_eq!(run.result::<u32>().await.unwrap(), 4);
    let fork = run.fork(1, "r2").await.unwrap();
    assert_eq!(fork.result::<u32>().await.unwrap(), 4);
    let spans = spans_of(&fork.journal(0, 100).await.unwrap()).spans;
    let own = named(&spans, "workflow child")[0];
    assert_eq!(own.attribute("aios.forked_from"), Some(&AttributeValue::Text("r1".into())));
    let original = spans_of(&run.journal(0, 100).await.unwrap()).spans;
    assert!(own.start >= original.last().unwrap().end.unwrap_or(own.start) - MILLISECOND);
    assert_ne!(own.trace_id, original[0].trace_id);
    assert_eq!(own.attribute("aios.run_id"), Some(&AttributeValue::Text("r2".into())));
    assert_eq!(spans.len(), 2, "{spans:?}");
}
