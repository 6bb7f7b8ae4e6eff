//! The resources of the API.

use std::{sync::Arc, time::Duration};

use aios_agents::prelude::*;
use aios_broker::memory::MemoryBroker;
use aios_core::{
    broker::{Group, Subscription},
    event::{Pattern, Payload},
};
use aios_service::http::ApiOptions;
use serde_json::{Value, json};

use crate::support::{Answer, Jump, Service, on_every_store, pause, text};

on_every_store! {
    should_start_a_run_and_return_its_result
    should_return_documents_in_the_shape_of_the_api
    should_return_the_same_run_for_the_same_id
    should_signal_pause_resume_and_cancel_runs
    should_wait_for_a_result_and_say_that_there_is_none
    should_tell_why_a_run_failed
    should_start_a_run_with_its_signal
    should_fork_a_run
    should_retry_a_failed_run
    should_read_a_journal_in_pages
    should_list_runs_in_pages_that_fit_together
    should_list_runs_by_status_and_workflow
    should_assign_tasks_and_find_them
    should_cancel_tasks_outside_of_workflows
    should_return_the_results_of_tasks
    should_list_and_find_agents
    should_list_and_find_workflows
    should_read_the_log_by_position_and_pattern
    should_publish_events
    should_list_redrive_and_purge_dead_letters
    should_find_runs_with_any_id
}

async fn start(service: &Service, workflow: &str, id: &str, input: Value) {
    let body = json!({ "run_id": id, "input": input });
    let answer = service.post(&format!("/workflows/{workflow}/actions/execute"), &body).await;
    assert_eq!(answer.status, 202, "{answer:?}");
}

async fn should_start_a_run_and_return_its_result(service: Service) {
    let body = json!({ "input": "Ada", "run_id": "welcome-ada" });
    let started = service.post("/workflows/welcome/actions/execute", &body).await;
    assert_eq!(started.status, 202, "{started:?}");
    assert_eq!(started.headers["location"], "/api/v1/runs/welcome-ada");
    let result = service.result("welcome-ada").await;
    assert_eq!(result.status, 200, "{result:?}");
    let expected = json!({ "status": "completed", "result": "Hello, Ada!", "failure": null });
    assert_eq!(*result.attributes(), expected);
    let run = service.get("/runs/welcome-ada").await;
    assert_eq!(run.attributes()["status"], "completed");
    assert_eq!(run.attributes()["result"], "Hello, Ada!");
}

async fn should_return_documents_in_the_shape_of_the_api(service: Service) {
    start(&service, "welcome", "r1", json!("Ada")).await;
    let run = service.get("/runs/r1").await;
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&run.body), ["data", "meta"]);
    let mut data = keys(&run.body["data"]);
    data.sort_unstable();
    assert_eq!(data, ["attributes", "id", "type"]);
    assert_eq!((&run.body["data"]["id"], &run.body["data"]["type"]), (&json!("r1"), &json!("run")));
    assert_eq!(keys(&run.body["meta"]), ["timestamp", "version"]);
    assert_eq!(run.body["meta"]["version"], "1.0.0");
    let timestamp = run.body["meta"]["timestamp"].as_str().unwrap();
    assert!(timestamp.ends_with('Z'), "{timestamp}");
    let list = service.get("/runs").await;
    assert!(list.body["data"].is_array() && list.body["meta"]["next"].is_null(), "{list:?}");
    assert_eq!(list.headers["content-type"], "application/json");
}

async fn should_return_the_same_run_for_the_same_id(service: Service) {
    start(&service, "approval", "r1", json!(1)).await;
    start(&service, "approval", "r1", json!(1)).await;
    let body = json!({ "run_id": "r1", "input": 2 });
    let other = service.post("/workflows/approval/actions/execute", &body).await;
    assert_eq!(other.fault(), (409, "RUN_EXISTS"));
    assert_eq!(other.body["error"]["details"]["run_id"], "r1");
}

