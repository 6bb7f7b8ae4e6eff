//! Every event of a run names the run that it belongs to, and its correlation with others.

use std::sync::Arc;

use aios_agents::{
    prelude::*,
    trace::{SpanId, TraceParent},
};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    broker::{Deliveries, Group, Subscription},
    event::Metadata,
    store::{RecordedEvent, StreamId},
};

use crate::support::workflows::{PATIENCE, result, sqlite, store};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

struct Teller;

impl Agent for Teller {
    type Parameters = u64;
    type Output = u64;

    async fn process_task(&self, context: &TaskContext, number: u64) -> Result<u64, TaskError> {
        context.emit(Event::new("tales.tale.told".parse()?, "teller", &number)?)?;
        Ok(number)
    }
}

async fn child(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
    context.step("keep", || async move { Ok::<_, TaskError>(number) }).await
}

async fn parent(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
    context.set_status("begins");
    context.emit(Event::new("orders.order.placed".parse()?, "shop", &number)?)?;
    context.sleep(std::time::Duration::from_millis(1)).await?;
    let told: u64 = context.task("teller", &number).await?;
    let signal: u64 = context.signal("go").await?;
    let kept: u64 = context.child::<u64>("child", &number).await?;
    Ok(told + signal + kept)
}

fn assert_of_run(recorded: &RecordedEvent, run_id: &str) {
    let (event, metadata) = (&recorded.event, &recorded.event.metadata);
    let event_type = &event.event_type;
    assert_eq!(metadata.run_id.as_deref(), Some(run_id), "{event_type}");
    assert_eq!(metadata.correlation_id.as_deref(), Some("req-7"), "{event_type}");
    assert_eq!(metadata.user_id.as_deref(), Some("ada"), "{event_type}");
    let tenant = metadata.extra.value("tenant").unwrap();
    assert_eq!(tenant.decode::<String>().unwrap(), "t1", "{event_type}");
    let is_caused = event_type.action() != "step_completed" && event_type.action() != "started";
    assert!(metadata.causation_id.is_some() || !is_caused, "{event_type}");
}

async fn check(store: Arc<dyn Store>) {
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
    let group = Subscription::group(Group::new("watch").unwrap(), ["#".parse().unwrap()]);
    let mut heard = broker.subscribe(group).await.unwrap();
    let runtime = Runtime::builder()
        .store(Arc::clone(&store))
        .broker(broker)
        .agent("teller", Teller)
        .workflow("parent", parent)
        .workflow("child", child)
        .start()
        .await
        .unwrap();
    let mut metadata = Metadata {
        correlation_id: Some("req-7".into()),
        user_id: Some("ada".into()),
        traceparent: Some(TRACE.into()),
        ..Metadata::default()
    };
    metadata.extra.insert("tenant", "t1").unwrap();
    let run = runtime.start("parent", &1_u64).id("r1").metadata(metadata).await.unwrap();
    run.signal("go", &5_u64).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 7);

    let journal = run.journal(0, 1000).await.unwrap();
    let incarnation = &journal[0].event.id;
    let caller: TraceParent = TRACE.parse().unwrap();
    let attempt = caller.with_span(SpanId::of_attempt(incarnation, 4, 1)).to_string();
    for recorded in &journal {
        let expected = match recorded.event.event_type.domain() {
            "agents" => &attempt,
            _ => TRACE,
        };
        assert_eq!(recorded.event.metadata.traceparent.as_deref(), Some(expected));
    }
    journal.iter().for_each(|recorded| match recorded.event.event_type.action() {
        // An agent answers with the metadata of its task, not with what the starter added.
        "task_completed" => {
            assert_eq!(recorded.event.metadata.run_id.as_deref(), Some("r1"));
            assert_eq!(recorded.event.metadata.correlation_id.as_deref(), Some("req-7"));
        }
        "placed" => {
            let metadata = &recorded.event.metadata;
            assert_eq!(metadata.run_id.as_deref(), Some("r1"));
            assert_eq!(metadata.correlation_id.as_deref(), Some("req-7"));
            let cause = journal[0].event.id.to_string();
            assert_eq!(metadata.causation_id.as_deref(), Some(&*cause));
        }
        _ => assert_of_run(recorded, "r1"),
    });
    let log = store.read_log(0, 1000).await.unwrap();
    let of_child = |it: &&RecordedEvent| it.stream.run_id().is_some_and(|run| run != "r1");
    let children: Vec<_> = log.iter().filter(of_child).collect();
    assert!(children.len() >= 3, "{children:?}");
    children.iter().for_each(|it| assert_of_run(it, it.stream.run_id().unwrap()));
    let waiting = caller.with_span(SpanId::of_operation(incarnation, 6)).to_string();
    for it in children {
        assert_eq!(it.event.metadata.traceparent.as_deref(), Some(&*waiting));
    }

    assert_heard(&mut heard).await;
}

