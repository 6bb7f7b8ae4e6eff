//! Lists by time, and the cursors of their order.

use std::{sync::Arc, time::Duration};

use aios_core::{
    event::{Event, Timestamp},
    store::{Append, EventStoreExt, Store, StreamId},
};
use aios_service::http::ApiOptions;
use aios_store::memory::MemoryStore;
use serde_json::{Value, json};

use crate::support::{Answer, Service, on_every_store};

on_every_store! {
    should_list_runs_and_tasks_of_a_time
    should_list_agents_of_a_time
    should_refuse_a_cursor_of_another_order
    should_refuse_a_cursor_of_other_filters_or_one_that_is_cut_off
    should_end_a_page_of_large_resources_early
}

async fn append(store: &dyn Store, stream: &str, event_type: &str, data: Value, at: Timestamp) {
    let event = Event::new(event_type.parse().unwrap(), "test", &data).unwrap();
    let event = event.with_timestamp(at);
    let append = Append::new(StreamId::new(stream).unwrap(), vec![event]);
    store.append_one(append).await.unwrap();
}

fn hour(number: u64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000) + Duration::from_secs(3600 * number)
}

fn ids(answer: &Answer) -> Vec<&str> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let data = answer.body["data"].as_array().unwrap().iter();
    data.map(|item| item["id"].as_str().unwrap()).collect()
}

/// A run that has ended, and a task, of each hour; their ids are in no order of time.
async fn history(service: &Service) {
    let store = service.runtime.store().unwrap();
    for number in 0..6 {
        let (run, at) = (format!("r{}", (number * 5) % 7), hour(number));
        let stream = format!("runs/{run}");
        let started = json!({ "version": 1 });
        append(&**store, &stream, "workflows.old.started", started, at).await;
        let task = json!({ "task_id": format!("{run}/1"), "attempt": 1 });
        append(&**store, &stream, "agents.gone.task_assigned", task, at).await;
        let ended = json!({ "result": number });
        append(&**store, &stream, "workflows.old.completed", ended, at).await;
    }
}