async fn should_signal_pause_resume_and_cancel_runs(service: Service) {
    start(&service, "approval", "r1", json!(null)).await;
    let paused = service.post("/runs/r1/actions/pause", &json!({})).await;
    assert_eq!((paused.status.as_u16(), &paused.attributes()["status"]), (202, &json!("paused")));
    let resumed = service.post("/runs/r1/actions/resume", &json!({})).await;
    assert_eq!(resumed.attributes()["status"], "running");
    let signal = json!({ "name": "approval", "payload": { "by": "Ada" } });
    assert_eq!(service.post("/runs/r1/actions/signal", &signal).await.status, 202);
    assert_eq!(service.result("r1").await.attributes()["result"], json!({ "by": "Ada" }));
    let late = service.post("/runs/r1/actions/signal", &signal).await;
    assert_eq!(late.fault(), (409, "RUN_ENDED"));

    start(&service, "approval", "r2", json!(null)).await;
    let body = json!({ "reason": "not needed" });
    assert_eq!(service.post("/runs/r2/actions/cancel", &body).await.status, 202);
    let result = service.result("r2").await;
    assert_eq!(result.attributes()["status"], "cancelled");
    assert!(result.attributes()["failure"]["message"].as_str().unwrap().contains("not needed"));

    start(&service, "approval", "r3", json!(null)).await;
    let body = json!({ "reason": "no way", "terminate": true });
    assert_eq!(service.post("/runs/r3/actions/cancel", &body).await.status, 202);
    let result = service.result("r3").await;
    assert_eq!(result.attributes()["status"], "cancelled");
    assert_eq!(result.attributes()["failure"]["details"]["terminated"], "no way");
}

async fn should_wait_for_a_result_and_say_that_there_is_none(service: Service) {
    start(&service, "approval", "r1", json!(null)).await;
    for path in ["/runs/r1/result", "/runs/r1/result?wait=10ms"] {
        let result = service.get(path).await;
        assert_eq!(
            (result.status.as_u16(), &result.attributes()["status"]),
            (202, &json!("running"))
        );
    }
    let waiting = service.result("r1");
    let signal = json!({ "name": "approval" });
    let (result, signalled) =
        tokio::join!(waiting, service.post("/runs/r1/actions/signal", &signal));
    assert_eq!((result.status.as_u16(), signalled.status.as_u16()), (200, 202));
}

async fn should_tell_why_a_run_failed(service: Service) {
    start(&service, "failing", "r1", json!(null)).await;
    let result = service.result("r1").await;
    assert_eq!(result.status, 200, "a failure is data, not an error of the request");
    assert_eq!(result.attributes()["status"], "failed");
    assert_eq!(result.attributes()["failure"]["code"], "CARD_DECLINED");
}

async fn should_start_a_run_with_its_signal(service: Service) {
    let body = json!({
        "run_id": "r1",
        "input": 1,
        "signal": { "name": "approval", "payload": "yes", "id": "webhook-1" },
    });
    for _ in 0..2 {
        let answer = service.post("/workflows/approval/actions/signal-with-start", &body).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(service.result("r1").await.attributes()["result"], "yes");
    }
}

async fn should_fork_a_run(service: Service) {
    start(&service, "welcome", "r1", json!("Ada")).await;
    assert_eq!(service.result("r1").await.status, 200);
    let journal = service.get("/runs/r1/journal?limit=1000").await;
    let assigned = journal.body["data"].as_array().unwrap().iter();
    let operation = assigned
        .filter_map(|event| event["attributes"]["data"]["operation"].as_u64())
        .next()
        .unwrap_or(1);
    let body = json!({ "operation": operation, "run_id": "r2" });
    let forked = service.post("/runs/r1/actions/fork", &body).await;
    assert_eq!(forked.status, 202, "{forked:?}");
    assert_eq!(forked.headers["location"], "/api/v1/runs/r2");
    assert_eq!(service.result("r2").await.attributes()["result"], "Hello, Ada!");
    for operation in [json!(99), json!(99.0)] {
        let missing =
            service.post("/runs/r1/actions/fork", &json!({ "operation": operation })).await;
        assert_eq!(missing.fault(), (404, "OPERATION_NOT_FOUND"));
    }
}