/// Checks the metadata of the run's events at the broker.
async fn assert_heard(heard: &mut Deliveries) {
    let mut seen = Vec::new();
    while !seen.contains(&"completed".to_owned()) || !seen.contains(&"placed".to_owned()) {
        let delivery =
            tokio::time::timeout(PATIENCE, heard.next()).await.unwrap().unwrap().unwrap();
        let event = &delivery.event;
        let (domain, entity, action) = event.event_type.segments();
        let is_of_run = match domain {
            "workflows" => action != "registered",
            "orders" | "tales" => true,
            _ => false,
        };
        if is_of_run {
            assert!(event.metadata.run_id.is_some(), "{event:?}");
            assert_eq!(event.metadata.correlation_id.as_deref(), Some("req-7"), "{event:?}");
            let trace = event.metadata.traceparent.as_deref().and_then(|it| it.get(..35));
            assert_eq!(trace, TRACE.get(..35), "{event:?}");
        }
        if domain == "tales" {
            assert_eq!(event.metadata.run_id.as_deref(), Some("r1"));
            assert!(event.metadata.causation_id.is_some());
        }
        if entity != "child" {
            seen.push(action.to_owned());
        }
        delivery.ack().await.unwrap();
    }
    assert!(seen.contains(&"told".to_owned()), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_name_run_correlation_and_trace_in_every_event_in_memory() {
    check(store()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_name_run_correlation_and_trace_in_every_event_on_sqlite() {
    check(sqlite().await).await;
}

/// The metadata of a copied event is used to start a run, and to emit an event.
#[tokio::test(flavor = "multi_thread")]
async fn should_publish_the_events_of_a_run_that_has_the_metadata_of_a_copy() {
    async fn tells(context: WorkflowContext, read: Metadata) -> Result<u32, WorkflowError> {
        let mut event = Event::new("tales.tale.told".parse()?, "teller", &7)?;
        event.metadata_mut().extra = read.extra;
        context.emit(event)?;
        context.run("one", || async { 1 }).await
    }
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
    let group = Subscription::group(Group::new("watch").unwrap(), ["#".parse().unwrap()]);
    let mut heard = broker.subscribe(group).await.unwrap();
    let builder = crate::support::workflows::runtime(&store()).broker(Arc::clone(&broker));
    let runtime = builder.workflow("tells", tells).start().await.unwrap();
    let run = runtime.start("tells", &Metadata::default()).id("r").await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 1);
    let fork = run.fork(2, "fork").await.unwrap();
    assert_eq!(result::<u32>(&fork).await.unwrap(), 1);
    let journal = fork.journal(0, 100).await.unwrap();
    let copied = journal.iter().find(|it| it.event.event_type.action() == "told").unwrap();
    let metadata = Metadata::clone(&copied.event.metadata);
    assert!(metadata.extra.contains("copy_of"), "{metadata:?}");

    let again = runtime.start("tells", &metadata).metadata(metadata.clone()).id("again");
    assert_eq!(result::<u32>(&again.await.unwrap()).await.unwrap(), 1);
    let mut seen = Vec::new();
    while !seen.contains(&"completed".to_owned()) {
        let delivery =
            tokio::time::timeout(PATIENCE, heard.next()).await.unwrap().unwrap().unwrap();
        let event = &delivery.event;
        if event.metadata.run_id.as_deref() == Some("again") {
            seen.push(event.event_type.action().to_owned());
        }
        delivery.ack().await.unwrap();
    }
    assert_eq!(seen, ["started", "told", "completed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_correlate_a_run_with_itself_unless_told_otherwise() {
    let store = store();
    let runtime = crate::support::workflows::runtime(&store).workflow("child", child).start().await;
    let runtime = runtime.unwrap();
    let run = runtime.start("child", &1_u64).id("alone").await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 1);
    for recorded in run.journal(0, 100).await.unwrap() {
        let metadata = &recorded.event.metadata;
        assert_eq!(metadata.run_id.as_deref(), Some("alone"));
        assert_eq!(metadata.correlation_id.as_deref(), Some("alone"));
    }
    let fork = run.fork(1, "again").await.unwrap();
    assert_eq!(result::<u64>(&fork).await.unwrap(), 1);
    for recorded in fork.journal(0, 100).await.unwrap() {
        assert_eq!(recorded.event.metadata.run_id.as_deref(), Some("again"));
    }
    assert_eq!(StreamId::of_run("again").unwrap().run_id(), Some("again"));
}