async fn should_list_runs_and_tasks_of_a_time(service: Service) {
    history(&service).await;
    let range = format!("created_after={}&created_before={}", hour(1), hour(4));
    let runs = service.get(&format!("/runs?workflow=old&{range}")).await;
    assert_eq!(ids(&runs), ["r5", "r3", "r1"]);
    let tasks = service.get(&format!("/tasks?agent_type=gone&{range}")).await;
    assert_eq!(ids(&tasks), ["r5/1", "r3/1", "r1/1"]);
    let (mut after, mut found) = (String::new(), Vec::new());
    loop {
        let path = format!("/runs?workflow=old&created_before={}&limit=2{after}", hour(9));
        let page = service.get(&path).await;
        found.extend(ids(&page).into_iter().map(ToOwned::to_owned));
        match page.body["meta"]["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(found, ["r0", "r5", "r3", "r1", "r6", "r4"]);
    let none = service.get(&format!("/runs?created_after={}&created_before={0}", hour(3))).await;
    assert!(ids(&none).is_empty());
    for path in
        ["/runs?created_after=yesterday", "/tasks?created_before=7", "/events?created_after="]
    {
        assert_eq!(service.get(path).await.fault(), (400, "MALFORMED_REQUEST"), "{path}");
    }
}

async fn should_list_agents_of_a_time(service: Service) {
    let store = service.runtime.store().unwrap();
    for number in 0..6 {
        let id = format!("a{}", (number * 5) % 7);
        let data = json!({ "agent_id": id, "name": "Ada" });
        let stream = format!("agents/{id}");
        append(&**store, &stream, "agents.old.registered", data, hour(number)).await;
    }
    let range = format!("agent_type=old&created_after={}&created_before={}", hour(1), hour(4));
    let (mut after, mut found) = (String::new(), Vec::new());
    loop {
        let page = service.get(&format!("/agents?{range}&limit=1{after}")).await;
        found.extend(ids(&page).into_iter().map(ToOwned::to_owned));
        match page.body["meta"]["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    found.sort_unstable();
    assert_eq!(found, ["a1", "a3", "a5"]);
    let refused = service.get("/agents?created_after=yesterday").await;
    assert_eq!(refused.fault(), (400, "MALFORMED_REQUEST"));
}

async fn should_refuse_a_cursor_of_another_order(service: Service) {
    history(&service).await;
    let of_a_time = format!("created_after={}&limit=1", hour(0));
    for (list, filter) in [("runs", "workflow=old"), ("tasks", "agent_type=gone")] {
        let next = async |query: &str| {
            let page = service.get(&format!("/{list}?{filter}&{query}")).await;
            page.body["meta"]["next"].as_str().unwrap().to_owned()
        };
        let (by_id, by_time) = (next("limit=1").await, next(&of_a_time).await);
        for query in [format!("after={by_time}"), format!("{of_a_time}&after={by_id}")] {
            let answer = service.get(&format!("/{list}?{query}")).await;
            assert_eq!(answer.fault(), (400, "INVALID_CURSOR"), "{query}");
        }
    }
}

async fn should_refuse_a_cursor_of_other_filters_or_one_that_is_cut_off(service: Service) {
    history(&service).await;
    for (list, filters, others) in [
        ("runs", "workflow=old", &["", "workflow=new", "workflow=old&include_deleted=true"][..]),
        ("runs", "", &["status=completed", "workflow=old"]),
        ("tasks", "agent_type=gone", &["", "agent_type=other", "agent_type=gone&run_id=r5"]),
    ] {
        let page = async |query: String| service.get(&format!("/{list}?{query}")).await;
        let first = page(format!("{filters}&limit=1")).await;
        let next = first.body["meta"]["next"].as_str().unwrap();
        let again = page(format!("{filters}&limit=2&after={next}")).await;
        assert_eq!(again.status, 200, "{again:?}");
        for other in others {
            let answer = page(format!("{other}&after={next}")).await;
            assert_eq!(answer.fault(), (400, "INVALID_CURSOR"), "{filters}: {other}");
        }
        for length in [next.len() - 1, next.len() - 2, 5] {
            let answer = page(format!("{filters}&after={}", &next[..length])).await;
            assert_eq!(answer.fault(), (400, "INVALID_CURSOR"), "{length}");
        }
    }
}

#[tokio::test]
async fn should_find_the_events_of_a_time_in_a_long_log() {
    let store = MemoryStore::new();
    let at = |number: u64| hour(0) + Duration::from_secs(60 * number);
    for number in 0..2000 {
        // Events are stored up to half an hour late.
        let shift = (number * 7919) % 30;
        let data = json!(number);
        append(&store, "orders", "orders.order.placed", data, at(number + 30 - shift)).await;
    }
    let service = Service::on(Arc::new(store), None, ApiOptions::new()).await;
    for (from, before) in [(0, 50), (500, 560), (1999, 2100), (700, 700), (900, 800)] {
        let range = format!("created_after={}&created_before={}", at(from), at(before));
        let page = service.get(&format!("/events?pattern=orders.%23&limit=1000&{range}")).await;
        assert_eq!(page.body["meta"]["next"], Value::Null);
        let shifted = (0..2000).map(|number: u64| number + 30 - (number * 7919) % 30);
        let expected = shifted.filter(|minute| (from..before).contains(minute)).count();
        let found = ids(&page).len();
        assert_eq!(found, expected, "{range}");
    }
}

/// Large resources of a list.
const LARGE: usize = 12;
/// Bytes of a large resource.
const BYTES: usize = 1_000_000;
/// Most bytes that a page of them has: 8 MiB, and the names of the attributes.
const PAGE: usize = 9_000_000;

/// Follows the pages of a list, none of which is too large. Returns the ids.
async fn all(service: &Service, path: &str) -> Vec<String> {
    let (mut after, mut found, mut pages) = (String::new(), Vec::new(), 0);
    loop {
        let page = service.get(&format!("{path}{after}")).await;
        let bytes = serde_json::to_vec(&page.body).unwrap().len();
        assert!(bytes < PAGE, "{path}: {bytes} bytes");
        found.extend(ids(&page).into_iter().map(ToOwned::to_owned));
        pages += 1;
        match page.body["meta"]["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert!(pages > 1, "{path}");
    found
}

/// Appends all events of a run at once, so that no engine sees it open.
async fn append_run(store: &dyn Store, run: &str, events: Vec<(&str, Value)>) {
    let events = events.into_iter().map(|(event_type, data)| {
        let event = Event::new(event_type.parse().unwrap(), "test", &data).unwrap();
        event.with_timestamp(hour(0))
    });
    let stream = StreamId::new(format!("runs/{run}")).unwrap();
    store.append_one(Append::new(stream, events.collect())).await.unwrap();
}

async fn should_end_a_page_of_large_resources_early(service: Service) {
    let store = service.runtime.store().unwrap();
    let text = "a".repeat(BYTES);
    let started = || ("workflows.old.started", json!({ "version": 1 }));
    let ended = || ("workflows.old.completed", json!({ "result": text }));
    let signaled = ("workflows.old.signaled", json!({ "name": "go", "payload": text }));
    let mut events = vec![signaled; LARGE];
    events.insert(0, started());
    events.push(("workflows.old.completed", json!({ "result": 1 })));
    append_run(&**store, "large", events).await;
    for number in 0..LARGE {
        append_run(&**store, &format!("large-{number:02}"), vec![started(), ended()]).await;
    }
    let journal = all(&service, "/runs/large/journal?limit=1000").await;
    assert_eq!(journal.len(), LARGE + 2);
    let runs = all(&service, "/runs?workflow=old&limit=1000").await;
    assert_eq!(runs.len(), LARGE + 1);
    let by_time = format!("/runs?workflow=old&created_before={}&limit=1000", hour(1));
    assert_eq!(all(&service, &by_time).await.len(), LARGE + 1);
    let log = all(&service, "/events?pattern=workflows.old.*&limit=1000").await;
    assert_eq!(log.len(), 3 * LARGE + 2);
}