async fn should_retry_a_failed_run(service: Service) {
    let invalid = json!({ "run_id": "r1", "agent_type": "greeter", "parameters": 1 });
    assert_eq!(service.post("/tasks", &invalid).await.status, 202);
    assert_eq!(service.result("r1").await.attributes()["status"], "failed");
    let retried = service.post("/runs/r1/actions/retry", &json!({ "run_id": "r2" })).await;
    assert_eq!((retried.status.as_u16(), &retried.body["data"]["id"]), (202, &json!("r2")));
    assert_eq!(retried.headers["location"], "/api/v1/runs/r2");
    assert_eq!(service.result("r2").await.attributes()["status"], "failed");
    let journal = service.get("/runs/r2/journal").await;
    assert_eq!(journal.body["data"][0]["attributes"]["data"]["retry_of"], "r1");
    start(&service, "failing", "r3", json!(null)).await;
    service.result("r3").await;
    let refused = service.post("/runs/r3/actions/retry", &json!({})).await;
    assert_eq!(refused.fault(), (409, "NO_FAILED_OPERATION"));
    start(&service, "approval", "r4", json!(null)).await;
    let refused = service.post("/runs/r4/actions/retry", &json!({})).await;
    assert_eq!(refused.fault(), (409, "RUN_NOT_FAILED"));
    assert_eq!(refused.body["error"]["details"], json!({ "run_id": "r4", "status": "running" }));
}

