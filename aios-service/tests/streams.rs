//! Server-sent events.

use std::{sync::Arc, time::Duration};

use aios_core::{
    clock::VirtualClock,
    event::{Event, Timestamp},
    store::{Append, EventStoreExt, StreamId},
};
use aios_service::{
    auth::{ApiKey, ApiKeyHash, ApiKeys, Permissions},
    http::{ApiOptions, Shutdown},
};
use axum::{
    body::BodyDataStream,
    http::{HeaderValue, Method, Response},
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::support::{Service, on_every_store, request};

on_every_store! {
    should_follow_a_run_to_its_end
    should_continue_after_the_last_event_without_a_gap_or_a_repeat
    should_pass_from_old_events_to_new_ones
    should_tell_where_a_stream_of_new_events_begins
    should_send_only_events_that_match
    should_tell_browsers_to_stop_when_a_run_has_ended
    should_follow_an_agent_and_its_tasks
    should_tell_followers_of_an_agent_that_it_is_missing
}

/// The messages of a stream: their ids and events.
struct Messages {
    body: BodyDataStream,
    text: String,
}

impl Messages {
    async fn open(service: &Service, path: &str, last: Option<u64>) -> Self {
        let response = open(service, path, last).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        Self { body: response.into_body().into_data_stream(), text: String::new() }
    }

    /// The next message with data; `None` at the end of the stream.
    async fn next(&mut self) -> Option<(u64, Value)> {
        loop {
            while let Some((message, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| message.lines().find_map(|line| line.strip_prefix(name));
                let found = field("id: ")
                    .zip(field("data: "))
                    .map(|(id, data)| (id.parse().unwrap(), serde_json::from_str(data).unwrap()));
                self.text = rest.to_owned();
                if found.is_some() {
                    return found;
                }
            }
            let bytes = self.body.next().await?.unwrap();
            self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }

    async fn rest(mut self) -> Vec<(u64, Value)> {
        let mut all = Vec::new();
        while let Some(message) = self.next().await {
            all.push(message);
        }
        all
    }
}

async fn open(service: &Service, path: &str, last: Option<u64>) -> Response<axum::body::Body> {
    let mut get = request(Method::GET, path, None);
    if let Some(last) = last {
        get.headers_mut().insert("last-event-id", HeaderValue::from(last));
    }
    service.router.clone().oneshot(get).await.unwrap()
}

async fn should_follow_an_agent_and_its_tasks(service: Service) {
    let agents = service.get("/agents").await;
    let id = agents.body["data"][0]["id"].as_str().unwrap();
    // A task for any agent of the type is not one of this agent.
    run(&service, "r1").await;
    let mut messages =
        Messages::open(&service, &format!("/agents/{id}/events?after=0"), None).await;
    let (mut position, registered) = messages.next().await.unwrap();
    assert_eq!(registered["attributes"]["type"], "agents.greeter.registered");
    let task = json!({ "run_id": "t1", "parameters": "Ada" });
    service.post(&format!("/agents/{id}/tasks"), &task).await;
    for expected in ["task_directed", "task_completed"] {
        let (next, event) = messages.next().await.unwrap();
        assert_eq!(event["attributes"]["type"], format!("agents.greeter.{expected}"));
        assert_eq!(event["attributes"]["metadata"]["run_id"], "t1");
        assert!(next > position);
        position = next;
    }
    let missing = service.get("/agents/nothing/events").await;
    assert_eq!(missing.fault(), (404, "AGENT_NOT_FOUND"));
}

async fn should_tell_followers_of_an_agent_that_it_is_missing(service: Service) {
    let agents = service.get("/agents").await;
    let id = agents.body["data"][0]["id"].as_str().unwrap();
    let path = format!("/agents/{id}/events");
    let mut messages = Messages::open(&service, &path, None).await;
    for missing in ["another", id] {
        let data = json!({ "agent_id": missing, "agent_type": "greeter", "last_seen_at": null });
        let event_type = "system.agent.heartbeat_missed".parse().unwrap();
        let event = Event::new(event_type, "test", &data).unwrap();
        let stream = StreamId::new(format!("agents/{missing}")).unwrap();
        let append = Append::new(stream, vec![event]);
        service.runtime.store().unwrap().append_one(append).await.unwrap();
    }
    let (_, event) = messages.next().await.unwrap();
    assert_eq!(event["attributes"]["type"], "system.agent.heartbeat_missed");
    assert_eq!(event["attributes"]["data"]["agent_id"], id);
}

async fn run(service: &Service, id: &str) {
    let run = service.runtime.start("welcome", "Ada").id(id).await.unwrap();
    run.result::<String>().await.unwrap();
}

async fn should_follow_a_run_to_its_end(service: Service) {
    let run = service.runtime.start("approval", &1).id("r1").await.unwrap();
    let mut messages = Messages::open(&service, "/runs/r1/events", None).await;
    let (_, started) = messages.next().await.unwrap();
    assert_eq!(started["attributes"]["type"], "workflows.approval.started");
    run.signal("approval", "yes").await.unwrap();
    let (position, ended) = messages.rest().await.pop().unwrap();
    assert_eq!(ended["attributes"]["type"], "workflows.approval.completed");
    assert_eq!(ended["attributes"]["position"], position);
}

async fn should_continue_after_the_last_event_without_a_gap_or_a_repeat(service: Service) {
    run(&service, "r1").await;
    let all = Messages::open(&service, "/runs/r1/events", None).await.rest().await;
    assert!(all.len() >= 4, "{all:?}");
    for (index, (position, _)) in all.iter().enumerate().take(all.len() - 1) {
        let rest = Messages::open(&service, "/runs/r1/events", Some(*position)).await.rest().await;
        assert_eq!(rest, all[index + 1..]);
        let path = format!("/runs/r1/events?after={position}");
        assert_eq!(Messages::open(&service, &path, None).await.rest().await, all[index + 1..]);
    }
    let head = service.runtime.store().unwrap().head().await.unwrap();
    let mut positions = Vec::new();
    while positions.last() != Some(&head) {
        // A client that loses its connection after every third event.
        let path = "/events/stream?after=0";
        let mut messages = Messages::open(&service, path, positions.last().copied()).await;
        for _ in 0..3 {
            if positions.last() == Some(&head) {
                break;
            }
            positions.push(messages.next().await.unwrap().0);
        }
    }
    assert_eq!(positions, (1..=head).collect::<Vec<_>>());
}

async fn should_pass_from_old_events_to_new_ones(service: Service) {
    run(&service, "r1").await;
    let mut messages = Messages::open(&service, "/events/stream?after=0", None).await;
    assert_eq!(messages.next().await.unwrap().0, 1);
    let following = async {
        let mut last = 1;
        loop {
            let (position, event) = messages.next().await.unwrap();
            assert_eq!(position, last + 1);
            last = position;
            if event["attributes"]["stream"] == "runs/r20"
                && event["attributes"]["type"] == "workflows.welcome.completed"
            {
                return;
            }
        }
    };
    let running = async {
        for number in 2..=20 {
            run(&service, &format!("r{number}")).await;
        }
    };
    tokio::join!(following, running);
}

async fn should_tell_where_a_stream_of_new_events_begins(service: Service) {
    run(&service, "r1").await;
    let head = service.runtime.store().unwrap().head().await.unwrap();
    let response = open(&service, "/events/stream", None).await;
    let first = response.into_body().into_data_stream().next().await.unwrap().unwrap();
    assert_eq!(first, format!("id: {head}\n\n"));
}

async fn should_send_only_events_that_match(service: Service) {
    let mut live =
        Messages::open(&service, "/events/stream?pattern=workflows.*.completed", None).await;
    run(&service, "r1").await;
    let (position, event) = live.next().await.unwrap();
    assert_eq!(event["attributes"]["stream"], "runs/r1");
    run(&service, "r2").await;
    let path = "/events/stream?pattern=workflows.*.completed&after=0";
    let mut again = Messages::open(&service, path, Some(position)).await;
    assert_eq!(again.next().await.unwrap().1["attributes"]["stream"], "runs/r2");
    assert_eq!(service.get("/events/stream?pattern=a..b").await.fault(), (400, "INVALID_PATTERN"));
}

async fn should_tell_browsers_to_stop_when_a_run_has_ended(service: Service) {
    run(&service, "r1").await;
    let all = Messages::open(&service, "/runs/r1/events", None).await.rest().await;
    let last = all.last().unwrap().0;
    assert_eq!(open(&service, "/runs/r1/events", Some(last)).await.status(), 204);
    assert_eq!(service.get("/runs/r2/events").await.fault(), (404, "RUN_NOT_FOUND"));
}

#[tokio::test]
async fn should_refuse_a_last_event_id_that_is_not_a_position() {
    let service = Service::in_memory().await;
    let mut get = request(Method::GET, "/events/stream", None);
    get.headers_mut().insert("last-event-id", HeaderValue::from_static("abc"));
    assert_eq!(service.send(get).await.fault(), (400, "MALFORMED_REQUEST"));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_to_follow_a_position_that_the_log_does_not_have() {
    let service = Service::in_memory().await;
    service.runtime.start("approval", &1).id("r1").await.unwrap();
    let agents = service.get("/agents").await;
    let agent = agents.body["data"][0]["id"].as_str().unwrap();
    for path in ["/events/stream", "/runs/r1/events", &format!("/agents/{agent}/events")] {
        let refused = service.get(&format!("{path}?after=1000000")).await;
        assert_eq!(refused.fault(), (400, "INVALID_CURSOR"), "{path}");
        assert!(refused.body["error"]["details"]["head"].as_u64().unwrap() < 1_000_000);
        let mut get = request(Method::GET, path, None);
        get.headers_mut().insert("last-event-id", HeaderValue::from_static("1000000"));
        assert_eq!(service.send(get).await.fault(), (400, "INVALID_CURSOR"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_streams_at_the_shutdown_and_after_their_lifetime() {
    let (shutdown, clock) = (Shutdown::new(), VirtualClock::new(Timestamp::now()));
    let options = ApiOptions::new()
        .with_shutdown(shutdown.clone())
        .with_clock(Arc::new(clock.clone()))
        .with_stream_lifetime(Duration::from_secs(60));
    let service = Service::with(options).await;
    let aged = Messages::open(&service, "/events/stream", None).await;
    clock.advance(Duration::from_secs(60));
    aged.rest().await;
    let young = Messages::open(&service, "/events/stream", None).await;
    shutdown.begin();
    young.rest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_a_stream_with_the_credentials_of_its_caller() {
    let clock = VirtualClock::new(Timestamp::now());
    let end = aios_core::clock::Clock::now(&clock) + Duration::from_secs(5);
    let key = ApiKey::new(ApiKeyHash::of("a key of this test"), "ada")
        .with_permissions(Permissions::all())
        .with_expiry(end);
    let options = ApiOptions::new()
        .with_authenticator(ApiKeys::new([key]))
        .with_clock(Arc::new(clock.clone()));
    let service = Service::with(options).await;
    let mut get = request(Method::GET, "/events/stream", None);
    get.headers_mut().insert("x-api-key", HeaderValue::from_static("a key of this test"));
    let response = service.router.clone().oneshot(get).await.unwrap();
    assert_eq!(response.status(), 200);
    clock.advance(Duration::from_secs(5));
    let ended: Vec<_> = response.into_body().into_data_stream().collect().await;
    assert!(ended.iter().all(Result::is_ok), "{:?}", json!(ended.len()));
}

/// The stream reports a permanent fault. Otherwise, the client would reconnect endlessly.
#[tokio::test(flavor = "multi_thread")]
async fn should_end_a_stream_that_cannot_be_read_with_a_failure() {
    let service = Service::on_sqlite().await;
    let start = json!({ "run_id": "r1", "input": 1 });
    assert_eq!(service.post("/workflows/approval/actions/execute", &start).await.status, 202);
    let code = "import sqlite3, sys\n\
        database = sqlite3.connect(sys.argv[1], timeout=60)\n\
        database.execute(\"UPDATE events SET payload = '{\\\"half'\")\n\
        database.commit()";
    let mut python = std::process::Command::new("python3");
    let Ok(done) = python.args(["-c", code]).arg(service.database()).status() else {
        aios_tests::skip("python3 is not installed");
        return;
    };
    assert!(done.success());
    for path in ["/events/stream?after=0", "/runs/r1/events"] {
        let body = open(&service, path, None).await.into_body();
        let text = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let text = String::from_utf8(text.to_vec()).unwrap();
        let (_, failure) =
            text.split_once("event: failure\ndata: ").unwrap_or_else(|| panic!("{text}"));
        let failure: Value = serde_json::from_str(failure).unwrap();
        assert_eq!(failure["code"], "INVALID_ROW", "{path}: {text}");
    }
}
