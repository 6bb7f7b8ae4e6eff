//! Every resource, by the client.

use std::time::Duration;

use aios_core::{
    broker::{DeadLetterFilter, Group},
    retry::RetryPolicy,
    store::{RunStatus, TaskStatus},
};
use aios_service::client::{
    AgentQuery, ClientError, EventQuery, PageQuery, ResultError, RunQuery, TaskQuery,
};
use serde_json::{Value, json};

use super::server::Server;
use crate::support::pause;

#[tokio::test(flavor = "multi_thread")]
async fn should_start_runs_and_read_what_they_leave() {
    let server = Server::start().await;
    let client = server.client();
    let run = client.start("welcome", &"Ada").id("a/b ü").await.unwrap();
    assert_eq!(run.result::<String>().await.unwrap(), "Hello, Ada!");
    // The same start again is the same run.
    let again = client.start("welcome", &"Ada").id("a/b ü").await.unwrap();
    assert_eq!(again.id(), run.id());
    let other = client.start("welcome", &"Grace").id("a/b ü").await.unwrap_err();
    assert_eq!(other.code(), "RUN_EXISTS");
    let status = run.status().await.unwrap();
    assert_eq!((status.id.as_str(), status.status), ("a/b ü", RunStatus::Completed));
    assert_eq!(status.result.unwrap().decode::<String>().unwrap(), "Hello, Ada!");

    let journal = run.journal(&PageQuery::new().with_limit(2)).await.unwrap();
    assert_eq!((journal.items.len(), journal.next.as_deref()), (2, Some("2")));
    let log = client.log(&EventQuery::new().with_pattern("workflows.*.started"), 10).await.unwrap();
    assert_eq!(log.items[0].event.event_type.as_str(), "workflows.welcome.started");

    let tasks = client.tasks(&TaskQuery::new().with_run("a/b ü")).await.unwrap();
    let task = client.task_with_id(&tasks.items[0].id).await.unwrap();
    assert_eq!((&task.agent_type, &task), (&"greeter".to_owned(), &tasks.items[0]));
    let agents = client.agents(&AgentQuery::new().with_agent_type("greeter")).await.unwrap();
    let agent = client.agent(&agents.items[0].id).await.unwrap();
    assert_eq!(agent, agents.items[0]);
    let workflows = client.workflows(&PageQuery::new()).await.unwrap().items;
    assert!(workflows.iter().any(|workflow| workflow.id == "welcome@1"), "{workflows:?}");
    assert_eq!(client.workflow("welcome").await.unwrap().version, 1);
    let engine = client.engines(&PageQuery::new()).await.unwrap().items.remove(0);
    let shards = client.shards().await.unwrap();
    assert_eq!(shards.len(), 64);
    assert!(shards.iter().all(|shard| shard.engine_id.as_deref() == Some(&engine.id)));
    let me = client.me().await.unwrap();
    assert_eq!((me.id.as_str(), me.permissions), ("anonymous", vec!["*".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_tell_all_faults_of_a_request() {
    let server = Server::start().await;
    let error = server.client().task("Not A Name", &1).agent("a/b").await.unwrap_err();
    let mut paths: Vec<_> = error.faults().into_iter().map(|fault| fault.path).collect();
    paths.sort();
    assert_eq!(
        (error.code(), paths),
        ("INVALID_AGENT_TYPE", vec!["$.agent_id".into(), "$.agent_type".into()])
    );
    assert_eq!(server.client().run("r").status().await.unwrap_err().faults(), []);
}

/// Each command is an event with the trace of its request.
#[tokio::test(flavor = "multi_thread")]
async fn should_pass_a_trace_on_to_every_command() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const OTHER: &str = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let server = Server::start().await;
    let client = server.client();
    let traced = client.with_traceparent(TRACE);
    client.start("approval", &()).id("r").await.unwrap();
    let run = traced.run("r");
    run.pause().await.unwrap();
    run.resume().await.unwrap();
    run.signal("other", &1).await.unwrap();
    run.signal_with_id("s", "other", &1).await.unwrap();
    client.run("r").with_traceparent(TRACE).cancel("enough").await.unwrap();
    let journal = run.journal(&PageQuery::new()).await.unwrap().items;
    let of_type = |name: &str| {
        journal.iter().filter(|it| it.event.event_type.as_str().ends_with(name)).collect::<Vec<_>>()
    };
    assert_eq!(of_type(".started")[0].event.metadata.traceparent, None);
    for (action, count) in [("paused", 1), ("resumed", 1), ("signaled", 2), ("cancel_requested", 1)]
    {
        let found = of_type(&format!(".{action}"));
        assert_eq!(found.len(), count, "{action}");
        for event in found {
            assert_eq!(event.event.metadata.traceparent.as_deref(), Some(TRACE), "{action}");
        }
    }

    let greeted = traced.start("welcome", &"Ada").id("w").await.unwrap();
    greeted.result::<String>().await.unwrap();
    greeted.fork(0, Some("f")).await.unwrap();
    traced.task("greeter", &"Ada").id("t").await.unwrap();
    traced.signal_with_start("approval", "a", &(), "approval", &1).await.unwrap();
    traced.start("welcome", &"Ada").id("o").traceparent(OTHER).await.unwrap();
    for (id, trace) in [("w", TRACE), ("f", TRACE), ("t", TRACE), ("a", TRACE), ("o", OTHER)] {
        let journal = client.run(id).journal(&PageQuery::new()).await.unwrap();
        let started = &journal.items[0].event;
        assert_eq!(started.metadata.traceparent.as_deref(), Some(trace), "{id}");
    }
    let published = traced.publish("orders.order.placed", &1).await.unwrap();
    assert_eq!(published.metadata.traceparent.as_deref(), Some(TRACE));
    let invalid = client.with_traceparent("a\nb").run("r").pause().await.unwrap_err();
    assert_eq!(invalid.code(), "INVALID_REQUEST");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_tell_what_a_run_waits_for() {
    let server = Server::start().await;
    let client = server.client();
    let run = client.start("parent", &()).id("p").await.unwrap();
    assert_eq!(run.status().await.unwrap().waits_for, None);
    let child = client.run("child");
    while child.status().await.is_err() {
        pause().await;
    }
    child.pause().await.unwrap();
    let waits_for = run.status().await.unwrap().waits_for;
    assert_eq!(waits_for.as_deref(), Some("child approval \"child\" is paused"));
    let list = client.runs(&RunQuery::new().with_workflow("parent")).await.unwrap();
    assert_eq!(list.items[0].waits_for, None, "a list does not look for it");
    child.resume().await.unwrap();
    assert_eq!(run.status().await.unwrap().waits_for, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_page_through_all_runs() {
    let server = Server::start().await;
    let client = server.client();
    for number in 0..7 {
        let run = client.start("welcome", &"Ada").id(format!("r{number}")).await.unwrap();
        run.result::<String>().await.unwrap();
    }
    let (mut page, mut found) = (PageQuery::new().with_limit(3), Vec::new());
    let query = RunQuery::new().with_workflow("welcome").with_statuses([RunStatus::Completed]);
    loop {
        let runs = client.runs(&query.clone().with_page(page)).await.unwrap();
        found.extend(runs.items.into_iter().map(|run| run.id));
        let Some(next) = runs.next else { break };
        page = PageQuery::new().with_limit(3).with_after(next);
    }
    found.sort_unstable();
    assert_eq!(found, (0..7).map(|number| format!("r{number}")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn should_control_runs() {
    let server = Server::start().await;
    let client = server.client();
    let run = client.start("approval", &1).await.unwrap();
    run.pause().await.unwrap();
    assert_eq!(run.status().await.unwrap().status, RunStatus::Paused);
    assert!(run.result_within::<Value>(Duration::ZERO).await.unwrap().is_none());
    run.resume().await.unwrap();
    run.signal("approval", &json!({ "by": "Ada" })).await.unwrap();
    assert_eq!(run.result::<Value>().await.unwrap(), json!({ "by": "Ada" }));
    assert_eq!(run.signal("approval", &1).await.unwrap_err().code(), "RUN_ENDED");

    let greeted = client.start("welcome", &"Ada").await.unwrap();
    greeted.result::<String>().await.unwrap();
    let forked = greeted.fork(0, Some("forked")).await.unwrap();
    assert_eq!(
        (forked.id(), forked.result::<String>().await.unwrap()),
        ("forked", "Hello, Ada!".to_owned())
    );
    let waiting = client.start("approval", &1).await.unwrap();
    waiting.cancel("enough").await.unwrap();
    let ended = waiting.result::<Value>().await;
    assert!(matches!(ended, Err(ResultError::Cancelled { .. })), "{ended:?}");

    let early = client.signal_with_start("approval", "r9", &1, "approval", &"first").await.unwrap();
    assert_eq!(early.result::<String>().await.unwrap(), "first");
    let late = client.start("welcome", &"Ada").after(Duration::from_secs(3600)).await.unwrap();
    assert_eq!(late.status().await.unwrap().status, RunStatus::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_assign_tasks_publish_events_and_see_dead_letters() {
    let server = Server::start().await;
    let client = server.client();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let task = client.task("greeter", &"Ada").timeout(Duration::from_secs(60)).traceparent(trace);
    let task = task.await.unwrap();
    assert_eq!(task.result::<String>().await.unwrap(), "Hello, Ada!");
    let journal = task.journal(&PageQuery::new().with_limit(1)).await.unwrap();
    assert_eq!(journal.items[0].event.metadata.traceparent.as_deref(), Some(trace));
    let event = client.publish("orders.order.placed", &json!({ "id": 7 })).id("e1").await;
    let event = event.unwrap();
    assert_eq!((event.id.as_str(), event.position), ("e1", None));
    let reserved = client.publish("workflows.a.started", &1).await.unwrap_err();
    assert_eq!(reserved.code(), "RESERVED_EVENT_TYPE");
    let letters = client.dead_letters(Group::new("agents.greeter").unwrap());
    assert!(letters.list(&PageQuery::new()).await.unwrap().items.is_empty());
    assert_eq!(letters.redrive(&DeadLetterFilter::All).await.unwrap(), 0);
    assert_eq!(letters.purge(&DeadLetterFilter::Ids(Vec::new())).await.unwrap(), 0);
    let unknown = client.dead_letters(Group::new("unknown").unwrap());
    assert_eq!(unknown.list(&PageQuery::new()).await.unwrap_err().code(), "UNKNOWN_ADDRESS");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_report_errors_by_code_with_the_id_of_the_request() {
    let server = Server::start().await;
    let client = server.client();
    let error = client.run("nothing").status().await.unwrap_err();
    let ClientError::Service { status, code, request_id, details, .. } = error else { panic!() };
    assert_eq!((status, code.as_str()), (404, "RUN_NOT_FOUND"));
    assert_eq!(details, json!({ "id": "nothing" }));
    assert!(request_id.is_some());
    let run = client.start("failing", &1).id("r1").await.unwrap();
    let failed = run.result::<Value>().await.unwrap_err();
    assert_eq!(failed.code(), "CARD_DECLINED", "{failed}");
    let run = client.start("welcome", &"Ada").await.unwrap();
    assert_eq!(run.result::<u64>().await.unwrap_err().code(), "INVALID_RESULT");
    for id in ["", ".", ".."] {
        assert_eq!(client.run(id).status().await.unwrap_err().code(), "INVALID_REQUEST", "{id:?}");
    }
    assert_eq!(client.start("nothing", &1).await.unwrap_err().code(), "WORKFLOW_NOT_FOUND");
    let cursor = PageQuery::new().with_after("nonsense");
    assert_eq!(client.workflows(&cursor).await.unwrap_err().code(), "INVALID_CURSOR");
}

/// The service takes nine digits.
#[tokio::test(flavor = "multi_thread")]
async fn should_wait_for_any_time() {
    let server = Server::start().await;
    let run = server.client().start("welcome", &"Ada").await.unwrap();
    run.result::<String>().await.unwrap();
    for wait in [Duration::from_secs(30 * 24 * 60 * 60), Duration::MAX] {
        let greeting = run.result_within::<String>(wait).await.unwrap();
        assert_eq!(greeting.as_deref(), Some("Hello, Ada!"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_wait_for_a_task_and_cancel_another() {
    let server = Server::start().await;
    let client = server.client();
    let agents = client.agents(&AgentQuery::new()).await.unwrap().items;
    let agent = &agents[0].id;
    let policy = RetryPolicy::fixed(3, Duration::from_secs(1));
    let task = client.task("greeter", "Ada").agent(agent).id("t1");
    let run = task.retry(policy).correlation_id("c-1").await.unwrap();
    let started = run.journal(&PageQuery::new()).await.unwrap().items.swap_remove(0).event;
    assert_eq!(started.metadata.correlation_id.as_deref(), Some("c-1"));
    assert!(started.payload.as_str().contains(r#""max_attempts":3"#), "{started:?}");
    assert_eq!(run.result::<String>().await.unwrap(), "Hello, Ada!");
    let ended = client.task_result("t1/1", Duration::from_secs(20)).await.unwrap().unwrap();
    assert_eq!(ended.status, TaskStatus::Completed);
    assert_eq!(ended.output.unwrap().as_str(), r#""Hello, Ada!""#);
    let mut events = client.agent_events(agent, Some(0));
    let mut next = async || events.next().await.unwrap().unwrap().event.event_type.to_string();
    while next().await != "agents.greeter.task_completed" {}

    client.task("nowhere", "Ada").id("t2").await.unwrap();
    while client.task_with_id("t2/1").await.is_err() {
        crate::support::pause().await;
    }
    assert!(client.task_result("t2/1", Duration::ZERO).await.unwrap().is_none());
    client.cancel_task("t2/1", "not needed").await.unwrap();
    let ended = client.task_result("t2/1", Duration::from_secs(20)).await.unwrap().unwrap();
    assert_eq!(ended.status, TaskStatus::Cancelled);

    let run = client.start("approval", &1).id("r1").await.unwrap();
    for _ in 0..2 {
        run.signal_with_id("payment-1", "other", &1).await.unwrap();
    }
    let journal = run.journal(&PageQuery::new()).await.unwrap().items;
    let signals = journal.iter().filter(|it| it.event.event_type.action() == "signaled");
    assert_eq!(signals.count(), 1);
}