async fn should_read_a_journal_in_pages(service: Service) {
    start(&service, "welcome", "r1", json!("Ada")).await;
    assert_eq!(service.result("r1").await.status, 200);
    let (mut after, mut versions, mut types) = (String::from("0"), Vec::new(), Vec::new());
    loop {
        let page = service.get(&format!("/runs/r1/journal?limit=2&after={after}")).await;
        for event in page.body["data"].as_array().unwrap() {
            versions.push(event["attributes"]["version"].as_u64().unwrap());
            types.push(event["attributes"]["type"].as_str().unwrap().to_owned());
        }
        match page.body["meta"]["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(versions, (1..=versions.len() as u64).collect::<Vec<_>>());
    assert_eq!(types.first().unwrap(), "workflows.welcome.started");
    assert_eq!(types.last().unwrap(), "workflows.welcome.completed");
}

async fn should_list_runs_in_pages_that_fit_together(service: Service) {
    for number in 0..7 {
        start(&service, "approval", &format!("r{number}"), json!(null)).await;
    }
    let (mut query, mut ids, mut pages) = ("?limit=3".to_owned(), Vec::new(), 0);
    loop {
        let page = service.get(&format!("/runs{query}")).await;
        let runs = page.body["data"].as_array().unwrap();
        ids.extend(runs.iter().map(|run| run["id"].as_str().unwrap().to_owned()));
        pages += 1;
        match page.body["meta"]["next"].as_str() {
            Some(next) => query = format!("?limit=3&after={next}"),
            None => break,
        }
    }
    ids.sort_unstable();
    assert_eq!((ids.len(), pages), (7, 3));
    assert_eq!(ids, (0..7).map(|number| format!("r{number}")).collect::<Vec<_>>());
}

async fn should_list_runs_by_status_and_workflow(service: Service) {
    start(&service, "approval", "a", json!(null)).await;
    start(&service, "welcome", "w", json!("Ada")).await;
    assert_eq!(service.result("w").await.status, 200);
    for (query, expected) in [
        ("status=running", vec!["a"]),
        ("status=completed,failed", vec!["w"]),
        ("workflow=approval&status=running", vec!["a"]),
        ("workflow=approval&status=completed", vec![]),
        ("workflow=unknown", vec![]),
    ] {
        let list = service.get(&format!("/runs?{query}")).await;
        let runs = list.body["data"].as_array().unwrap().iter();
        let ids: Vec<_> = runs.map(|run| run["id"].as_str().unwrap()).collect();
        assert_eq!(ids, expected, "{query}");
    }
}

async fn should_assign_tasks_and_find_them(service: Service) {
    let body = json!({ "agent_type": "greeter", "parameters": "Ada", "run_id": "t", "timeout_seconds": 5.5 });
    let started = service.post("/tasks", &body).await;
    assert_eq!(
        (started.status.as_u16(), &started.headers["location"]),
        (202, &"/api/v1/runs/t".parse().unwrap())
    );
    assert_eq!(service.result("t").await.attributes()["result"], "Hello, Ada!");
    let list = service.get("/tasks?run_id=t&status=completed").await;
    let id = list.body["data"][0]["id"].as_str().unwrap().to_owned();
    let task = service.get(&format!("/tasks/{}", id.replace('/', "%2F"))).await;
    assert_eq!((task.status.as_u16(), &task.body["data"]["id"]), (200, &json!(id)));
    assert_eq!(task.attributes()["agent_type"], "greeter");
    assert_eq!(service.get("/tasks/t%2F99").await.fault(), (404, "TASK_NOT_FOUND"));

    let agents = service.get("/agents").await;
    let agent = agents.body["data"][0]["id"].as_str().unwrap().to_owned();
    let body = json!({ "parameters": "Bob", "run_id": "t2" });
    let started = service.post(&format!("/agents/{agent}/tasks"), &body).await;
    assert_eq!(started.status, 202, "{started:?}");
    assert_eq!(service.result("t2").await.attributes()["result"], "Hello, Bob!");
    let tasks = service.get(&format!("/agents/{agent}/tasks")).await;
    assert_eq!(tasks.body["data"].as_array().unwrap().len(), 1, "{tasks:?}");
    let unknown = service.post("/agents/unknown/tasks", &json!({})).await;
    assert_eq!(unknown.fault(), (404, "AGENT_NOT_FOUND"));
}

/// The path of the only task of a run.
async fn task_of(service: &Service, run: &str) -> String {
    loop {
        let tasks = service.get(&format!("/tasks?run_id={run}")).await;
        match tasks.body["data"][0]["id"].as_str() {
            Some(id) => return format!("/tasks/{}", id.replace('/', "%2F")),
            None => pause().await,
        }
    }
}

async fn should_cancel_tasks_outside_of_workflows(service: Service) {
    let waiting = json!({ "run_id": "t1", "agent_type": "unheard_of" });
    assert_eq!(service.post("/tasks", &waiting).await.status, 202);
    let task = task_of(&service, "t1").await;
    let result = service.get(&format!("{task}/result?wait=10ms")).await;
    assert_eq!((result.status.as_u16(), &result.attributes()["status"]), (202, &json!("assigned")));
    let path = format!("{task}/actions/cancel");
    let cancelled = service.post(&path, &json!({ "reason": "not needed" })).await;
    assert_eq!(cancelled.status, 202, "{cancelled:?}");
    assert_eq!(cancelled.headers["location"], format!("/api/v1{task}"));
    assert_eq!(service.result("t1").await.attributes()["status"], "cancelled");
    let result = service.get(&format!("{task}/result?wait=20s")).await;
    assert_eq!(
        (result.status.as_u16(), &result.attributes()["status"]),
        (200, &json!("cancelled"))
    );
    assert_eq!(service.post(&path, &json!({})).await.fault(), (409, "RUN_ENDED"));
    let missing = service.post("/tasks/nothing/actions/cancel", &json!({})).await;
    assert_eq!(missing.fault(), (404, "TASK_NOT_FOUND"));

    start(&service, "welcome", "r1", json!("Ada")).await;
    let task = task_of(&service, "r1").await;
    let refused = service.post(&format!("{task}/actions/cancel"), &json!({})).await;
    assert_eq!(refused.fault(), (409, "TASK_OF_WORKFLOW"));
    assert_eq!(refused.body["error"]["details"], json!({ "run_id": "r1" }));
}

async fn should_return_the_results_of_tasks(service: Service) {
    start(&service, "welcome", "r1", json!("Ada")).await;
    let task = task_of(&service, "r1").await;
    let result = service.get(&format!("{task}/result?wait=20s")).await;
    let expected = json!({ "status": "completed", "output": "Hello, Ada!", "failure": null });
    assert_eq!((result.status.as_u16(), result.attributes()), (200, &expected));
    let again = service.get(&format!("{task}/result")).await;
    assert_eq!((again.status.as_u16(), again.attributes()), (200, &expected));
    let invalid = json!({ "run_id": "r2", "agent_type": "greeter", "parameters": 1 });
    service.post("/tasks", &invalid).await;
    let task = task_of(&service, "r2").await;
    let failed = service.get(&format!("{task}/result?wait=20s")).await;
    assert_eq!((failed.status.as_u16(), &failed.attributes()["status"]), (200, &json!("failed")));
    assert_eq!(failed.attributes()["failure"]["code"], "INVALID_PARAMETERS");
    assert_eq!(service.get("/tasks/nothing/result").await.fault(), (404, "TASK_NOT_FOUND"));
}

/// A service on which a wait of this length ends in the moment in which the run `r1` has ended.
async fn ending(wait: Duration, end: &'static str) -> Service {
    let clock = Jump::over(wait);
    let options = ApiOptions::new().with_clock(Arc::clone(&clock) as Arc<_>);
    let service = Service::with(options).await;
    let runtime = Arc::clone(&service.runtime);
    clock.set(Box::new(move || {
        let runtime = Arc::clone(&runtime);
        Box::pin(async move {
            let run = runtime.handle("r1").await.unwrap();
            match end {
                "signal" => run.signal("approval", "yes").await.unwrap(),
                _ => run.cancel("not needed").await.unwrap(),
            }
            let _ = run.result::<Value>().await;
        })
    }));
    service
}

#[tokio::test(flavor = "multi_thread")]
async fn should_answer_with_the_outcome_of_a_run_that_ends_with_the_wait() {
    for (end, expected) in [("signal", "completed"), ("cancel", "cancelled")] {
        let service = ending(Duration::from_millis(1234), end).await;
        start(&service, "approval", "r1", json!(null)).await;
        let answer = service.get("/runs/r1/result?wait=1234ms").await;
        assert_eq!(
            (answer.status.as_u16(), &answer.attributes()["status"]),
            (200, &json!(expected))
        );
        let again = service.get("/runs/r1/result").await;
        assert_eq!(answer.attributes(), again.attributes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_answer_with_the_outcome_of_a_task_that_ends_with_the_wait() {
    let service = ending(Duration::from_millis(1234), "cancel").await;
    let body = json!({ "run_id": "r1", "agent_type": "unknown", "parameters": 1 });
    assert_eq!(service.post("/tasks", &body).await.status, 202);
    let task = task_of(&service, "r1").await;
    let answer = service.get(&format!("{task}/result?wait=1234ms")).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.attributes()["status"]),
        (200, &json!("cancelled"))
    );
}

/// Reading the journal takes longer than any wait.
#[tokio::test(flavor = "multi_thread")]
async fn should_find_the_result_of_a_task_however_long_its_journal_is() {
    for wait in [500, 1] {
        let clock = Jump::over(Duration::from_millis(wait));
        let service = Service::on_sqlite_with(ApiOptions::new().with_clock(clock)).await;
        start(&service, "welcome", "r1", json!("Ada")).await;
        let task = task_of(&service, "r1").await;
        service.result("r1").await;
        let answer = service.get(&format!("{task}/result?wait={wait}ms")).await;
        let expected = json!({ "status": "completed", "output": "Hello, Ada!", "failure": null });
        assert_eq!((answer.status.as_u16(), answer.attributes()), (200, &expected));
    }
}

async fn should_list_and_find_agents(service: Service) {
    let list = service.get("/agents?agent_type=greeter&status=running").await;
    let agent = &list.body["data"][0];
    assert_eq!(agent["type"], "greeter_agent");
    let found = service.get(&format!("/agents/{}", agent["id"].as_str().unwrap())).await;
    assert_eq!(found.body["data"]["id"], agent["id"]);
    assert_eq!(service.get("/agents/unknown").await.fault(), (404, "AGENT_NOT_FOUND"));
    assert_eq!(service.get("/agents?agent_type=other").await.body["data"], json!([]));
    assert_eq!(service.get("/agents?status=asleep").await.fault(), (400, "MALFORMED_REQUEST"));
}

async fn should_list_and_find_workflows(service: Service) {
    let list = service.get("/workflows?limit=1000").await;
    let ids = list.body["data"].as_array().unwrap().iter();
    let mut ids: Vec<_> = ids.map(|it| it["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(
        ids,
        ["approval@1", "failing@1", "parent@1", "refused@1", "single_task@1", "welcome@1"]
    );
    let named = service.get("/workflows?name=welcome").await;
    assert_eq!(named.body["data"].as_array().unwrap().len(), 1, "{named:?}");
    assert_eq!(named.body["data"][0]["id"], "welcome@1");
    for id in ["welcome", "welcome@1"] {
        let workflow = service.get(&format!("/workflows/{id}")).await;
        assert_eq!(workflow.body["data"]["id"], "welcome@1");
    }
    assert_eq!(service.get("/workflows/other").await.fault(), (404, "WORKFLOW_NOT_FOUND"));
    let unknown = service.post("/workflows/wellcome/actions/execute", &json!({})).await;
    assert_eq!(unknown.fault(), (404, "WORKFLOW_NOT_FOUND"));
}

async fn should_read_the_log_by_position_and_pattern(service: Service) {
    start(&service, "welcome", "r1", json!("Ada")).await;
    assert_eq!(service.result("r1").await.status, 200);
    let (mut after, mut positions) = (0, Vec::new());
    loop {
        let page = service.get(&format!("/events?limit=4&after={after}")).await;
        let events = page.body["data"].as_array().unwrap().iter();
        positions.extend(events.map(|event| event["attributes"]["position"].as_u64().unwrap()));
        match page.body["meta"]["next"].as_str() {
            Some(next) => after = next.parse().unwrap(),
            None => break,
        }
    }
    assert_eq!(positions, (1..=positions.len() as u64).collect::<Vec<_>>());
    let page = service.get("/events?pattern=workflows.*.completed").await;
    assert_eq!(page.body["data"].as_array().unwrap().len(), 1);
    assert_eq!(page.body["data"][0]["attributes"]["stream"], "runs/r1");
    assert_eq!(service.get("/events?pattern=a..b").await.fault(), (400, "INVALID_PATTERN"));
}

async fn should_publish_events(service: Service) {
    let group: Group = "orders".parse().unwrap();
    let subscription = Subscription::group(group, ["orders.#".parse::<Pattern>().unwrap()]);
    let mut deliveries = service.runtime.broker().subscribe(subscription).await.unwrap();
    let body = json!({ "type": "orders.order.placed", "data": { "tea": 1 }, "id": "order-1" });
    let answer = service.post("/events", &body).await;
    assert_eq!((answer.status.as_u16(), &answer.body["data"]["id"]), (202, &json!("order-1")));
    let delivery = deliveries.next().await.unwrap().unwrap();
    assert_eq!(delivery.event.id.to_string(), "order-1");
    assert_eq!(delivery.event.payload.as_str(), r#"{"tea":1}"#);
    assert_eq!(&*delivery.event.source, "http/anonymous");
    let reserved = service.post("/events", &json!({ "type": "workflows.x.completed" })).await;
    assert_eq!(reserved.fault(), (403, "RESERVED_EVENT_TYPE"));
    let invalid = service.post("/events", &json!({ "type": "orders" })).await;
    assert_eq!(invalid.fault(), (422, "INVALID_EVENT_TYPE"));
}

async fn should_list_redrive_and_purge_dead_letters(service: Service) {
    let group: Group = "orders".parse().unwrap();
    let subscription = Subscription::group(group, ["orders.#".parse::<Pattern>().unwrap()]);
    let mut deliveries = service.runtime.broker().subscribe(subscription).await.unwrap();
    let path = "/dead-letters/groups/orders";
    for id in ["order-1", "order-2"] {
        let body = json!({ "type": "orders.order.placed", "id": id });
        assert_eq!(service.post("/events", &body).await.status, 202);
        deliveries.next().await.unwrap().unwrap().dead_letter("no tea".to_owned()).await.unwrap();
    }
    let list = service.get(path).await;
    assert_eq!(list.body["data"].as_array().unwrap().len(), 2, "{list:?}");
    assert_eq!(list.body["data"][0]["attributes"]["reason"], "no tea");
    let ids = |answer: &Answer| -> Vec<_> {
        answer.body["data"].as_array().unwrap().iter().map(|it| it["id"].clone()).collect()
    };
    let placed = service.get(&format!("{path}?pattern=orders.*.placed")).await;
    assert_eq!(ids(&placed), [json!("order-1"), json!("order-2")]);
    let others = service.get(&format!("{path}?pattern=orders.*.paid")).await;
    assert!(ids(&others).is_empty());
    let first = service.get(&format!("{path}?limit=1")).await;
    let next = first.body["meta"]["next"].as_str().unwrap();
    assert_eq!((ids(&first), next.starts_with("dead-letters.")), (vec![json!("order-1")], true));
    let second = format!("{path}?limit=1&after={next}");
    let last = service.get(&second).await;
    assert_eq!((ids(&last), &last.body["meta"]["next"]), (vec![json!("order-2")], &json!(null)));
    let one = json!({ "ids": ["order-1"] });
    let redriven = service.post(&format!("{path}/actions/redrive"), &one).await;
    assert_eq!((redriven.status.as_u16(), &redriven.attributes()["count"]), (200, &json!(1)));
    assert_eq!(deliveries.next().await.unwrap().unwrap().event.id.to_string(), "order-1");
    assert_eq!(service.get(&second).await.fault(), (400, "INVALID_CURSOR"));
    let purged = service.post(&format!("{path}/actions/purge"), &json!({ "all": true })).await;
    assert_eq!(purged.attributes()["count"], 1);
    let none = service.post(&format!("{path}/actions/purge"), &json!({})).await;
    assert_eq!(none.fault(), (422, "INVALID_REQUEST"));
    assert_eq!(service.get("/dead-letters/groups/unknown").await.fault(), (404, "UNKNOWN_ADDRESS"));
    assert_eq!(service.get("/dead-letters/groups/a%2Fb").await.fault(), (400, "INVALID_NAME"));
    assert_eq!(service.get("/dead-letters/others/a").await.fault(), (400, "MALFORMED_REQUEST"));
}

async fn should_find_runs_with_any_id(service: Service) {
    for (id, path) in [
        ("a/b", "a%2Fb"),
        ("../../etc/passwd", "..%2F..%2Fetc%2Fpasswd"),
        ("ünï ✓", "%C3%BCn%C3%AF%20%E2%9C%93"),
        ("100%", "100%25"),
        ("?a=b#c", "%3Fa%3Db%23c"),
    ] {
        start(&service, "approval", id, json!(null)).await;
        let run = service.get(&format!("/runs/{path}")).await;
        assert_eq!((run.status.as_u16(), &run.body["data"]["id"]), (200, &json!(id)), "{id}");
    }
}

/// Numbers that no Rust type represents.
const DETAILS: &str =
    r#"{"order":12345678901234567890123,"far":1e400,"near":0.1000000000000000055}"#;

async fn detailed(_: WorkflowContext, _: Value) -> Result<Value, WorkflowError> {
    let details = Payload::from_text(DETAILS.to_owned()).unwrap();
    Err(WorkflowError::failed(Failure::new("SOLD_OUT", "no tea").with_details(details)))
}

#[tokio::test(flavor = "multi_thread")]
async fn should_send_the_details_of_failures_character_by_character() {
    for url in ["memory://", "sqlite::memory:"] {
        let runtime = Runtime::builder()
            .store(aios_store::connect(url).await.unwrap())
            .broker(Arc::new(MemoryBroker::new()))
            .workflow("detailed", detailed)
            .start()
            .await
            .unwrap();
        let service = Service::of(Arc::new(runtime), ApiOptions::new());
        let body = json!({ "run_id": "d", "input": null });
        let started = service.post("/workflows/detailed/actions/execute", &body).await;
        assert_eq!(started.status, 202, "{started:?}");
        service.result("d").await;
        for path in ["/runs/d", "/runs/d/result", "/runs/d/journal", "/runs"] {
            let text = text(&service.router, path).await;
            assert!(text.contains(DETAILS), "{path}: {text}");
        }
    }
}
